"""A codec's five methods for one function, written out: no loop over the arguments, no look at what a form is like.

Knows how the methods of `Codec` call the forms, and says nothing of its own about an argument. The source of the
functions is put together from the function's forms and compiled; a codec asks for it once its function is used often.

For C_Sign, whose forms are a word, `Bytes` and `OutBytes`, `write` reads:

    def write(arena, values):
        memory, there, words = arena.buffer, arena.there, arena.words
        offset = write_2(memory, there, words, 16, values[2])
        words[0] = values[0]
        offset = write_1(memory, there, words, offset, values[1])
        return offset
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyha.abi.form import Form, Word
from pyha.abi.memory import LENGTH_LIMIT, Refused
from pyha.abi.native import ffi
from pyha.cryptoki.constants import CKR_HOST_MEMORY

Order = Sequence[tuple[int, Form]]


def unrolled(
    forms: Sequence[Form],
    order: Order,
    heads: int,
    struct: Any,
    fields: Callable[[Any], tuple[Any, ...]],
    required: Sequence[int],
) -> Mapping[str, Any]:
    """The methods by name, to be called as those of `Codec` are. `order`: that of writing, (position, form);
    `heads`: bytes that the forms' fixed rooms take; `struct`: the C type of the packed arguments; `fields`: takes them
    apart; `required`: those that must not be NULL."""
    names: dict[str, Any] = {
        "cast": ffi.cast,
        "struct": struct,
        "fields_of": fields,
        "Refused": Refused,
        "LENGTH_LIMIT": LENGTH_LIMIT,
        "CKR_HOST_MEMORY": CKR_HOST_MEMORY,
    }
    for position, form in enumerate(forms):
        for method in ("decode", "span", "write", "read", "encode"):
            names[f"{method}_{position}"] = getattr(form, method)
    lines = [*_decode(forms, required), *_size(order, heads), *_write(order, heads)]
    lines += [*_read(forms, order, heads), *_encode(order)]
    made: dict[str, Any] = {}
    exec("\n".join(lines), names, made)
    return made


def _decode(forms: Sequence[Form], required: Sequence[int]) -> list[str]:
    values = ", ".join(
        f"fields[{form.at}]" if type(form) is Word else f"decode_{position}(fields)"
        for position, form in enumerate(forms)
    )
    lines = ["def decode(arguments):", " fields = fields_of(cast(struct, arguments))"]
    if required:
        missing = " or ".join(f"not fields[{at}]" for at in required)
        lines += [f" if {missing}:", "  raise Refused()"]
    return [*lines, f" return [{values}]"]


def _size(order: Order, heads: int) -> list[str]:
    spans = "".join(f" + span_{position}(values[{position}])" for position, form in order if form.varies)
    if not spans:
        return ["def size(values):", f" return {heads}"]
    check = [" if size >= LENGTH_LIMIT:", "  raise Refused(CKR_HOST_MEMORY)"]
    return ["def size(values):", f" size = {heads}{spans}", *check, " return size"]


def _write(order: Order, heads: int) -> list[str]:
    lines = ["def write(arena, values):", " memory, there, words = arena.buffer, arena.there, arena.words"]
    offset: int | str = heads
    for position, form in order:
        value = f"values[{position}]"
        if type(form) is Word:
            lines.append(f" words[{form.at}] = {value}")
            continue
        lines.append(f" offset = write_{position}(memory, there, words, {offset}, {value})")
        offset = "offset"
    return [*lines, f" return {offset}"]


def _read(forms: Sequence[Form], order: Order, heads: int) -> list[str]:
    lines = ["def read(arena, values, rv):"]
    offset = str(heads)
    for position, form in order:
        if form.returns:  # these come first
            lines.append(f" r{position} = read_{position}(arena.buffer, arena.here, {offset}, values[{position}], rv)")
            if form.varies:
                offset += f" + span_{position}(values[{position}])"
    results = ", ".join(f"r{position}" if form.returns else "None" for position, form in enumerate(forms))
    return [*lines, f" return [{results}]"]


def _encode(order: Order) -> list[str]:
    lines = ["def encode(arguments, values, results, rv):"]
    for position, form in order:
        if form.returns:
            lines.append(f" if results[{position}] is not None:")
            given = f"cast(struct, arguments), values[{position}], results[{position}], rv"
            lines.append(f"  rv = encode_{position}({given})")
    return [*lines, " return rv"]
