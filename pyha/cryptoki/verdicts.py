"""What each CK_RV says about the member that answered it.

Pure data. Knows the routes of the table; knows nothing of members or sessions. The failover loop asks `verdict` and
acts; it never names a CK_RV itself.

Sources: PKCS #11 Base Specification 2.40 section 5.1 (return values); SEMANTICS.md sections 2 to 4.
"""

from enum import Enum, auto

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Route


class Verdict(Enum):
    """What to do with an answer."""

    ANSWER = auto()  # it is the application's
    SESSION_LOST = auto()  # the real session is gone or spoilt: a fresh one, once
    LOGIN_LOST = auto()  # log in again, once
    HANDLE_STALE = auto()  # bind the objects again, once
    SUSPECT = auto()  # ambiguous: probe the member first
    MEMBER_LOST = auto()  # the member says that it is gone


_EVERYWHERE: dict[int, Verdict] = {
    ck.CKR_SESSION_HANDLE_INVALID: Verdict.SESSION_LOST,
    ck.CKR_SESSION_CLOSED: Verdict.SESSION_LOST,
    ck.CKR_USER_NOT_LOGGED_IN: Verdict.LOGIN_LOST,
    ck.CKR_OBJECT_HANDLE_INVALID: Verdict.HANDLE_STALE,
    ck.CKR_KEY_HANDLE_INVALID: Verdict.HANDLE_STALE,
    ck.CKR_WRAPPING_KEY_HANDLE_INVALID: Verdict.HANDLE_STALE,
    ck.CKR_UNWRAPPING_KEY_HANDLE_INVALID: Verdict.HANDLE_STALE,
    ck.CKR_DEVICE_ERROR: Verdict.SUSPECT,
    ck.CKR_GENERAL_ERROR: Verdict.SUSPECT,
    ck.CKR_FUNCTION_FAILED: Verdict.SUSPECT,
    ck.CKR_DEVICE_MEMORY: Verdict.SUSPECT,
    ck.CKR_HOST_MEMORY: Verdict.SUSPECT,
    ck.CKR_DEVICE_REMOVED: Verdict.MEMBER_LOST,
    ck.CKR_TOKEN_NOT_PRESENT: Verdict.MEMBER_LOST,
    ck.CKR_TOKEN_NOT_RECOGNIZED: Verdict.MEMBER_LOST,
    ck.CKR_SLOT_ID_INVALID: Verdict.MEMBER_LOST,
    ck.CKR_CRYPTOKI_NOT_INITIALIZED: Verdict.MEMBER_LOST,
}

_BY_ROUTE: dict[Route, dict[int, Verdict]] = {
    # An operation that we know to be open and that the member denies went with its session; one that we know to be
    # closed and that the member still holds was left behind by a call that failed.
    Route.START: {ck.CKR_OPERATION_ACTIVE: Verdict.SESSION_LOST},
    Route.SEARCH: {ck.CKR_OPERATION_ACTIVE: Verdict.SESSION_LOST},
    Route.CONTINUE: {ck.CKR_OPERATION_NOT_INITIALIZED: Verdict.SESSION_LOST},
    Route.FINISH: {ck.CKR_OPERATION_NOT_INITIALIZED: Verdict.SESSION_LOST},
}


def verdict(route: Route, rv: int) -> Verdict:
    """The verdict on answer `rv` (CK_RV) to a call of this route."""
    if rv == ck.CKR_OK:
        return Verdict.ANSWER
    special = _BY_ROUTE.get(route)
    if special is not None and rv in special:
        return special[rv]
    return _EVERYWHERE.get(rv, Verdict.ANSWER)


ENDS_NO_OPERATION = frozenset({ck.CKR_BUFFER_TOO_SMALL})
"""Answers that leave an open operation open (section 5.2); every other error ends it."""
