"""One argument made wrong: a mechanism's parameter, the length of an attribute, a pointer that is NULL.

Pure but for what hypothesis draws; knows what is described (`worker`), not what a call does with it.
"""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pyha.cryptoki import constants as ck
from tests.differential.material import Described
from tests.differential.worker import Null

UNKNOWN = 0x80000001
"""A mechanism and an attribute that nobody has."""

_ENDLESS = 2**64 - 1
_lengths = st.sampled_from([1, 8, 16, _ENDLESS])
_numbers = st.sampled_from([0, 1, 7, 129, 999, _ENDLESS])


@st.composite
def parameters(draw: st.DrawFn, right: Described) -> Described:
    """A mechanism with a parameter that it does not have, or that is too short, too long, NULL or full of nonsense."""
    kind, parameter = right
    if draw(st.integers(0, 7)) == 7:
        return draw(st.sampled_from([UNKNOWN, ck.CKM_SHA256, ck.CKM_RSA_PKCS_KEY_PAIR_GEN])), parameter
    if parameter is None:
        return kind, draw(st.sampled_from([b"junk", bytes(16), Null(1), Null(_ENDLESS)]))
    whole = bytes(16) if not isinstance(parameter, bytes) else parameter
    odd = [None, Null(len(whole)), Null(_ENDLESS), whole[:-1], whole + b"\0", b"\1", bytes(1000)]
    if isinstance(parameter, tuple) and draw(st.booleans()):
        return kind, draw(_fields(parameter))
    return kind, draw(st.sampled_from(odd))


@st.composite
def _fields(draw: st.DrawFn, right: tuple[Any, ...]) -> tuple[Any, ...]:
    """A structure with one member that is wrong. Two numbers stand for a pointer and its length."""
    at = draw(st.integers(0, len(right) - 1))
    field = right[at]
    if isinstance(field, int):
        wrong: tuple[Any, ...] = (draw(_numbers),)
    elif isinstance(field, bytes):
        wrong = draw(st.sampled_from([(b"",), (field[:-1],), (field + b"\0",), (len(field) or 1, 0)]))
    else:
        content = field[1]
        made = [("pointer", b""), ("pointer", content[:-1]), ("pointer", content + b"x")]
        wrong = draw(st.sampled_from([(each,) for each in made] + [(0, len(content) or 1), (0, _ENDLESS)]))
    return (*right[:at], *wrong, *right[at + 1 :])


@st.composite
def templates(draw: st.DrawFn, right: Sequence[tuple[int, Any]]) -> tuple[tuple[int, Any], ...]:
    """A template with one attribute whose value is too short, too long, or NULL with a length."""
    if not right:
        return ((draw(st.sampled_from([ck.CKA_ID, ck.CKA_CLASS, ck.CKA_TOKEN])), Null(draw(_lengths))),)
    at = draw(st.integers(0, len(right) - 1))
    attribute, value = right[at]
    wrong = [*values(value), Null(draw(_lengths))]
    return (*right[:at], (attribute, draw(st.sampled_from(wrong))), *right[at + 1 :])


def values(right: bool | int | bytes) -> list[Any]:
    """Values for an attribute in place of this one: too short, too long, or NULL with its length."""
    if isinstance(right, bool):
        return [b"", Null(1), bytes([right, 0]), bytes([right]) * 8, b"\2"]
    if isinstance(right, int):
        packed = right.to_bytes(8, "little")
        return [b"", Null(8), packed[:4], packed[:1], packed + b"\0", packed[:7]]
    return [b"", Null(len(right) or 1), right[:-1], right + b"\0", right * 100]


def now_and_then(right: Any, wrong: SearchStrategy[Any], times: int = 9) -> SearchStrategy[Any]:
    """`right` so many times of `times` + 1."""
    return st.integers(0, times).flatmap(lambda at: wrong if at == times else st.just(right))


def initialize_arguments() -> Sequence[bytes | None]:
    """CK_C_INITIALIZE_ARGS that a module takes or refuses; callbacks that are called are not among them."""

    def words(*values: int) -> bytes:
        return b"".join(value.to_bytes(8, "little") for value in values)

    return (
        *(None, None, None, words(0, 0, 0, 0, 0, 0), words(0, 0, 0, 0, 2, 0)),
        *(words(0, 0, 0, 0, 2, 1), words(1, 0, 0, 0, 0, 0), words(1, 1, 1, 0, 2, 0)),
    )
