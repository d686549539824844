"""Mechanisms and their parameters: every pointer followed, every output brought back, no handle forgotten."""

from struct import pack, pack_into, unpack_from
from typing import Any

import pytest

from pyha.abi.codec import Codecs, Refused
from pyha.abi.mechanisms import PARAMETER_LIMIT
from pyha.abi.native import ffi
from pyha.cryptoki.constants import (
    CKM_AES_CBC,
    CKM_AES_GCM,
    CKM_DSA_PROBABLISTIC_PARAMETER_GEN,
    CKM_ECDH1_DERIVE,
    CKM_HKDF_DERIVE,
    CKM_PBE_SHA1_DES3_EDE_CBC,
    CKM_PKCS5_PBKD2,
    CKM_RSA_AES_KEY_WRAP,
    CKM_RSA_PKCS,
    CKM_RSA_PKCS_OAEP,
    CKM_RSA_PKCS_PSS,
    CKM_SHA256_HMAC_GENERAL,
    CKR_ARGUMENTS_BAD,
    CKR_DEVICE_ERROR,
    CKR_MECHANISM_INVALID,
    CKR_MECHANISM_PARAM_INVALID,
    CKR_OK,
)
from pyha.cryptoki.functions import BY_NAME
from pyha.cryptoki.handles import parameter_handles, with_handles
from pyha.cryptoki.mechanisms import LOWEST_ADDRESS, MECHANISMS, Layout, Pointer, declared
from pyha.cryptoki.values import Mechanism, Out, Parameter, Region
from tests.abi.codec_memory import FRESH, NULL, Application, Arena, address, codec_of, written

CODEC = codec_of("C_SignInit")
VENDOR = 0x8000_0001


def decoded(kind: int, parameter: Any, length: int) -> Mechanism:
    app = Application()
    mechanism = app.new("CK_MECHANISM *", (kind, parameter, length))
    value: Mechanism = CODEC.decode(app.struct("C_SignInit", session=1, mechanism=mechanism, key=2))[1]
    return value


def refused(kind: int, parameter: Any, length: int) -> int:
    with pytest.raises(Refused) as refusal:
        decoded(kind, parameter, length)
    return refusal.value.rv


class Travelled:
    """A mechanism in the member's memory, its parameter given as C: numbers, pointers, and None for NULL."""

    def __init__(self, kind: int, *words: Any) -> None:
        self.parameter = ffi.new("CK_ULONG[]", [number(word) for word in words])
        self.value = decoded(kind, self.parameter, 8 * len(words))
        self.arena = written(CODEC, [1, self.value, 2])
        seen, self.at, length = unpack_from("@3Q", self.arena.get(self.arena.words[1], 24))
        assert (seen, length) == (kind, 8 * len(words))
        self.words = unpack_from(f"@{len(words)}Q", self.arena.get(self.at, length))

    def behind(self, index: int, size: int) -> bytes:
        """What the member sees behind the pointer that is the parameter's word `index`."""
        return self.arena.get(self.words[index], size)

    def returns(self, rv: int) -> None:
        """The call is over."""
        assert CODEC.read(self.arena, [1, self.value, 2], rv) == [None, None, None]


def number(word: Any) -> int:
    if word is None:
        return 0
    return word if isinstance(word, int) else address(word)


def memory(content: bytes) -> Any:
    return ffi.new("unsigned char[]", content)


def test_no_parameter() -> None:
    arena = written(CODEC, [1, decoded(CKM_RSA_PKCS, NULL, 0), 2])
    assert arena.get(arena.words[1], 24) == pack("@3Q", CKM_RSA_PKCS, 0, 0)
    assert arena.words[2] == 2


def test_plain_bytes() -> None:
    value = decoded(CKM_AES_CBC, memory(b"0123456789abcdef"), 16)
    arena = written(CODEC, [1, value, 2])
    kind, at, length = unpack_from("@3Q", arena.get(arena.words[1], 24))
    assert (kind, arena.get(at, length)) == (CKM_AES_CBC, b"0123456789abcdef")


def test_the_parameter_is_the_one_that_was_decoded() -> None:
    iv = memory(b"0123456789abcdef")
    value = decoded(CKM_AES_CBC, iv, 16)
    ffi.buffer(iv, 16)[:] = b"changed meantime"
    assert value.parameter is not None
    assert value.parameter.raw == b"0123456789abcdef"


