"""Information structures: our layout is the compiler's, and text survives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyha.abi.info import (
    pack,
    padded,
    size_of,
    unpack,
    unpack_info,
    unpack_mechanism_info,
    unpack_session_info,
    unpack_slot_info,
    unpack_token_info,
)
from pyha.abi.native import ffi
from pyha.cryptoki.info import Info, MechanismInfo, SessionInfo, SlotInfo, TokenInfo

versions = st.tuples(st.integers(0, 255), st.integers(0, 255))
words = st.integers(0, 2**64 - 1)
TOKEN = TokenInfo(
    label="HA Virtual Card",
    manufacturer="pyha",
    model="HA group",
    serial="1599447001",
    flags=0x40D,
    max_sessions=1,
    sessions=2,
    max_rw_sessions=3,
    rw_sessions=4,
    max_pin=5,
    min_pin=6,
    total_public_memory=7,
    free_public_memory=8,
    total_private_memory=9,
    free_private_memory=10,
    hardware_version=(1, 2),
    firmware_version=(3, 4),
    time="2024013123595900",
)


@pytest.mark.parametrize(
    ("kind", "ctype"),
    [
        (Info, "CK_INFO"),
        (SlotInfo, "CK_SLOT_INFO"),
        (TokenInfo, "CK_TOKEN_INFO"),
        (SessionInfo, "CK_SESSION_INFO"),
        (MechanismInfo, "CK_MECHANISM_INFO"),
    ],
)
def test_sizes(kind: type, ctype: str) -> None:
    assert size_of(kind) == ffi.sizeof(ctype)


def test_token_info_as_c_sees_it() -> None:
    seen = ffi.new("CK_TOKEN_INFO *")
    ffi.buffer(seen)[:] = pack(TOKEN)
    assert bytes(seen.label) == b"HA Virtual Card".ljust(32)
    assert bytes(seen.manufacturerID) == b"pyha".ljust(32)
    assert bytes(seen.model) == b"HA group        "
    assert bytes(seen.serialNumber) == b"1599447001      "
    assert (seen.flags, seen.ulMaxSessionCount, seen.ulFreePrivateMemory) == (0x40D, 1, 10)
    assert (seen.hardwareVersion.minor, seen.firmwareVersion.major) == (2, 3)
    assert bytes(seen.utcTime) == b"2024013123595900"
    assert unpack_token_info(pack(TOKEN)) == TOKEN


def test_the_others_as_c_sees_them() -> None:
    info = ffi.new("CK_INFO *")
    ffi.buffer(info)[:] = pack(Info((2, 40), "pyha", 0, "HA module", (0, 1)))
    assert (info.cryptokiVersion.minor, info.libraryVersion.minor) == (40, 1)
    assert bytes(info.libraryDescription) == b"HA module".ljust(32)
    slot = ffi.new("CK_SLOT_INFO *")
    ffi.buffer(slot)[:] = pack(SlotInfo("HA Virtual Card Slot", "pyha", 1, (9, 8), (7, 6)))
    assert (slot.flags, slot.hardwareVersion.major, slot.firmwareVersion.minor) == (1, 9, 6)
    session = ffi.new("CK_SESSION_INFO *")
    ffi.buffer(session)[:] = pack(SessionInfo(1, 3, 6, 0))
    assert (session.slotID, session.state, session.flags) == (1, 3, 6)
    mechanism = ffi.new("CK_MECHANISM_INFO *")
    ffi.buffer(mechanism)[:] = pack(MechanismInfo(512, 4096, 0x100))
    assert (mechanism.ulMinKeySize, mechanism.ulMaxKeySize, mechanism.flags) == (512, 4096, 0x100)


@given(versions, words, versions, words)
def test_what_is_packed_is_unpacked(version: tuple[int, int], flags: int, other: tuple[int, int], word: int) -> None:
    info = Info(version, "one", flags, "two", other)
    assert unpack_info(pack(info)) == info
    slot = SlotInfo("one", "two", flags, version, other)
    assert unpack_slot_info(pack(slot)) == slot
    session = SessionInfo(word, flags, word, flags)
    assert unpack_session_info(pack(session)) == session
    mechanism = MechanismInfo(word, flags, word)
    assert unpack_mechanism_info(pack(mechanism)) == mechanism


@given(st.text(max_size=40))
def test_padded_text_is_whole_characters(text: str) -> None:
    raw = padded(text, 32)
    assert len(raw) == 32
    clean = text.encode("utf-8", "replace").decode()
    assert clean.ljust(32).startswith(raw.decode("utf-8").rstrip(" "))


def test_a_character_is_not_cut_in_two() -> None:
    assert padded("x" * 31 + "é", 32) == b"x" * 31 + b" "
    assert padded("x" * 30 + "é", 32) == b"x" * 30 + "é".encode()


@pytest.mark.parametrize("raw", [b"label\0\0\0".ljust(32, b"\0"), b"label".ljust(32), b"label \0".ljust(32)])
def test_any_padding_is_dropped(raw: bytes) -> None:
    assert unpack_token_info(raw + b"\0" * 176).label == "label"


def test_text_that_is_not_utf_8_is_no_error() -> None:
    assert unpack(TokenInfo, b"\xff\xfe".ljust(32) + b"\0" * 176).label == "\ufffd\ufffd"
