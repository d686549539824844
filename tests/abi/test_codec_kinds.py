"""Each kind on its way from the application to a member and back."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyha.abi.codec import Malformed, Refused
from pyha.abi.memory import COUNT_LIMIT, OUT_LIMIT
from pyha.abi.native import ffi
from pyha.abi.pins import Pin, keep
from pyha.cryptoki.constants import (
    CKF_OS_LOCKING_OK,
    CKR_ARGUMENTS_BAD,
    CKR_BUFFER_TOO_SMALL,
    CKR_DEVICE_ERROR,
    CKR_FUNCTION_NOT_SUPPORTED,
    CKR_HOST_MEMORY,
    CKR_OK,
)
from pyha.cryptoki.values import InitializeArgs, MemberInitialize, Out
from tests.abi.codec_memory import NULL, Application, Arena, address, codec_of, written

content = st.binary(max_size=300)
word = st.integers(0, 2**64 - 1)


@given(word, content)
def test_input_bytes_and_words_arrive(session: int, data: bytes) -> None:
    app, codec = Application(), codec_of("C_SignUpdate")
    values = codec.decode(app.struct("C_SignUpdate", session=session, data=app.bytes(data), data_len=len(data)))
    arena = written(codec, values)
    assert arena.words[0] == session
    assert arena.get(arena.words[1], arena.words[2]) == data
    assert codec.read(arena, values, CKR_OK) == [None, None]


def test_null_with_length_0_stays_null_and_an_address_with_length_0_stays_an_address() -> None:
    app, codec = Application(), codec_of("C_SignUpdate")
    values = codec.decode(app.struct("C_SignUpdate", session=1, data=NULL, data_len=0))
    assert values == [1, None]
    assert list(written(codec, values).words[0:3]) == [1, 0, 0]
    values = codec.decode(app.struct("C_SignUpdate", session=1, data=app.bytes(b""), data_len=0))
    arena = written(codec, values)
    assert arena.get(arena.words[1], 0) == b""
    assert arena.words[2] == 0


def test_input_is_a_view_until_it_is_written() -> None:
    app, codec = Application(), codec_of("C_SignUpdate")
    data = app.bytes(b"before")
    values = codec.decode(app.struct("C_SignUpdate", session=1, data=data, data_len=6))
    ffi.buffer(data, 6)[:] = b"after!"
    arena = written(codec, values)
    assert arena.get(arena.words[1], 6) == b"after!"


@given(content, content, st.integers(0, 40))
def test_output_goes_to_the_applications_buffer(data: bytes, result: bytes, spare: int) -> None:
    app, codec = Application(), codec_of("C_Encrypt")
    capacity = len(result) + spare
    memory, length = app.bytes(b"\xee" * (capacity + 8)), app.new("CK_ULONG *", capacity)
    struct = app.struct(
        "C_Encrypt", session=7, data=app.bytes(data), data_len=len(data), result=memory, result_len=length
    )
    values = codec.decode(struct)
    assert values[2].capacity == capacity
    arena = written(codec, values)
    assert arena.get(arena.words[1], arena.words[2]) == data
    assert arena.ulong(arena.words[4]) == capacity
    arena.put(arena.words[3], result)
    arena.put_ulong(arena.words[4], len(result))
    results = codec.read(arena, values, CKR_OK)
    assert results == [None, None, (len(result), None)]
    assert codec.encode(struct, values, results, CKR_OK) == CKR_OK
    assert length[0] == len(result)
    assert bytes(ffi.buffer(memory, capacity + 8)) == result + b"\xee" * (spare + 8)


def test_output_in_place_of_the_input() -> None:
    app, codec = Application(), codec_of("C_Encrypt")
    memory, length = app.bytes(b"plain text"), app.new("CK_ULONG *", 10)
    struct = app.struct("C_Encrypt", session=7, data=memory, data_len=10, result=memory, result_len=length)
    values = codec.decode(struct)
    arena = written(codec, values)
    arena.put(arena.words[3], b"encrypted!")
    assert arena.get(arena.words[1], 10) == b"plain text"
    codec.encode(struct, values, codec.read(arena, values, CKR_OK), CKR_OK)
    assert bytes(ffi.buffer(memory, 10)) == b"encrypted!"


@pytest.mark.parametrize(("memory", "rv"), [(False, CKR_OK), (True, CKR_BUFFER_TOO_SMALL)])
def test_the_length_alone(memory: bool, rv: int) -> None:
    app, codec = Application(), codec_of("C_SignFinal")
    buffer, length = app.bytes(b"1234"), app.new("CK_ULONG *", 4)
    struct = app.struct("C_SignFinal", session=7, result=buffer if memory else NULL, result_len=length)
    values = codec.decode(struct)
    arena = written(codec, values)
    assert (arena.words[1] != 0) is memory
    arena.put_ulong(arena.words[2], 256)
    results = codec.read(arena, values, rv)
    assert results == [None, (256, None)]
    assert codec.encode(struct, values, results, rv) == rv
    assert length[0] == 256
    assert bytes(ffi.buffer(buffer, 4)) == b"1234"


def test_nothing_is_written_back_after_an_error() -> None:
    app, codec = Application(), codec_of("C_SignFinal")
    buffer, length = app.bytes(b"1234"), app.new("CK_ULONG *", 4)
    struct = app.struct("C_SignFinal", session=7, result=buffer, result_len=length)
    values = codec.decode(struct)
    arena = written(codec, values)
    arena.put(arena.words[1], b"evil")
    arena.put_ulong(arena.words[2], 2)
    results = codec.read(arena, values, CKR_DEVICE_ERROR)
    assert results == [None, None]
    assert codec.encode(struct, values, results, CKR_DEVICE_ERROR) == CKR_DEVICE_ERROR
    assert (length[0], bytes(ffi.buffer(buffer, 4))) == (4, b"1234")


def test_room_beyond_belief_is_clamped_and_a_result_in_between_is_an_honest_error() -> None:
    app, codec = Application(), codec_of("C_SignFinal")
    length = app.new("CK_ULONG *", 2**64 - 1)
    struct = app.struct("C_SignFinal", session=7, result=app.bytes(b"1234"), result_len=length)
    values = codec.decode(struct)
    assert (values[1].capacity, values[1].offered) == (OUT_LIMIT, 2**64 - 1)
    results = [None, (OUT_LIMIT + 1, None)]
    assert codec.encode(struct, values, results, CKR_BUFFER_TOO_SMALL) == CKR_HOST_MEMORY
    assert length[0] == 2**64 - 1
    assert codec.encode(struct, values, [None, (3, None)], CKR_OK) == CKR_OK
    assert length[0] == 3


def test_room_for_as_much_as_goes_in_is_believed() -> None:
    app, codec = Application(), codec_of("C_Encrypt")
    length = app.new("CK_ULONG *", OUT_LIMIT + 16)
    struct = app.struct(
        "C_Encrypt", session=7, data=app.bytes(b""), data_len=OUT_LIMIT, result=app.bytes(b""), result_len=length
    )
    out = codec.decode(struct)[2]
    assert (out.capacity, out.offered) == (OUT_LIMIT + 16, None)


def test_our_own_calls_get_bytes() -> None:
    codec = codec_of("C_Sign")
    values = [3, b"digest", Out(64)]
    arena = written(codec, values)
    assert arena.get(arena.words[1], 6) == b"digest"
    arena.put(arena.words[3], b"signature")
    arena.put_ulong(arena.words[4], 9)
    assert codec.read(arena, values, CKR_OK) == [None, None, (9, b"signature")]
    codec = codec_of("C_GenerateRandom")
    arena = written(codec, [3, Out(8)])
    arena.put(arena.words[1], b"12345678")
    assert codec.read(arena, [3, Out(8)], CKR_OK) == [None, b"12345678"]


def test_our_own_answer_follows_the_protocol() -> None:
    app, codec = Application(), codec_of("C_GetOperationState")
    buffer, length = app.bytes(b"...."), app.new("CK_ULONG *", 4)
    struct = app.struct("C_GetOperationState", session=1, state=buffer, state_len=length)
    values = codec.decode(struct)
    assert codec.encode(struct, values, [None, (5, b"12345")], CKR_OK) == CKR_BUFFER_TOO_SMALL
    assert (length[0], bytes(ffi.buffer(buffer, 4))) == (5, b"....")
    assert codec.encode(struct, values, [None, (3, b"abc")], CKR_OK) == CKR_OK
    assert (length[0], bytes(ffi.buffer(buffer, 4))) == (3, b"abc.")


@given(st.binary(min_size=1, max_size=100))
def test_fill(random: bytes) -> None:
    app, codec = Application(), codec_of("C_GenerateRandom")
    memory = app.bytes(b"\0" * len(random) + b"guard")
    struct = app.struct("C_GenerateRandom", session=1, random=memory, random_len=len(random))
    values = codec.decode(struct)
    arena = written(codec, values)
    assert arena.words[2] == len(random)
    arena.put(arena.words[1], random)
    codec.encode(struct, values, codec.read(arena, values, CKR_OK), CKR_OK)
    assert bytes(ffi.buffer(memory, len(random) + 5)) == random + b"guard"


def test_nothing_is_filled_after_an_error() -> None:
    app, codec = Application(), codec_of("C_GenerateRandom")
    memory = app.bytes(b"before")
    values = codec.decode(app.struct("C_GenerateRandom", session=1, random=memory, random_len=6))
    arena = written(codec, values)
    arena.put(arena.words[1], b"after!")
    assert codec.read(arena, values, CKR_DEVICE_ERROR) == [None, None]
    assert bytes(ffi.buffer(memory, 6)) == b"before"


def test_more_than_any_arena_holds_is_refused_before_it_is_asked_for() -> None:
    codec = codec_of("C_Sign")
    data = ffi.buffer(ffi.cast("uint8_t *", 4096), 2**32 - 1)
    with pytest.raises(Refused) as refusal:
        codec.size([1, data, Out(16)])
    assert refusal.value.rv == CKR_HOST_MEMORY


@pytest.mark.parametrize("room", [COUNT_LIMIT + 1, 2**64 - 1])
def test_a_search_is_answered_in_parts(room: int) -> None:
    app, codec = Application(), codec_of("C_FindObjects")
    memory, count = app.new("CK_ULONG *"), app.new("CK_ULONG *")
    struct = app.struct("C_FindObjects", session=1, objects=memory, objects_max=room, objects_count=count)
    assert codec.decode(struct) == [1, COUNT_LIMIT]


def test_handles_are_read_back() -> None:
    app, codec = Application(), codec_of("C_GenerateKeyPair")
    public, private = app.new("CK_ULONG *"), app.new("CK_ULONG *")
    struct = app.struct(
        "C_GenerateKeyPair",
        session=1,
        mechanism=app.new("CK_MECHANISM *", (0, NULL, 0)),
        public_template=NULL,
        public_template_count=0,
        private_template=NULL,
        private_template_count=0,
        public_key=public,
        private_key=private,
    )
    values = codec.decode(struct)
    arena = written(codec, values)
    arena.put_ulong(arena.words[6], 11)
    with pytest.raises(Malformed, match="private_key: success without a handle"):
        codec.read(arena, values, CKR_OK)
    arena.put_ulong(arena.words[7], 12)
    results = codec.read(arena, values, CKR_OK)
    assert results[-2:] == [11, 12]
    codec.encode(struct, values, results, CKR_OK)
    assert (public[0], private[0]) == (11, 12)


@given(st.lists(word.filter(bool), max_size=20), st.integers(0, 5))
def test_objects(found: list[int], spare: int) -> None:
    app, codec = Application(), codec_of("C_FindObjects")
    room = len(found) + spare
    memory, count = app.new("CK_ULONG[]", [9] * (room + 1)), app.new("CK_ULONG *")
    struct = app.struct("C_FindObjects", session=1, objects=memory, objects_max=room, objects_count=count)
    values = codec.decode(struct)
    arena = written(codec, values)
    arena.put_ulong(arena.words[1], *found)
    arena.put_ulong(arena.words[3], len(found))
    results = codec.read(arena, values, CKR_OK)
    assert results[1] == tuple(found)
    codec.encode(struct, values, results, CKR_OK)
    assert list(memory) == found + [9] * (spare + 1)
    assert count[0] == len(found)


@pytest.mark.parametrize(("room", "rv", "entries"), [(None, CKR_OK, [0] * 4), (2, CKR_BUFFER_TOO_SMALL, [0] * 4)])
def test_a_list_that_is_not_given(room: int | None, rv: int, entries: list[int]) -> None:
    app, codec = Application(), codec_of("C_GetSlotList")
    memory, count = app.new("CK_ULONG[4]"), app.new("CK_ULONG *", room or 0)
    struct = app.struct("C_GetSlotList", present=1, slots=NULL if room is None else memory, slots_count=count)
    values = codec.decode(struct)
    assert values == [1, room]
    assert codec.encode(struct, values, [None, (3, (5, 6, 7))], CKR_OK) == rv
    assert (count[0], list(memory)) == (3, entries)


def test_a_list_that_fits() -> None:
    app, codec = Application(), codec_of("C_GetMechanismList")
    memory, count = app.new("CK_ULONG[4]"), app.new("CK_ULONG *", 4)
    struct = app.struct("C_GetMechanismList", slot=1, mechanisms=memory, mechanisms_count=count)
    values = codec.decode(struct)
    arena = written(codec, values)
    assert arena.ulong(arena.words[2]) == 4
    arena.put_ulong(arena.words[1], 1, 2, 3)
    arena.put_ulong(arena.words[2], 3)
    results = codec.read(arena, values, CKR_OK)
    assert results == [None, (3, (1, 2, 3))]
    assert codec.encode(struct, values, results, CKR_OK) == CKR_OK
    assert (count[0], list(memory)) == (3, [1, 2, 3, 0])


def test_structures_are_filled() -> None:
    app, codec = Application(), codec_of("C_GetTokenInfo")
    memory = app.new("CK_TOKEN_INFO *")
    struct = app.struct("C_GetTokenInfo", slot=1, info=memory)
    values = codec.decode(struct)
    arena = written(codec, values)
    raw = bytes(range(208))
    arena.put(arena.words[1], raw)
    assert codec.read(arena, values, CKR_DEVICE_ERROR) == [None, None]
    results = codec.read(arena, values, CKR_OK)
    assert results == [None, raw]
    codec.encode(struct, values, results, CKR_OK)
    assert bytes(ffi.buffer(memory)) == raw


def kept(content: bytes) -> Pin:
    """A PIN as it is kept for members that return."""
    return keep(ffi.from_buffer(content), len(content))


@pytest.mark.parametrize("make", [kept, bytes, bytearray, memoryview])
def test_pins(make: Callable[[bytes], Any]) -> None:
    codec = codec_of("C_SetPIN")
    arena = written(codec, [1, make(b"old pin"), make(b"the new one, which is longer")])
    assert arena.get(arena.words[1], arena.words[2]) == b"old pin"
    assert arena.get(arena.words[3], arena.words[4]) == b"the new one, which is longer"


def test_no_pin_is_the_protected_path() -> None:
    app, codec = Application(), codec_of("C_Login")
    values = codec.decode(app.struct("C_Login", session=1, user=1, pin=NULL, pin_len=0))
    assert values == [1, 1, None]
    assert list(written(codec, values).words[0:4]) == [1, 1, 0, 0]


def test_a_kept_pin_never_leaves_the_arena() -> None:
    codec = codec_of("C_Login")
    arena = Arena(16)
    with pytest.raises(ValueError, match="too small"):
        codec.write(arena, [1, 1, kept(b"x" * 17)])
    assert arena.intact()


def test_initialize_arguments() -> None:
    app, codec = Application(), codec_of("C_Initialize")
    assert codec.decode(app.struct("C_Initialize", init_args=NULL)) == [None]
    callback = ffi.cast("CK_LOCKMUTEX", 0x1234)
    arguments = app.new("CK_C_INITIALIZE_ARGS *", {"LockMutex": callback, "flags": 3, "pReserved": app.bytes(b"x")})
    decoded = codec.decode(app.struct("C_Initialize", init_args=arguments))
    assert decoded == [InitializeArgs(3, 1, address(arguments.pReserved))]


@pytest.mark.parametrize("reserved", [None, b"", b"configdir='sql:/tmp' flags=noDB"])
def test_a_member_is_initialized_with_os_locking(reserved: bytes | None) -> None:
    codec = codec_of("C_Initialize")
    arena = written(codec, [MemberInitialize(reserved)])
    raw = ffi.new("CK_C_INITIALIZE_ARGS *")
    ffi.buffer(raw)[:] = arena.get(arena.words[0], ffi.sizeof("CK_C_INITIALIZE_ARGS"))
    assert (raw.CreateMutex, raw.DestroyMutex, raw.LockMutex, raw.UnlockMutex) == (NULL,) * 4
    assert raw.flags == CKF_OS_LOCKING_OK
    if reserved is None:
        assert raw.pReserved == NULL
    else:
        assert arena.get(address(raw.pReserved), len(reserved) + 1) == reserved + b"\0"
    assert written(codec, [None]).words[0] == 0


def test_no_callback_travels() -> None:
    app, codec = Application(), codec_of("C_OpenSession")
    struct = app.struct(
        "C_OpenSession",
        slot=1,
        flags=4,
        notify_data=app.bytes(b"mine"),
        notify=ffi.cast("CK_NOTIFY", 0x1234),
        new_session=app.new("CK_ULONG *"),
    )
    values = codec.decode(struct)
    assert values == [1, 4, None, None]
    assert list(written(codec, values).words[0:4]) == [1, 4, 0, 0]


def test_labels() -> None:
    app, codec = Application(), codec_of("C_InitToken")
    label = b"a token".ljust(32)
    struct = app.struct("C_InitToken", slot=1, pin=app.bytes(b"so"), pin_len=2, label=app.bytes(label))
    values = codec.decode(struct)
    assert values[2] == label
    arena = written(codec, values)
    assert arena.get(arena.words[3], 32) == label


def test_a_message_parameter_never_travels() -> None:
    app, codec = Application(), codec_of("C_SignMessageBegin")
    parameter = app.bytes(b"opaque")
    values = codec.decode(app.struct("C_SignMessageBegin", session=1, parameter=parameter, parameter_len=6))
    assert values == [1, (address(parameter), 6)]
    with pytest.raises(Refused) as refusal:
        codec.write(Arena(64), values)
    assert refusal.value.rv == CKR_FUNCTION_NOT_SUPPORTED


def test_reserved_pointers_are_null() -> None:
    app, codec = Application(), codec_of("C_Finalize")
    assert codec.decode(app.struct("C_Finalize", reserved=NULL)) == [0]
    with pytest.raises(Refused) as refusal:
        codec.decode(app.struct("C_Finalize", reserved=app.bytes(b"x")))
    assert refusal.value.rv == CKR_ARGUMENTS_BAD


@pytest.mark.parametrize(
    ("name", "values", "length_word", "lie"),
    [
        ("C_SignFinal", [1, Out(8)], 2, 9),
        ("C_SignFinal", [1, Out(8)], 2, 2**64 - 1),
        ("C_SignFinal", [1, Out(None)], 2, 2**32),
        ("C_FindObjects", [1, 3], 3, 4),
        ("C_GetSlotList", [1, 3], 2, 4),
        ("C_GetSlotList", [1, None], 2, 2**40),
        ("C_GetMechanismList", [1, 3], 2, 2**61),
    ],
)
def test_a_member_that_lies_about_a_length_is_found_out(
    name: str, values: list[Any], length_word: int, lie: int
) -> None:
    codec = codec_of(name)
    arena = written(codec, values)
    arena.put_ulong(arena.words[length_word], lie)
    with pytest.raises(Malformed, match=f"^{name} "):
        codec.read(arena, values, CKR_OK)
