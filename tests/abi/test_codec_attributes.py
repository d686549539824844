"""Templates and queries: attribute arrays on their way in, and answered in place."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyha.abi.codec import Codec, Malformed, Refused
from pyha.abi.memory import OUT_LIMIT, UNAVAILABLE
from pyha.abi.native import ffi
from pyha.abi.queries import Laid
from pyha.cryptoki.constants import (
    CKA_ALLOWED_MECHANISMS,
    CKA_ID,
    CKA_LABEL,
    CKA_UNWRAP_TEMPLATE,
    CKA_VALUE,
    CKA_WRAP_TEMPLATE,
    CKR_ARGUMENTS_BAD,
    CKR_ATTRIBUTE_SENSITIVE,
    CKR_ATTRIBUTE_TYPE_INVALID,
    CKR_ATTRIBUTE_VALUE_INVALID,
    CKR_BUFFER_TOO_SMALL,
    CKR_DEVICE_ERROR,
    CKR_OK,
)
from pyha.cryptoki.values import Attribute, Found, Query
from tests.abi.codec_memory import FRESH, NULL, Application, Arena, address, codec_of, written

CKA_NSS_TRUST = 0xCE536351

plain = st.builds(Attribute, st.sampled_from([CKA_ID, CKA_LABEL, CKA_VALUE, CKA_NSS_TRUST]), st.binary(max_size=60))
arrays = st.sampled_from([CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE])
templates = st.recursive(
    st.lists(plain, max_size=4).map(tuple),
    lambda inner: st.lists(plain | st.builds(Attribute, arrays, inner), max_size=4).map(tuple),
    max_leaves=6,
)


def depth(template: Sequence[Attribute]) -> int:
    return 1 + max((depth(each.value) for each in template if isinstance(each.value, tuple)), default=0)


def in_c(app: Application, template: Sequence[Attribute]) -> Any:
    """The template as an application has it."""
    entries = []
    for each in template:
        if isinstance(each.value, tuple):
            entries.append((each.type, in_c(app, each.value), 24 * len(each.value)))
        else:
            entries.append((each.type, app.bytes(each.value), len(each.value)))
    return app.attributes(*entries)


def seen(arena: Arena, at: int, count: int) -> tuple[Attribute, ...]:
    """The template as the callee sees it."""
    template = []
    for kind, value, length in arena.attributes(at, count):
        if kind in (CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE):
            assert length % 24 == 0
            template.append(Attribute(kind, seen(arena, value, length // 24)))
        else:
            template.append(Attribute(kind, arena.get(value, length)))
    return tuple(template)


def decode_template(entries: Any, count: int, app: Application) -> list[Any]:
    return codec_of("C_FindObjectsInit").decode(
        app.struct("C_FindObjectsInit", session=1, template=entries, template_count=count)
    )


def refusal_of(*entries: tuple[int, Any, int]) -> int:
    app = Application()
    with pytest.raises(Refused) as refusal:
        decode_template(app.attributes(*entries), len(entries), app)
    return refusal.value.rv


@given(templates.filter(lambda template: depth(template) <= 4))
def test_templates_arrive(template: tuple[Attribute, ...]) -> None:
    app, codec = Application(), codec_of("C_FindObjectsInit")
    values = decode_template(in_c(app, template), len(template), app)
    arena = written(codec, values)
    assert arena.words[2] == len(template)
    assert arena.words[1] != 0
    assert seen(arena, arena.words[1], len(template)) == template


def test_no_template_is_not_an_empty_one() -> None:
    app, codec = Application(), codec_of("C_FindObjectsInit")
    values = decode_template(ffi.NULL, 0, app)
    assert values[1] == ()
    arena = written(codec, values)
    assert (arena.words[1], arena.words[2]) == (0, 0)


def test_two_templates_do_not_meet() -> None:
    codec = codec_of("C_CopyObject")
    template = (Attribute(CKA_LABEL, b"x" * 33), Attribute(CKA_WRAP_TEMPLATE, (Attribute(CKA_ID, b"id"),)))
    arena = written(codec, [1, 2, template, None])
    assert seen(arena, arena.words[2], 2) == template
    assert arena.ulong(arena.words[4]) == 0


def test_five_levels_are_refused() -> None:
    template: tuple[Attribute, ...] = ()
    for _ in range(4):
        template = (Attribute(CKA_WRAP_TEMPLATE, template),)
    app = Application()
    with pytest.raises(Refused) as refusal:
        decode_template(in_c(app, template), 1, app)
    assert refusal.value.rv == CKR_ARGUMENTS_BAD


def test_an_array_that_contains_itself_is_refused() -> None:
    app = Application()
    entries = app.attributes((CKA_WRAP_TEMPLATE, NULL, 24))
    entries[0].pValue = entries
    with pytest.raises(Refused) as refusal:
        decode_template(entries, 1, app)
    assert refusal.value.rv == CKR_ARGUMENTS_BAD


def test_many_arrays_that_are_one_array_are_refused_before_they_multiply() -> None:
    app = Application()
    inner = app.attributes(*[(CKA_ID, NULL, 0)] * 1000)
    entries = app.attributes(*[(CKA_WRAP_TEMPLATE, inner, 24_000)] * 1000)
    with pytest.raises(Refused) as refusal:
        decode_template(entries, 1000, app)
    assert refusal.value.rv == CKR_ARGUMENTS_BAD


@pytest.mark.parametrize("kind", [CKA_LABEL, CKA_WRAP_TEMPLATE])
@pytest.mark.parametrize(
    ("pointer", "length", "rv"),
    [
        (False, 24, CKR_ATTRIBUTE_VALUE_INVALID),
        (False, UNAVAILABLE, CKR_ATTRIBUTE_VALUE_INVALID),
        (True, UNAVAILABLE, CKR_ATTRIBUTE_VALUE_INVALID),
        (True, 2**32, CKR_ARGUMENTS_BAD),
        (True, UNAVAILABLE - 1, CKR_ARGUMENTS_BAD),
    ],
)
def test_impossible_values(kind: int, pointer: bool, length: int, rv: int) -> None:
    assert refusal_of((kind, ffi.new("CK_ATTRIBUTE[2]") if pointer else NULL, length)) == rv


def test_part_of_an_attribute_is_no_attribute() -> None:
    assert refusal_of((CKA_WRAP_TEMPLATE, ffi.new("CK_ATTRIBUTE[2]"), 25)) == CKR_ATTRIBUTE_VALUE_INVALID


def test_together_too_long() -> None:
    entry = (CKA_VALUE, ffi.new("unsigned char[1]"), 2**31)
    assert refusal_of(entry, entry, entry) == CKR_ARGUMENTS_BAD


def test_allowed_mechanisms_and_vendors_attributes_are_bytes() -> None:
    app = Application()
    entries = app.attributes((CKA_ALLOWED_MECHANISMS, app.bytes(b"12345678"), 8), (CKA_NSS_TRUST, app.bytes(b"a"), 1))
    _, template = decode_template(entries, 2, app)
    assert [bytes(each.value) for each in template] == [b"12345678", b"a"]


class Asked:
    """C_GetAttributeValue of an application, and the member's side of it."""

    def __init__(self, *entries: tuple[int, Any, int]) -> None:
        self.app, self.codec = Application(), codec_of("C_GetAttributeValue")
        self.entries = self.app.attributes(*entries)
        self.struct = self.app.struct(
            "C_GetAttributeValue", session=1, object=2, query=self.entries, query_count=len(entries)
        )
        self.values = self.codec.decode(self.struct)
        self.arena = written(self.codec, self.values)
        self.at = self.arena.words[2]

    def answer(self, *answers: bytes | int, at: int | None = None) -> None:
        """The member answers each attribute with a value, or with a length only."""
        at = self.at if at is None else at
        for index, answer in enumerate(answers):
            _, value, _ = self.arena.attributes(at, index + 1)[index]
            if isinstance(answer, bytes):
                self.arena.put(value, answer)
                answer = len(answer)
            self.arena.put_ulong(at + 24 * index + 16, answer)

    def read(self, rv: int) -> tuple[Found, ...] | None:
        found: tuple[Found, ...] | None = self.codec.read(self.arena, self.values, rv)[2]
        return found

    def encode(self, found: tuple[Found, ...] | None, rv: int) -> int:
        return self.codec.encode(self.struct, self.values, [None, None, found], rv)

    def lengths(self) -> list[int]:
        return [entry.ulValueLen for entry in self.entries]


