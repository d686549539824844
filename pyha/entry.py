"""Placeholder until the entry is written: every call answers CKR_FUNCTION_NOT_SUPPORTED."""

from typing import Any

from pyha.abi.native import ffi


@ffi.def_extern()  # type: ignore[untyped-decorator]
def pyha_dispatch(index: int, arguments: Any, rv: Any) -> None:
    """Answers one call."""
    rv[0] = 0x54