def test_gcm_with_and_without_iv_bits() -> None:
    iv, aad = memory(b"twelve bytes"), memory(b"associated")
    sent = Travelled(CKM_AES_GCM, iv, 12, 96, aad, 10, 128)
    assert (sent.behind(0, 12), sent.behind(3, 10)) == (b"twelve bytes", b"associated")
    assert [sent.words[index] for index in (1, 2, 4, 5)] == [12, 96, 10, 128]
    sent = Travelled(CKM_AES_GCM, iv, 12, None, 0, 128)
    assert (sent.behind(0, 12), sent.words[2:]) == (b"twelve bytes", (0, 0, 128))


@pytest.mark.parametrize("words", [(0, 12, 96, 0, 0, 128), (0, 0, 0, 0, 10, 128)])
def test_null_with_a_length_never_reaches_a_member(words: tuple[int, ...]) -> None:
    assert refused(CKM_AES_GCM, ffi.new("CK_ULONG[]", words), 48) == CKR_MECHANISM_PARAM_INVALID


def test_an_empty_region_may_be_looked_at() -> None:
    sent = Travelled(CKM_AES_GCM, memory(b"twelve bytes"), 12, 96, memory(b""), 0, 128)
    assert sent.behind(3, 1) == FRESH


def test_a_result_behind_a_parameter() -> None:
    app, codec = Application(), codec_of("C_WrapKey")
    memory, length = app.bytes(b"......"), app.new("CK_ULONG *", 6)
    struct = app.struct(
        "C_WrapKey",
        session=1,
        mechanism=app.new("CK_MECHANISM *", (CKM_AES_CBC, app.bytes(b"0123456789abcdef"), 16)),
        wrapping_key=2,
        key=3,
        result=memory,
        result_len=length,
    )
    values = codec.decode(struct)
    arena = written(codec, values)
    assert arena.get(unpack_from("@Q", arena.get(arena.words[1], 24), 8)[0], 16) == b"0123456789abcdef"
    arena.put(arena.words[4], b"wrap")
    arena.put_ulong(arena.words[5], 4)
    codec.encode(struct, values, codec.read(arena, values, CKR_OK), CKR_OK)
    assert (ffi.string(memory), length[0]) == (b"wrap..", 4)


def test_oaep_and_pss() -> None:
    label = memory(b"label")
    assert Travelled(CKM_RSA_PKCS_OAEP, 0x250, 2, 1, label, 5).behind(3, 5) == b"label"
    assert Travelled(CKM_RSA_PKCS_OAEP, 0x250, 2, 1, None, 0).words == (0x250, 2, 1, 0, 0)
    assert Travelled(CKM_RSA_PKCS_PSS, 0x250, 2, 32).words == (0x250, 2, 32)


def test_ecdh() -> None:
    shared, public = memory(b"info"), memory(b"\x04point")
    sent = Travelled(CKM_ECDH1_DERIVE, 2, 4, shared, 6, public)
    assert (sent.behind(2, 4), sent.behind(4, 6)) == (b"info", b"\x04point")


@pytest.mark.parametrize("by_pointer", [False, True])
def test_pbkdf2_in_its_two_forms(by_pointer: bool) -> None:
    salt, password, length = memory(b"salt"), memory(b"password"), ffi.new("CK_ULONG *", 8)
    sent = Travelled(CKM_PKCS5_PBKD2, 1, salt, 4, 1000, 4, None, 0, password, length if by_pointer else 8)
    assert (sent.behind(1, 4), sent.behind(7, 8)) == (b"salt", b"password")
    assert (sent.arena.ulong(sent.words[8]) if by_pointer else sent.words[8]) == 8


def test_no_address_of_the_application_travels_beside_a_null() -> None:
    length = ffi.new("CK_ULONG *", 0)
    sent = Travelled(CKM_PKCS5_PBKD2, 1, None, 0, 1000, 4, None, 0, None, length)
    assert sent.arena.ulong(sent.words[8]) == 0


def test_a_structure_in_a_structure() -> None:
    label = memory(b"label")
    oaep = ffi.new("CK_ULONG[]", [0x250, 2, 1, address(label), 5])
    sent = Travelled(CKM_RSA_AES_KEY_WRAP, 256, oaep)
    inner = unpack_from("@5Q", sent.behind(1, 40))
    assert inner[:3] == (0x250, 2, 1)
    assert sent.arena.get(inner[3], inner[4]) == b"label"


def test_an_output_comes_back_on_success_only() -> None:
    iv, password, salt = memory(b"...iv..."), memory(b"pw"), memory(b"sa")
    sent = Travelled(CKM_PBE_SHA1_DES3_EDE_CBC, iv, password, 2, salt, 2, 1000)
    assert sent.behind(0, 8) == b"\0" * 8
    sent.arena.put(sent.words[0], b"returned")
    sent.returns(CKR_DEVICE_ERROR)
    assert ffi.string(iv) == b"...iv..."
    sent.returns(CKR_OK)
    assert ffi.string(iv) == b"returned"
    assert ffi.string(password) == b"pw"