def test_a_query_is_answered() -> None:
    memory = ffi.new("unsigned char[]", b"........")
    asked = Asked((CKA_LABEL, memory, 8), (CKA_ID, NULL, 99), (CKA_VALUE, ffi.new("unsigned char[4]"), 4))
    assert asked.values[2] == (Query(CKA_LABEL, 8), Query(CKA_ID, None), Query(CKA_VALUE, 4))
    (_, label, room), (_, pointer, length), _ = asked.arena.attributes(asked.at, 3)
    assert asked.arena.get(label, room) == FRESH * 8
    assert (pointer, length) == (0, 0)
    asked.answer(b"label", 20, UNAVAILABLE)
    found = asked.read(CKR_ATTRIBUTE_SENSITIVE)
    assert found == (Found(CKA_LABEL, 5, b"label"), Found(CKA_ID, 20), Found(CKA_VALUE, None))
    assert asked.encode(found, CKR_ATTRIBUTE_SENSITIVE) == CKR_ATTRIBUTE_SENSITIVE
    assert asked.lengths() == [5, 20, UNAVAILABLE]
    assert ffi.string(memory) == b"label..."


@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 20), st.booleans()), max_size=8))
def test_any_query(cases: list[tuple[bytes, int, bool]]) -> None:
    memories = [ffi.new("unsigned char[]", len(value) + spare + 1) for value, spare, _ in cases]
    entries = [
        (CKA_VALUE, memory if given else NULL, len(value) + spare)
        for memory, (value, spare, given) in zip(memories, cases, strict=True)
    ]
    asked = Asked(*entries)
    asked.answer(*(value if given else len(value) for value, _, given in cases))
    assert asked.encode(asked.read(CKR_OK), CKR_OK) == CKR_OK
    for memory, length, (value, spare, has_room) in zip(memories, asked.lengths(), cases, strict=False):
        assert length == len(value)
        assert bytes(ffi.buffer(memory)) == (value if has_room else b"\0" * len(value)) + b"\0" * (spare + 1)


