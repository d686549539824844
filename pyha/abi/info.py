"""The information structures as bytes: CK_INFO and its kin, packed and unpacked.

Knows their C layout and nothing else. Only LP64 without packing pragmas is served.

Source: PKCS #11 Base Specification 2.40, sections 3.1 to 3.4.
"""

from operator import attrgetter
from struct import Struct
from typing import Any, TypeVar

from pyha.cryptoki.info import Info, MechanismInfo, SessionInfo, SlotInfo, TokenInfo

_WORD, _VERSION = 0, -1

_SHAPES: dict[type, tuple[int, ...]] = {
    Info: (_VERSION, 32, _WORD, 32, _VERSION),
    SlotInfo: (64, 32, _WORD, _VERSION, _VERSION),
    TokenInfo: (32, 32, 16, 16, *[_WORD] * 11, _VERSION, _VERSION, 16),
    SessionInfo: (_WORD,) * 4,
    MechanismInfo: (_WORD,) * 3,
}
"""What each member is, in the order of the dataclass and of the C structure; a positive number is a text's size."""

_FORMATS = {_WORD: "Q", _VERSION: "BB"}


def _layout(shape: tuple[int, ...]) -> Struct:
    # The zero count at the end pads to a multiple of eight bytes, as the compiler does.
    return Struct("@" + " ".join(_FORMATS.get(size, f"{size}s") for size in shape) + " 0Q")


_LAYOUTS = {kind: _layout(shape) for kind, shape in _SHAPES.items()}

# C_GetSessionInfo is called as if it cost nothing.
_WORDS_ONLY: dict[type, Any] = {kind: attrgetter(*kind.__match_args__) for kind in (SessionInfo, MechanismInfo)}

T = TypeVar("T", Info, SlotInfo, TokenInfo, SessionInfo, MechanismInfo)


def size_of(kind: type) -> int:
    """Bytes of the C structure for a dataclass of `pyha.cryptoki.info`."""
    return _LAYOUTS[kind].size


def unpack_info(raw: bytes) -> Info:
    """CK_INFO; see `unpack`."""
    return unpack(Info, raw)


def unpack_slot_info(raw: bytes) -> SlotInfo:
    """CK_SLOT_INFO; see `unpack`."""
    return unpack(SlotInfo, raw)


def unpack_token_info(raw: bytes) -> TokenInfo:
    """CK_TOKEN_INFO; see `unpack`."""
    return unpack(TokenInfo, raw)


def unpack_session_info(raw: bytes) -> SessionInfo:
    """CK_SESSION_INFO; see `unpack`."""
    return unpack(SessionInfo, raw)


def unpack_mechanism_info(raw: bytes) -> MechanismInfo:
    """CK_MECHANISM_INFO; see `unpack`."""
    return unpack(MechanismInfo, raw)


def unpack(kind: type[T], raw: bytes) -> T:
    """The structure's bytes as a `kind`. Text that is not UTF-8 has U+FFFD in its place; padding, be it blanks or
    NULs, is dropped. Raises struct.error for bytes of another size."""
    words = iter(_LAYOUTS[kind].unpack(raw))
    values: list[Any] = []
    for size in _SHAPES[kind]:
        word = next(words)
        if size == _WORD:
            values.append(word)
        elif size == _VERSION:
            values.append((word, next(words)))
        else:
            values.append(word.decode("utf-8", "replace").rstrip(" \0"))
    return kind(*values)


def pack(value: Info | SlotInfo | TokenInfo | SessionInfo | MechanismInfo) -> bytes:
    """The structure as bytes. Texts are padded with blanks; one that is too long ends before the character that would
    not fit. Raises struct.error for numbers that do not fit."""
    kind = type(value)
    plain = _WORDS_ONLY.get(kind)
    if plain is not None:
        return _LAYOUTS[kind].pack(*plain(value))
    words: list[Any] = []
    for name, size in zip(kind.__match_args__, _SHAPES[kind], strict=True):
        member = getattr(value, name)
        if size == _WORD:
            words.append(member)
        elif size == _VERSION:
            words += member
        else:
            words.append(padded(member, size))
    return _LAYOUTS[kind].pack(*words)


def padded(text: str, size: int) -> bytes:
    """The text in exactly `size` bytes of UTF-8, blank padded, cut at a character's boundary."""
    encoded = text.encode("utf-8", "replace")[:size]
    return encoded.decode("utf-8", "ignore").encode("utf-8").ljust(size)
