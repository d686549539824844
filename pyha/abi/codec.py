"""The codec: one function's arguments between the application's C memory, Python values and a member's arena.

Driven by the table alone: `FORMS` says how each Kind is handled, and a `Codec` is composed from them once a function.
Knows no function by name, no session, no member. The values' shapes are said at each Kind and in `values`.

Two rules hold everywhere. A length or a pointer, the application's or a member's, is read once, checked, and only the
checked copy used. And a member never sees an address of the application: pointers in the arena lead into the arena.

Sources: PKCS #11 Base Specification 2.40, sections 2, 5.1 and 5.2.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Protocol

from pyha.abi.buffers import Bytes, Fill, OutBytes, PinBytes
from pyha.abi.form import Form, Initialize, Label, Notify, Place, Reserved, Unread, Word, block
from pyha.abi.info import size_of
from pyha.abi.mechanisms import MechanismForm
from pyha.abi.memory import LENGTH_LIMIT, Malformed, Refused
from pyha.abi.native import ffi
from pyha.abi.queries import QueryForm
from pyha.abi.results import OutHandle, OutList, OutNumber, OutObjects
from pyha.abi.templates import TemplateForm
from pyha.abi.unrolled import unrolled
from pyha.cryptoki.constants import CKR_HOST_MEMORY
from pyha.cryptoki.functions import FUNCTIONS, Function
from pyha.cryptoki.info import Info, MechanismInfo, SessionInfo, SlotInfo, TokenInfo
from pyha.cryptoki.kinds import KINDS, Flow, Kind
from pyha.cryptoki.mechanisms import MECHANISMS, MechanismRow

__all__ = ["FORMS", "Codec", "Codecs", "Malformed", "Memory", "Refused"]

FORMS: dict[Kind, type[Form]] = {
    Kind.SLOT: Word,
    Kind.SESSION: Word,
    Kind.OBJECT: Word,
    Kind.KEY: Word,
    Kind.WRAPPING_KEY: Word,
    Kind.UNWRAPPING_KEY: Word,
    Kind.OPTIONAL_KEY: Word,
    Kind.FLAGS: Word,
    Kind.USER: Word,
    Kind.BOOL: Word,
    Kind.MECHANISM_TYPE: Word,
    Kind.MECHANISM: MechanismForm,
    Kind.BYTES: Bytes,
    Kind.PIN: PinBytes,
    Kind.PARAMETER: Unread,
    Kind.LABEL: Label,
    Kind.TEMPLATE: TemplateForm,
    Kind.QUERY: QueryForm,
    Kind.FILL: Fill,
    Kind.OUT_BYTES: OutBytes,
    Kind.OUT_OBJECT: OutHandle,
    Kind.OUT_OBJECTS: OutObjects,
    Kind.OUT_SESSION: OutHandle,
    Kind.OUT_SIZE: OutNumber,
    Kind.OUT_INFO: block(size_of(Info)),
    Kind.OUT_SLOT_INFO: block(size_of(SlotInfo)),
    Kind.OUT_TOKEN_INFO: block(size_of(TokenInfo)),
    Kind.OUT_SESSION_INFO: block(size_of(SessionInfo)),
    Kind.OUT_MECHANISM_INFO: block(size_of(MechanismInfo)),
    Kind.OUT_SLOTS: OutList,
    Kind.OUT_MECHANISMS: OutList,
    Kind.OUT_SLOT: OutNumber,
    Kind.INITIALIZE: Initialize,
    Kind.RESERVED: Reserved,
    Kind.NOTIFY: Notify,
}
"""Every kind that reaches Python. Those that the shim answers itself are not here."""


class Memory(Protocol):
    """An arena (see the link): `here` our address of it (cdata `uint8_t *`), `there` the callee's, `capacity` in
    bytes, `buffer` a writable buffer over all of it, `words` ten numbers of 64 bits that can be set. It was wiped after
    its last use: room that a member leaves unfilled is read."""

    here: Any
    there: int
    capacity: int
    buffer: Any
    words: Any


_HOT = 8
"""Uses after which a function's codec is unrolled: most functions of most programs are called once or never."""


