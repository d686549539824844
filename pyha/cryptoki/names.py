"""The specification's name of a constant's value, for logs and for the operator.

Pure; derived from `constants`, so that a name stands in one place only.
"""

from functools import cache

from pyha.cryptoki import constants


@cache
def _by_value(prefix: str) -> dict[int, str]:
    named = [(value, name) for name, value in vars(constants).items() if name.startswith(prefix)]
    return dict(reversed(named))


def name_of(prefix: str, value: int) -> str:
    """`name_of("CKR_", 5)` is "CKR_GENERAL_ERROR"; a value without a name is its hexadecimal number."""
    return _by_value(prefix).get(value, f"{prefix}{value:#x}")


def rv_name(rv: int) -> str:
    """The name of a CK_RV."""
    return name_of("CKR_", rv)