@pytest.mark.parametrize("attribute", [CKA_VALUE, CKA_NSS_TRUST])
def test_what_may_be_a_key_is_never_a_python_value(attribute: int) -> None:
    """Free memory of the interpreter is not wiped."""
    memory = ffi.new("unsigned char[]", b"........")
    asked = Asked((attribute, memory, 8), (CKA_LABEL, ffi.new("unsigned char[4]"), 4))
    asked.answer(b"secret", b"it")
    found = asked.read(CKR_OK)
    assert found == (Found(attribute, 6), Found(CKA_LABEL, 2, b"it"))
    assert asked.encode(found, CKR_OK) == CKR_OK
    assert asked.lengths() == [6, 2]
    assert ffi.string(memory) == b"secret.."


def _read(codec: Codec, arena: Arena, values: list[Any], rv: int) -> list[Any] | None:
    """None for what cannot be believed."""
    try:
        return codec.read(arena, values, rv)
    except Malformed:
        return None


@given(st.lists(st.tuples(st.binary(max_size=40) | st.integers(0, 60), st.integers(0, 40)), max_size=8), st.booleans())
def test_what_is_laid_out_once_is_asked_and_answered_as_any_query(
    cases: list[tuple[bytes | int, int]], complete: bool
) -> None:
    """`cases`: what the member answers, a value or a length alone, and the room for it."""
    query = tuple(Query(CKA_VALUE, max(room, len(said) if isinstance(said, bytes) else 0)) for said, room in cases)
    codec, first = codec_of("C_GetAttributeValue"), CKR_OK if complete else CKR_DEVICE_ERROR
    told = []
    laid = Laid(query)
    for queries in (query, laid, laid):
        values = [1, 2, queries]
        arena = written(codec, values)
        at = arena.words[2]
        assert arena.words[3] == len(query)
        asked = arena.attributes(at, len(query))
        for index, (said, _) in enumerate(cases):
            if isinstance(said, bytes):
                arena.put(asked[index][1], said)
            length = len(said) if isinstance(said, bytes) else UNAVAILABLE - said if said > 40 else said
            arena.put_ulong(at + 24 * index + 16, length)
        told.append(
            (codec.size(values), asked, [_read(codec, arena, values, rv) for rv in (first, CKR_ATTRIBUTE_SENSITIVE)])
        )
    assert told[0] == told[1] == told[2]


