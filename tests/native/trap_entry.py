"""The Python part of test builds: as little as a test of the entry needs, and a way to ask it anything.

C_Digest evaluates its data as a Python expression and returns its text; C_Encrypt executes its data; C_Verify raises
what its data names; C_GenerateRandom keeps Python busy. It is built into test modules only.
"""

import builtins
from typing import Any

from pyha.abi.native import ffi, lib
from pyha.cryptoki.functions import FUNCTIONS

NAMES: dict[str, Any] = {"ffi": ffi, "lib": lib}


def _text(call: Any) -> str:
    return bytes(ffi.buffer(call.data, call.data_len)).decode()


def _answer(call: Any, text: str) -> int:
    data = text.encode()
    if len(data) > call.result_len[0]:
        return 0x150
    ffi.memmove(call.result, data, len(data))
    call.result_len[0] = len(data)
    return 0


@ffi.def_extern()
def pyha_dispatch(index: int, arguments: Any, rv: Any) -> None:
    name = FUNCTIONS[index].name
    call = ffi.cast(f"struct pyha_args_{name} *", arguments)
    if name == "C_Initialize":
        lib.pyha_set_initialized(1)
        rv[0] = 0
    elif name == "C_Finalize":
        lib.pyha_set_initialized(0)
        rv[0] = 0
    elif name == "C_Digest":
        rv[0] = _answer(call, str(eval(_text(call), NAMES)))
    elif name == "C_Encrypt":
        exec(_text(call), NAMES)
        rv[0] = 0
    elif name == "C_Verify":
        raise getattr(builtins, _text(call))("on purpose")
    elif name == "C_GenerateRandom":
        sum(number * number for number in range(2000))
        rv[0] = 0
    else:
        rv[0] = 0x54
