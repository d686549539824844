"""A codec that is used often is written out for its function: it does what the loops do, for every function."""

from typing import Any

import pytest

from pyha.abi import codec as codec_module
from pyha.abi.codec import FORMS, Codec, Malformed, Refused
from pyha.abi.native import ffi
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import FUNCTIONS, Function
from pyha.cryptoki.mechanisms import MECHANISMS
from pyha.cryptoki.values import MemberInitialize
from tests.abi.codec_memory import Application, Arena

DECODED = [function for function in FUNCTIONS if all(argument.kind in FORMS for argument in function.arguments)]


def outcome(work: Any, *given: Any) -> Any:
    """What a method gives, or raises; Buffers by their content."""
    try:
        result = work(*given)
    except (Refused, Malformed) as refusal:
        return type(refusal), str(refusal)
    return [bytes(one) if isinstance(one, ffi.buffer) else one for one in result] if type(result) is list else result


def packed(app: Application, function: Function, address: Any) -> Any:
    """The function's arguments: every pointer this address, every number 8, or 0 with a NULL address."""
    arguments = app.new(f"struct pyha_args_{function.name} *")
    for name, field in ffi.typeof(arguments[0]).fields:
        if field.type.kind != "primitive":
            setattr(arguments, name, ffi.cast(field.type, address))
        elif address:
            setattr(arguments, name, 8)
    return ffi.cast("void *", arguments)


@pytest.mark.parametrize("function", DECODED, ids=lambda function: function.name)
@pytest.mark.parametrize("null", [True, False], ids=["NULL", "memory"])
def test_it_does_what_the_loops_do(function: Function, null: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Application()
    memory = app.new("unsigned char[4096]")
    if function.name == "C_Initialize":
        memory[40] = 1  # flags; no callback
    arguments = packed(app, function, ffi.NULL if null else memory)
    loops, written_out = Codec(function, MECHANISMS), Codec(function, MECHANISMS)
    with monkeypatch.context() as at_once:
        at_once.setattr(codec_module, "_HOT", 1)
        written_out._used()
    loops._uses = codec_module._HOT
    assert "decode" not in loops.__dict__
    assert written_out.__dict__.keys() >= {"decode", "size", "write", "read", "encode"}
    decoded = outcome(loops.decode, arguments)
    assert outcome(written_out.decode, arguments) == decoded
    if type(decoded) is tuple:
        return
    values = loops.decode(arguments)
    if function.name == "C_Initialize":
        values = [MemberInitialize(b"x")]
    size = outcome(loops.size, values)
    assert outcome(written_out.size, values) == size
    one, other = Arena(size), Arena(size)
    assert outcome(loops.write, one, values) == outcome(written_out.write, other, values)
    assert bytes(one.buffer) == bytes(other.buffer)
    assert list(one.words) == list(other.words)
    for rv in (ck.CKR_OK, ck.CKR_BUFFER_TOO_SMALL, ck.CKR_GENERAL_ERROR):
        results = outcome(loops.read, one, values, rv)
        assert outcome(written_out.read, one, values, rv) == results
        if type(results) is list:
            answers = []
            for each in (loops, written_out):
                ffi.buffer(memory)[:] = bytes(4096)
                answers.append((each.encode(arguments, values, results, rv), bytes(ffi.buffer(memory))))
            assert answers[0] == answers[1]