def test_after_any_other_error_nothing_is_read_or_written() -> None:
    asked = Asked((CKA_LABEL, ffi.new("unsigned char[4]"), 4))
    asked.answer(b"evil")
    assert asked.read(CKR_DEVICE_ERROR) is None
    assert asked.encode((Found(CKA_LABEL, 1, b"x"),), CKR_DEVICE_ERROR) == CKR_DEVICE_ERROR
    assert asked.lengths() == [4]


def test_a_value_that_was_changed_and_no_longer_fits() -> None:
    memory = ffi.new("unsigned char[]", b"....")
    asked = Asked((CKA_LABEL, memory, 4), (CKA_ID, NULL, 0))
    assert asked.encode((Found(CKA_LABEL, 3, b"abc"), Found(CKA_ID, 3, b"abc")), CKR_OK) == CKR_OK
    assert asked.lengths() == [3, 3]
    changed = (Found(CKA_LABEL, 5, b"12345"), Found(CKA_ID, None))
    assert asked.encode(changed, CKR_ATTRIBUTE_TYPE_INVALID) == CKR_BUFFER_TOO_SMALL
    assert asked.lengths() == [UNAVAILABLE, UNAVAILABLE]
    assert ffi.string(memory) == b"abc."


def test_a_member_that_names_the_length_it_would_need() -> None:
    asked = Asked((CKA_LABEL, ffi.new("unsigned char[4]"), 4))
    asked.answer(200)
    found = asked.read(CKR_BUFFER_TOO_SMALL)
    assert found == (Found(CKA_LABEL, 200),)
    with pytest.raises(Malformed, match="200 bytes reported for 4"):
        asked.read(CKR_OK)


@pytest.mark.parametrize("length", [2**32, UNAVAILABLE - 1])
def test_a_length_that_cannot_be(length: int) -> None:
    asked = Asked((CKA_LABEL, NULL, 0))
    asked.answer(length)
    assert asked.read(CKR_BUFFER_TOO_SMALL) == (Found(CKA_LABEL, None),)
    with pytest.raises(Malformed):
        asked.read(CKR_OK)


def test_room_beyond_belief_is_clamped() -> None:
    codec, app = codec_of("C_GetAttributeValue"), Application()
    entries = app.attributes((CKA_LABEL, app.bytes(b"x"), UNAVAILABLE))
    values = codec.decode(app.struct("C_GetAttributeValue", session=1, object=2, query=entries, query_count=1))
    assert values[2] == (Query(CKA_LABEL, OUT_LIMIT),)


def test_a_member_that_moves_the_pointers_gains_nothing() -> None:
    secret, memory = ffi.new("unsigned char[]", b"SECRET!"), ffi.new("unsigned char[]", b"......")
    asked = Asked((CKA_LABEL, memory, 6))
    asked.answer(b"public")
    asked.arena.put_ulong(asked.at + 8, address(secret))
    asked.arena.put_ulong(asked.at, CKA_WRAP_TEMPLATE)
    assert asked.read(CKR_OK) == (Found(CKA_LABEL, 6, b"public"),)


def test_nested_arrays_in_three_steps() -> None:
    """The size of the array, then the sizes in it, then the values (PKCS #11 2.40 section 5.7)."""
    asked = Asked((CKA_WRAP_TEMPLATE, NULL, 0))
    asked.answer(48)
    assert asked.read(CKR_OK) == (Found(CKA_WRAP_TEMPLATE, 48),)

    inner = ffi.new("CK_ATTRIBUTE[2]")
    asked = Asked((CKA_WRAP_TEMPLATE, inner, 48))
    assert asked.values[2][0].nested == (Query(0, None), Query(0, None))
    at = asked.arena.attributes(asked.at, 1)[0][1]
    asked.answer(48)
    asked.answer(2, 5, at=at)
    asked.arena.put_ulong(at, CKA_ID)
    asked.arena.put_ulong(at + 24, CKA_LABEL)
    found = asked.read(CKR_OK)
    assert found == (Found(CKA_WRAP_TEMPLATE, 48, (Found(CKA_ID, 2), Found(CKA_LABEL, 5))),)
    assert asked.encode(found, CKR_OK) == CKR_OK
    assert [(each.type, each.ulValueLen) for each in inner] == [(CKA_ID, 2), (CKA_LABEL, 5)]

    memories = [ffi.new("unsigned char[]", b"....."), ffi.new("unsigned char[]", b".....")]
    for each, memory in zip(inner, memories, strict=True):
        each.pValue, each.ulValueLen = memory, 5
    asked = Asked((CKA_WRAP_TEMPLATE, inner, 48), (CKA_VALUE, NULL, 0))
    at = asked.arena.attributes(asked.at, 1)[0][1]
    asked.answer(48, 32)
    asked.answer(b"id", b"label", at=at)
    found = asked.read(CKR_OK)
    assert asked.encode(found, CKR_OK) == CKR_OK
    assert [each.ulValueLen for each in inner] == [2, 5]
    assert [ffi.string(memory) for memory in memories] == [b"id...", b"label"]
    assert asked.lengths() == [48, 32]