def test_a_plain_field_comes_back() -> None:
    seed = memory(b"................")
    sent = Travelled(CKM_DSA_PROBABLISTIC_PARAMETER_GEN, 0x220, seed, 16, 7)
    sent.arena.put(sent.words[1], b"the seed")
    sent.arena.put_ulong(sent.at + 16, 8)
    sent.arena.put_ulong(sent.at, 999)
    sent.returns(CKR_OK)
    assert list(sent.parameter) == [0x220, address(seed), 8, 7]
    assert ffi.string(seed) == b"the seed"


def test_our_own_mechanism_needs_no_application() -> None:
    out = Parameter(b"\0" * 24, (Region(0, Out(8)), Region(8, b"in")), back=((16, 8),))
    arena = written(CODEC, [1, Mechanism(VENDOR, out), 2])
    assert CODEC.read(arena, [1, Mechanism(VENDOR, out), 2], CKR_OK) == [None, None, None]


@pytest.mark.parametrize(
    ("kind", "parameter", "length", "rv"),
    [
        (VENDOR, None, 0, CKR_MECHANISM_INVALID),
        (CKM_AES_CBC, None, 0, CKR_MECHANISM_PARAM_INVALID),
        (CKM_AES_CBC, None, 16, CKR_MECHANISM_PARAM_INVALID),
        (CKM_AES_CBC, b"x" * 15, 15, CKR_MECHANISM_PARAM_INVALID),
        (CKM_AES_CBC, b"x" * 16, 2**64 - 1, CKR_MECHANISM_PARAM_INVALID),
        (CKM_RSA_PKCS, b"x", 1, CKR_MECHANISM_PARAM_INVALID),
        (CKM_RSA_PKCS_OAEP, b"x" * 40, 39, CKR_MECHANISM_PARAM_INVALID),
        (CKM_SHA256_HMAC_GENERAL, b"x" * 8, 4, CKR_MECHANISM_PARAM_INVALID),
    ],
)
def test_what_is_refused(kind: int, parameter: bytes | None, length: int, rv: int) -> None:
    assert refused(kind, NULL if parameter is None else memory(parameter), length) == rv


def test_a_mechanism_must_be_there() -> None:
    with pytest.raises(Refused) as refusal:
        CODEC.decode(Application().struct("C_SignInit", session=1, mechanism=NULL, key=2))
    assert refusal.value.rv == CKR_ARGUMENTS_BAD


def test_declared_mechanisms() -> None:
    app = Application()
    none, flat = VENDOR, VENDOR + 1
    codec = Codecs(MECHANISMS | {none: declared("none"), flat: declared("flat")}).of(BY_NAME["C_DigestInit"])

    def decode(kind: int, content: bytes) -> Mechanism:
        mechanism = app.new("CK_MECHANISM *", (kind, app.bytes(content) if content else NULL, len(content)))
        value: Mechanism = codec.decode(app.struct("C_DigestInit", session=1, mechanism=mechanism))[1]
        return value

    assert decode(none, b"").parameter is None
    assert decode(flat, b"").parameter is None
    parameter = decode(flat, b"seven b").parameter
    assert parameter is not None
    assert parameter.raw == b"seven b"
    for kind, content in ((none, b"x"), (flat, b"x" * (PARAMETER_LIMIT + 1))):
        with pytest.raises(Refused) as refusal:
            decode(kind, content)
        assert refusal.value.rv == CKR_MECHANISM_PARAM_INVALID


# Every row of the table of mechanisms

LAYOUTS = [(kind, layout) for kind, row in MECHANISMS.items() for layout in row.layouts]
WITH_POINTERS = [(kind, layout) for kind, layout in LAYOUTS if layout.pointers]


def name(value: int | Layout) -> str:
    return MECHANISMS[value].name if isinstance(value, int) else str(min(value.sizes, default=1))


