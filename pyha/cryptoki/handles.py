"""The object handles inside mechanism parameters: which there are, and the same mechanism with others in their place.

Pure. A handle of one token means nothing on another, and some parameters carry one (CK_HKDF_PARAMS has a salt key).
CK_INVALID_HANDLE, which says that none is meant, is left alone.
"""

from collections.abc import Callable, Iterator
from struct import Struct

from pyha.cryptoki.plain import replace
from pyha.cryptoki.values import Mechanism, Parameter, Region

_HANDLE = Struct("@Q")


def parameter_handles(mechanism: Mechanism) -> tuple[int, ...]:
    """The object handles in the mechanism's parameter, nested structures included, in their order."""
    return () if mechanism.parameter is None else tuple(_handles(mechanism.parameter))


def with_handles(mechanism: Mechanism, translate: Callable[[int], int]) -> Mechanism:
    """The mechanism with `translate(handle)` for each of its handles; what `translate` raises goes through."""
    if mechanism.parameter is None:
        return mechanism
    parameter = _translated(mechanism.parameter, translate)
    return mechanism if parameter is mechanism.parameter else Mechanism(mechanism.type, parameter)


def _handles(parameter: Parameter) -> Iterator[int]:
    for offset in parameter.handles:
        (handle,) = _HANDLE.unpack_from(parameter.raw, offset)
        if handle:
            yield handle
    for region in parameter.regions:
        if isinstance(region.content, Parameter):
            yield from _handles(region.content)


def _translated(parameter: Parameter, translate: Callable[[int], int]) -> Parameter:
    """The parameter itself where nothing is changed, as in nearly all calls."""
    raw = parameter.raw
    for offset in parameter.handles:
        (handle,) = _HANDLE.unpack_from(raw, offset)
        if handle:
            raw = bytes(raw[:offset]) + _HANDLE.pack(translate(handle)) + bytes(raw[offset + _HANDLE.size :])
    regions = tuple(_inside(region, translate) for region in parameter.regions)
    same = raw is parameter.raw and all(new is old for new, old in zip(regions, parameter.regions, strict=True))
    return parameter if same else replace(parameter, raw=raw, regions=regions)


def _inside(region: Region, translate: Callable[[int], int]) -> Region:
    if not isinstance(region.content, Parameter):
        return region
    content = _translated(region.content, translate)
    return region if content is region.content else Region(region.offset, content)