def test_a_nested_array_that_is_shorter_or_longer_than_its_room() -> None:
    inner = ffi.new("CK_ATTRIBUTE[2]", [(CKA_ID, NULL, 7), (CKA_ID, NULL, 7)])
    asked = Asked((CKA_WRAP_TEMPLATE, inner, 48), (CKA_LABEL, ffi.new("unsigned char[5]"), 5))
    asked.answer(24, b"after")
    asked.answer(2, at=asked.arena.attributes(asked.at, 1)[0][1])
    found = asked.read(CKR_OK)
    assert found == (Found(CKA_WRAP_TEMPLATE, 24, (Found(CKA_ID, 2),)), Found(CKA_LABEL, 5, b"after"))
    assert asked.encode(found, CKR_OK) == CKR_OK
    assert asked.lengths() == [24, 5]
    assert [each.ulValueLen for each in inner] == [2, 7]
    changed = (Found(CKA_WRAP_TEMPLATE, 24, (Found(CKA_LABEL, 5, b"label"),)), Found(CKA_LABEL, 5, b"after"))
    inner[0].pValue = ffi.NULL
    assert asked.encode(changed, CKR_OK) == CKR_OK
    assert (inner[0].type, inner[0].ulValueLen) == (CKA_LABEL, 5)
    three = (Found(CKA_WRAP_TEMPLATE, 72, (Found(CKA_ID, 1),) * 3), Found(CKA_LABEL, None))
    assert asked.encode(three, CKR_OK) == CKR_BUFFER_TOO_SMALL
    assert asked.lengths() == [UNAVAILABLE, UNAVAILABLE]


def test_a_nested_value_that_no_longer_fits() -> None:
    memory = ffi.new("unsigned char[]", b"..")
    inner = ffi.new("CK_ATTRIBUTE[1]", [(CKA_ID, memory, 2)])
    asked = Asked((CKA_WRAP_TEMPLATE, inner, 24))
    found = (Found(CKA_WRAP_TEMPLATE, 24, (Found(CKA_ID, 3, b"abc"),)),)
    assert asked.encode(found, CKR_OK) == CKR_BUFFER_TOO_SMALL
    assert (asked.lengths(), inner[0].ulValueLen, ffi.string(memory)) == ([24], UNAVAILABLE, b"..")


@pytest.mark.parametrize(("asked_for", "answered"), [(CKA_ID, CKA_WRAP_TEMPLATE), (CKA_WRAP_TEMPLATE, CKA_ID)])
def test_addresses_of_the_arena_never_come_out_as_a_value(asked_for: int, answered: int) -> None:
    room = ffi.new("CK_ATTRIBUTE[1]")
    inner = ffi.new("CK_ATTRIBUTE[1]", [(asked_for, room, 24)])
    asked = Asked((CKA_WRAP_TEMPLATE, inner, 24))
    at = asked.arena.attributes(asked.at, 1)[0][1]
    asked.answer(24)
    asked.answer(24, at=at)
    asked.arena.put_ulong(at, answered)
    assert asked.read(CKR_OK) == (Found(CKA_WRAP_TEMPLATE, 24, (Found(answered, None),)),)


def test_nested_room_that_is_not_whole_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        Asked((CKA_WRAP_TEMPLATE, ffi.new("CK_ATTRIBUTE[2]"), 47))
    assert refusal.value.rv == CKR_ARGUMENTS_BAD
