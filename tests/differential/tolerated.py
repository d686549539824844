"""Every difference between the two sides that is no fault, each with its reason."""

from collections.abc import Callable
from dataclasses import dataclass

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import HISTORY
from pyha.cryptoki.functions import BY_NAME, Route
from tests.differential.lockstep import Difference
from tests.differential.own_faults import misstated
from tests.differential.worker import CRASHED


@dataclass(frozen=True)
class Tolerated:
    """One of them. `diverges`: the sides are in different states after it, so that the sequence ends there."""

    reason: str
    covers: Callable[[Difference], bool]
    diverges: bool = False


_UNKNOWN = frozenset(
    {
        ck.CKR_OBJECT_HANDLE_INVALID,
        ck.CKR_KEY_HANDLE_INVALID,
        ck.CKR_WRAPPING_KEY_HANDLE_INVALID,
        ck.CKR_UNWRAPPING_KEY_HANDLE_INVALID,
    }
)


def _answers(difference: Difference, bare: frozenset[int] | set[int], slot: frozenset[int] | set[int]) -> bool:
    return difference.field == "rv" and difference.bare in bare and difference.slot in slot


def _several_faults(difference: Difference) -> bool:
    return (
        difference.field == "rv"
        and difference.bare not in (ck.CKR_OK, CRASHED)
        and difference.slot in difference.faults
    )


def _parameter(difference: Difference) -> bool:
    refused = difference.slot == ck.CKR_MECHANISM_PARAM_INVALID and difference.slot in difference.faults
    return refused and _answers(difference, {ck.CKR_OK}, {ck.CKR_MECHANISM_PARAM_INVALID})


def _uncertain(difference: Difference) -> bool:
    if difference.field != "rv" or not difference.uncertain:
        return False
    route, pair = BY_NAME[difference.call.name].route, (difference.bare, difference.slot)
    if route in (Route.START, Route.SEARCH):
        return ck.CKR_OPERATION_ACTIVE in pair
    return ck.CKR_OPERATION_NOT_INITIALIZED in pair


def _without_login(difference: Difference) -> bool:
    created = BY_NAME[difference.call.name].route is Route.CREATE
    return created and _answers(difference, {ck.CKR_OK}, {ck.CKR_USER_NOT_LOGGED_IN})


def _died(difference: Difference) -> bool:
    if not difference.died:
        return False
    return difference.field == "found" or _answers(
        difference, {ck.CKR_OK, difference.bare}, _UNKNOWN | {ck.CKR_DEVICE_ERROR}
    )


UNTOLD = {ck.CKA_CHECK_VALUE: b"", ck.CKA_VALUE_LEN: bytes(8)}
"""What SoftHSM shows of an unwrapped key in place of these attributes."""

TOLERATED = (
    Tolerated("SoftHSM dies of this call itself.", lambda each: each.bare == CRASHED, True),
    Tolerated(
        "Of a token object that SoftHSM refuses to make a part is left, on the token or as long as its process lives; "
        "on the slot of fewer, as an original of the session is tried first.",
        lambda each: each.field == "found" and each.littered,
        True,
    ),
    Tolerated(
        "A token is initialised by its owner, not through the virtual slot (SEMANTICS.md section 1).",
        lambda each: each.call.name == "C_InitToken" and each.slot == ck.CKR_FUNCTION_NOT_SUPPORTED,
        True,
    ),
    Tolerated(
        "After an error SoftHSM leaves some operations open, and ends some that the call was not for; by the "
        "specification every error but CKR_BUFFER_TOO_SMALL ends the call's own one (section 5.2), and so it does on "
        "the slot. After C_Logout operations may or may not go on (section 5.6).",
        _uncertain,
        True,
    ),
    Tolerated(
        "SoftHSM answers CKR_OBJECT_HANDLE_INVALID where the specification has a code for keys; a handle that the slot "
        "never gave, or that is void, reaches no member.",
        lambda each: _answers(each, _UNKNOWN, _UNKNOWN),
    ),
    Tolerated(
        "A call with several faults: the specification sets no order among them (section 5.1.7), and the slot finds "
        "before a member is asked what the call has by itself.",
        _several_faults,
    ),
    Tolerated(
        "SoftHSM does not look at a parameter that its mechanism does not have, nor at what is behind the end of one; "
        "what may be a pointer that nobody knows of does not travel (SEMANTICS.md section 1).",
        _parameter,
        True,
    ),
    Tolerated(
        "SoftHSM does not look at every value of a template; one that is a NULL pointer with a length, or a CKA_TOKEN "
        "that is no CK_BBOOL, is refused before any member is asked.",
        lambda each: each.bare == ck.CKR_OK and each.field == "rv" and each.slot in misstated(each.call),
        True,
    ),
    Tolerated(
        "A search is drained when it is opened and keeps no member's session: other operations may begin beside it.",
        lambda each: (
            each.searching and each.bare == ck.CKR_OPERATION_ACTIVE and BY_NAME[each.call.name].route is Route.START
        ),
        True,
    ),
    Tolerated(
        "What is known of a key's past reads as the weaker truth on the slot (SEMANTICS.md section 5).",
        lambda each: each.attribute in HISTORY and each.thing is not None,
    ),
    Tolerated(
        "SoftHSM accepts C_Logout of nobody; the specification has CKR_USER_NOT_LOGGED_IN (section 5.6), and the login "
        "is the slot's own.",
        lambda each: each.call.name == "C_Logout" and _answers(each, {ck.CKR_OK}, {ck.CKR_USER_NOT_LOGGED_IN}),
    ),
    Tolerated(
        "SoftHSM does not tell CKA_CHECK_VALUE and CKA_VALUE_LEN of an unwrapped key; the slot does where it has to "
        "know the key again.",
        lambda each: each.attribute in UNTOLD and each.bare in (0, *UNTOLD.values()),
    ),
    Tolerated(
        "A session key that is made, or needed elsewhere, while nobody is logged in dies with its member: there is no "
        "domain key to wrap it under. So does one that only trusted keys may wrap.",
        _died,
        True,
    ),
    Tolerated(
        "A token key that must not leave its token is made by who is logged in: its record and the domain keys are "
        "private.",
        _without_login,
        True,
    ),
    Tolerated(
        "What cannot be on every member is not made: a key that nothing can wrap any more (SEMANTICS.md section 5).",
        lambda each: _answers(each, {ck.CKR_OK}, {ck.CKR_KEY_NOT_WRAPPABLE}),
        True,
    ),
    Tolerated(
        "SoftHSM reports a length below zero where a padded decryption was given nothing; the slot believes no such "
        "length, and asks another member, to which a session key of the SO cannot be brought.",
        lambda each: each.nonsense and each.slot in (ck.CKR_DEVICE_ERROR, ck.CKR_KEY_HANDLE_INVALID),
        True,
    ),
    Tolerated(
        "A saved state means nothing on another member: there are no states to set (SEMANTICS.md section 1), and "
        "SoftHSM does not offer the function.",
        lambda each: each.field == "rv" and each.call.name in ("C_GetOperationState", "C_SetOperationState"),
    ),
)


def tolerated(difference: Difference) -> Tolerated | None:
    """The entry that covers a difference."""
    return next((entry for entry in TOLERATED if entry.covers(difference)), None)
