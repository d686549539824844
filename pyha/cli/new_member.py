"""A member as a command's arguments name it: a PKCS #11 URI, the environment of its helper, its module's own argument.

Source: docs/configuration.md (`[[group.member]]`).
"""

from collections.abc import Iterable, Sequence

from pyha.cli.errors import Mistake
from pyha.ha.settings import Role
from pyha.runtime import schema, uri
from pyha.runtime.settings import MemberSettings


def from_uri(
    text: str, environment: Iterable[str], reserved: Iterable[str], role: Role = Role.ACTIVE
) -> MemberSettings:
    """`environment`: NAME=VALUE each. `reserved`: MODULE=STRING each; counts where MODULE is this member's. Raises
    Mistake."""
    try:
        address = uri.parse(text)
    except uri.UriError as error:
        raise Mistake(f"{_without_pin(text)} is no PKCS #11 URI of a token: {error}") from None
    if address.pin_value is not None:
        raise Mistake("a URI with pin-value is refused, because the configuration is not secret: use pin-source")
    for complaint in schema.uri_complaints(address):
        raise Mistake(f"{text}: {complaint}")
    assert address.module_path is not None
    values = dict(_pair(each, "--environment", "NAME=VALUE") for each in environment)
    own = dict(_pair(each, "--reserved", "MODULE=STRING") for each in reserved).get(address.module_path)
    name = schema.default_name(address) or text
    return MemberSettings(address, name, role, reserved=own, environment=values)


def require_used(reserved: Iterable[str], members: Sequence[MemberSettings]) -> None:
    """Raises Mistake where the argument is for a module that no member has."""
    for each in reserved:
        module, _ = _pair(each, "--reserved", "MODULE=STRING")
        if all(member.uri.module_path != module for member in members):
            raise Mistake(f"--reserved is for {module}, which is the module-path of no member")


def _without_pin(text: str) -> str:
    return text.partition("pin-value")[0]


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise Mistake(f"{option} {text} is not {form}")
    return name, value