class Codec:
    """One function's arguments. Any number of threads may use it at once."""

    def __init__(self, function: Function, mechanisms: Mapping[int, MechanismRow]) -> None:
        """Raises KeyError for a function that the shim answers itself."""
        self.function = function
        self._struct = ffi.typeof(f"struct pyha_args_{function.name} *")
        self._forms, names, required = _compose(function, mechanisms)
        self._fields = _getter(names)
        self._required = required
        self._heads = _place_heads(self._forms)
        # What is read back comes first, so that most offsets are found again without looking at the inputs.
        self._order = sorted(enumerate(self._forms), key=lambda pair: not pair[1].returns)
        self._uses = 0

    def decode(self, arguments: Any) -> list[Any]:
        """The application's arguments (cdata pointer to the packed struct), one value each; Buffers are views that
        are valid during the call. Raises Refused."""
        self._used()
        fields = self._fields(ffi.cast(self._struct, arguments))
        for at in self._required:
            if not fields[at]:
                raise Refused()
        return [form.decode(fields) for form in self._forms]

    def size(self, values: Sequence[Any]) -> int:
        """Bytes of arena that `write` takes for these values. Raises Refused(CKR_HOST_MEMORY) from LENGTH_LIMIT on."""
        size = self._heads + sum(form.span(values[position]) for position, form in self._order if form.varies)
        if size >= LENGTH_LIMIT:
            raise Refused(CKR_HOST_MEMORY)
        return size

    def write(self, arena: Memory, values: Sequence[Any]) -> int:
        """Lays the values out for the callee and fills `arena.words`. Returns the bytes used. Raises ValueError or
        struct.error where the arena is smaller than `size(values)`."""
        self._used()
        memory, there, words, offset = arena.buffer, arena.there, arena.words, self._heads
        for position, form in self._order:
            offset = form.write(memory, there, words, offset, values[position])
        return offset

    def read(self, arena: Memory, values: Sequence[Any], rv: int) -> list[Any]:
        """What the callee returned, one result an argument, None for inputs and for what `rv` says is not there.
        `values` are those that were written. Raises Malformed."""
        results: list[Any] = [None] * len(self._forms)
        here, memory, offset = arena.here, arena.buffer, self._heads
        for position, form in self._order:
            if form.returns:
                results[position] = form.read(memory, here, offset, values[position], rv)
            if form.varies:
                offset += form.span(values[position])
        return results

    def encode(self, arguments: Any, values: Sequence[Any], results: Sequence[Any], rv: int) -> int:
        """Writes results into the application's memory. Returns the CK_RV to answer: `rv`, or CKR_BUFFER_TOO_SMALL or
        CKR_HOST_MEMORY where a result has no room."""
        for position, form in self._order:
            if form.returns and results[position] is not None:
                rv = form.encode(ffi.cast(self._struct, arguments), values[position], results[position], rv)
        return rv

    def _used(self) -> None:
        """A codec that is used again and again gets the same five methods without their loops."""
        self._uses += 1
        if self._uses == _HOT:
            # Two threads may both do it; the methods are alike.
            methods = unrolled(self._forms, self._order, self._heads, self._struct, self._fields, self._required)
            self.__dict__.update(methods)


class Codecs:
    """The codec of each function, made at first use. `mechanisms`: those whose parameters may travel. `made`: those
    that there are, by the function's index; for whoever is in a hurry."""

    def __init__(self, mechanisms: Mapping[int, MechanismRow] = MECHANISMS) -> None:
        self.mechanisms = mechanisms
        self.made: list[Codec | None] = [None] * len(FUNCTIONS)

    def of(self, function: Function) -> Codec:
        """Raises KeyError for a function that the shim answers itself."""
        codec = self.made[function.index]
        if codec is None:
            # Two threads may both make one: they are alike, and the loser's is dropped.
            codec = self.made[function.index] = Codec(function, self.mechanisms)
        return codec


def _compose(
    function: Function, mechanisms: Mapping[int, MechanismRow]
) -> tuple[list[Form], list[str], tuple[int, ...]]:
    """The forms of the arguments, the names of all C parameters, and the indices of those that must not be NULL."""
    forms: list[Form] = []
    names: list[str] = []
    required: list[int] = []
    inputs = tuple(_input_lengths(function))
    for argument in function.arguments:
        spec = KINDS[argument.kind]
        fields = tuple(argument.name + suffix for _, suffix in spec.c)
        place = Place(f"{function.name} {argument.name}", fields, len(names), inputs, mechanisms)
        required += [len(names) + index for index in spec.required]
        forms.append(FORMS[argument.kind](place))
        names += fields
    return forms, names, tuple(required)


def _input_lengths(function: Function) -> list[int]:
    """Indices, among the C parameters, of the lengths of input bytes: a result may be as long as the input."""
    found: list[int] = []
    at = 0
    for argument in function.arguments:
        spec = KINDS[argument.kind]
        if spec.flow is Flow.IN and [suffix for _, suffix in spec.c] == ["", "_len"]:
            found.append(at + 1)
        at += len(spec.c)
    return found


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) == 1:
        return partial(_single, attrgetter(names[0]))
    return attrgetter(*names)


def _single(get: Callable[[Any], Any], struct: Any) -> tuple[Any, ...]:
    return (get(struct),)


def _place_heads(forms: list[Form]) -> int:
    """Gives each form its fixed place in the arena. Returns the bytes taken."""
    end = 0
    for form in forms:
        form.head = end
        end += form.room
    return end