class Filled:
    """A parameter of any layout, each pointer leading to bytes of its own."""

    def __init__(self, layout: Layout) -> None:
        self.kept: list[Any] = []
        self.contents: dict[int, bytes] = {}
        self.layout = layout
        self.raw = ffi.new("unsigned char[]", max(min(layout.sizes, default=1), 1))
        self.nested: dict[int, Filled] = {}
        for index, pointer in enumerate(layout.pointers):
            self._fill(index, pointer)

    def _fill(self, index: int, pointer: Pointer) -> None:
        length = 3 + index if pointer.length is None else pointer.length
        if pointer.length_at is not None:
            pack_into("@Q", ffi.buffer(self.raw), pointer.length_at, 8 * length if pointer.bits else length)
        if pointer.nested is not None:
            self.nested[pointer.at] = target = Filled(pointer.nested)
            place = target.raw
        else:
            self.contents[pointer.at] = bytes([65 + index]) * length
            place = ffi.new("unsigned char[]", self.contents[pointer.at] + b".")
        self.kept.append(place)
        pack_into("@Q", ffi.buffer(self.raw), pointer.at, address(place))

    def check(self, arena: Arena, at: int) -> None:
        """What the member sees at `at` is this, outputs being empty."""
        raw = arena.get(at, len(ffi.buffer(self.raw)))
        for pointer in self.layout.pointers:
            (place,) = unpack_from("@Q", raw, pointer.at)
            if pointer.at in self.nested:
                self.nested[pointer.at].check(arena, place)
            else:
                content = self.contents[pointer.at]
                assert arena.get(place, len(content)) == (b"\0" * len(content) if pointer.out else content)


@pytest.mark.parametrize(("kind", "layout"), LAYOUTS, ids=name)
def test_every_pointer_of_every_mechanism(kind: int, layout: Layout) -> None:
    filled = Filled(layout)
    value = decoded(kind, filled.raw, len(ffi.buffer(filled.raw)))
    arena = written(CODEC, [1, value, 2])
    filled.check(arena, unpack_from("@Q", arena.get(arena.words[1], 24), 8)[0])


@pytest.mark.parametrize(("kind", "layout"), WITH_POINTERS, ids=name)
def test_huge_lengths_in_every_mechanism(kind: int, layout: Layout) -> None:
    for pointer in layout.pointers:
        if pointer.length_at is None or pointer.length_is_pointer:
            continue
        filled = Filled(layout)
        pack_into("@Q", ffi.buffer(filled.raw), pointer.length_at, 2**64 - 1)
        assert refused(kind, filled.raw, len(ffi.buffer(filled.raw))) == CKR_MECHANISM_PARAM_INVALID


@pytest.mark.parametrize(("kind", "layout"), WITH_POINTERS, ids=name)
def test_null_pointers_in_every_mechanism(kind: int, layout: Layout) -> None:
    size = min(layout.sizes)
    value = decoded(kind, ffi.new("unsigned char[]", size), size)
    assert value.parameter is not None
    assert value.parameter.regions == ()


def test_a_password_length_below_the_first_address_is_a_length() -> None:
    password = memory(b"p" * (LOWEST_ADDRESS - 1))
    sent = Travelled(CKM_PKCS5_PBKD2, 1, None, 0, 1000, 4, None, 0, password, LOWEST_ADDRESS - 1)
    assert sent.behind(7, LOWEST_ADDRESS - 1) == b"p" * (LOWEST_ADDRESS - 1)


# Handles


def test_handles_in_a_parameter_are_found_and_replaced() -> None:
    info = memory(b"info")
    value = Travelled(CKM_HKDF_DERIVE, 1, 0x250, 2, None, 0, 77, info, 4).value
    assert parameter_handles(value) == (77,)
    other = with_handles(value, {77: 1234}.__getitem__)
    assert parameter_handles(other) == (1234,)
    assert parameter_handles(value) == (77,)
    arena = written(CODEC, [1, other, 2])
    at = unpack_from("@Q", arena.get(arena.words[1], 24), 8)[0]
    words = unpack_from("@8Q", arena.get(at, 64))
    assert words[5] == 1234
    assert arena.get(words[6], 4) == b"info"


def unexpected(handle: int) -> int:
    raise AssertionError(handle)


def test_no_handle_is_left_alone() -> None:
    value = Travelled(CKM_HKDF_DERIVE, 1, 0x250, 2, None, 0, 0, None, 0).value
    assert parameter_handles(value) == ()
    assert with_handles(value, unexpected) is value
    assert with_handles(Mechanism(CKM_RSA_PKCS), unexpected) == Mechanism(CKM_RSA_PKCS)


def test_handles_in_nested_structures() -> None:
    inner = Parameter(pack("@2Q", 5, 0), handles=(0, 8))
    value = Mechanism(VENDOR, Parameter(pack("@2Q", 0, 6), (Region(0, inner), Region(8, b"plain")), handles=(8,)))
    assert parameter_handles(value) == (6, 5)
    assert parameter_handles(with_handles(value, lambda handle: handle + 10)) == (16, 15)
