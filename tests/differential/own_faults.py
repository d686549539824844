"""What is wrong with a call by itself, as far as its arguments tell: the codes with which the slot may answer it before
any member is asked.

Pure. A slot that gives one of these codes to a call without that fault is wrong, whatever the bare module answers.
"""

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME
from pyha.cryptoki.kinds import KINDS, Flow, Kind
from pyha.cryptoki.mechanisms import MECHANISMS
from tests.differential.calls import Call, S
from tests.differential.worker import MISSING, Null

HANDLES = {
    Kind.OBJECT: ck.CKR_OBJECT_HANDLE_INVALID,
    Kind.KEY: ck.CKR_KEY_HANDLE_INVALID,
    Kind.OPTIONAL_KEY: ck.CKR_KEY_HANDLE_INVALID,
    Kind.WRAPPING_KEY: ck.CKR_WRAPPING_KEY_HANDLE_INVALID,
    Kind.UNWRAPPING_KEY: ck.CKR_UNWRAPPING_KEY_HANDLE_INVALID,
}
_CONTENT = (Kind.BYTES, Kind.PIN, Kind.LABEL, Kind.TEMPLATE, Kind.MECHANISM, Kind.QUERY, Kind.FILL)
_OF_NULL_VALUES = (ck.CKR_ATTRIBUTE_VALUE_INVALID, ck.CKR_ARGUMENTS_BAD)
_ASKS_LENGTH = (Kind.OUT_BYTES, Kind.OUT_SLOTS, Kind.OUT_MECHANISMS)


def of_arguments(call: Call, exists: Callable[[Any], bool]) -> set[int]:
    """Codes for the arguments. `exists`: whether the symbol of an object stands for one that there is."""
    found = set()
    for kind, value in _arguments(call):
        if kind is Kind.SESSION and not isinstance(value, S):
            found.add(ck.CKR_SESSION_HANDLE_INVALID)
        elif kind in HANDLES and not exists(value):
            found.add(HANDLES[kind])
        elif kind is Kind.MECHANISM and value is not None:
            found |= _of_mechanism(*value)
        elif kind is Kind.TEMPLATE and isinstance(value, tuple):
            found |= _of_template(value, call.makes is not None)
        elif kind is Kind.INITIALIZE and value is not None:
            found |= _of_initialize(value)
        elif kind is Kind.RESERVED and value is not None:
            found.add(ck.CKR_ARGUMENTS_BAD)
        if _lacks(kind, value):
            found.add(ck.CKR_ARGUMENTS_BAD)
    return found


def misstated(call: Call) -> set[int]:
    """Codes for values of its templates that are no values."""
    templates = [value for kind, value in _arguments(call) if kind is Kind.TEMPLATE and isinstance(value, tuple)]
    return {code for each in templates for code in _of_template(each, call.makes is not None)}


def _of_template(template: tuple[tuple[int, Any], ...], makes: bool) -> set[int]:
    found = {code for _, each in template if isinstance(each, Null) for code in _OF_NULL_VALUES}
    token = dict(template).get(ck.CKA_TOKEN, False)
    odd = not isinstance(token, bool) and not (isinstance(token, bytes) and len(token) == 1)
    return found | {ck.CKR_ATTRIBUTE_VALUE_INVALID} if makes and odd else found


def writes_token(call: Call, on_token: Callable[[Any], bool]) -> bool:
    """Whether the call makes, changes or destroys a token object, or its PIN. `on_token`: whether the symbol of an
    object stands for one on the token."""
    if call.name in ("C_SetPIN", "C_InitPIN"):
        return True
    if call.makes is None and call.name not in ("C_SetAttributeValue", "C_DestroyObject"):
        return False
    for kind, value in _arguments(call):
        if kind is Kind.TEMPLATE and isinstance(value, tuple) and dict(value).get(ck.CKA_TOKEN):
            return True
        if kind in HANDLES and on_token(value):
            return True
    return False


def _arguments(call: Call) -> Iterator[tuple[Kind, Any]]:
    kinds = (argument.kind for argument in BY_NAME[call.name].arguments)
    return zip(kinds, call.arguments, strict=True)


def _of_mechanism(kind: int, parameter: Any) -> set[int]:
    row = MECHANISMS.get(kind)
    if row is None:
        return {ck.CKR_MECHANISM_INVALID}
    if isinstance(parameter, Null):
        fits = not parameter.length and row.absent
    elif not parameter:
        fits = row.absent
    elif isinstance(parameter, bytes):
        fits = row.layout_for(len(parameter)) is not None
    else:
        layout = row.layout_for(8 * _words(parameter))
        fits = layout is not None and not (layout.pointers and _dangling(parameter))
    return set() if fits else {ck.CKR_MECHANISM_PARAM_INVALID}


def _words(structure: tuple[Any, ...]) -> int:
    return sum(1 if isinstance(field, int) else 2 for field in structure)


def _dangling(structure: tuple[Any, ...]) -> bool:
    """A NULL pointer with a length, in the order of either: described as two numbers (`wrong`)."""
    return any(
        isinstance(one, int) and isinstance(other, int) and 0 in (one, other) and one != other
        for one, other in pairwise(structure)
    )


def _of_initialize(value: bytes) -> set[int]:
    """CK_C_INITIALIZE_ARGS: all callbacks or none, and nothing in the member that is reserved."""
    *callbacks, _, reserved = struct.unpack("<6Q", value)
    return {ck.CKR_ARGUMENTS_BAD} if reserved or len({each == 0 for each in callbacks}) > 1 else set()


def _lacks(kind: Kind, value: Any) -> bool:
    """NULL where something belongs. Output may be NULL to ask for its length."""
    if isinstance(value, Null) or value == MISSING:
        return True
    returned = KINDS[kind].flow is not Flow.IN and kind not in _ASKS_LENGTH
    return value is None and (kind in _CONTENT or returned)
