"""Which mechanisms a member offers, and which a group does.

Asks one member for its list; the intersection is pure. Only mechanisms whose parameter the table or the configuration
knows are offered: a pointer that nobody knows of must not travel.

Source: SEMANTICS.md section 1.
"""

from collections.abc import Mapping, Sequence

from pyha.abi.info import unpack_mechanism_info
from pyha.cryptoki import constants as ck
from pyha.cryptoki.info import TokenInfo
from pyha.ha.settings import MechanismSnapshot, TokenSnapshot
from pyha.runtime.member import Connection

Offer = Mapping[int, MechanismSnapshot]


def offered(connection: Connection, deadline: float, noted: Offer | None = None) -> dict[int, MechanismSnapshot]:
    """The known mechanisms of one member, by type. With `noted` only those, as they were written down: that costs two
    calls instead of one for each mechanism. Raises MemberLost."""
    types = _types(connection, deadline)
    if noted is not None:
        here = frozenset(types)
        return {mechanism: offer for mechanism, offer in noted.items() if mechanism in here}
    found: dict[int, MechanismSnapshot] = {}
    for mechanism in types:
        if not connection.knows_mechanism(mechanism):
            continue
        rv, answer = connection.call("C_GetMechanismInfo", deadline, connection.slot, mechanism, None)
        if rv == ck.CKR_OK:
            info = unpack_mechanism_info(answer[2])
            found[mechanism] = MechanismSnapshot(mechanism, info.min_key_size, info.max_key_size, info.flags)
    return found


def _types(connection: Connection, deadline: float) -> tuple[int, ...]:
    rv, results = connection.call("C_GetMechanismList", deadline, connection.slot, None)
    if rv != ck.CKR_OK:
        return ()
    rv, results = connection.call("C_GetMechanismList", deadline, connection.slot, results[1][0])
    return tuple(results[1][1] or ()) if rv == ck.CKR_OK else ()


def common_mechanisms(offers: Sequence[Offer]) -> dict[int, MechanismSnapshot]:
    """What every member offers: key sizes clamped to the narrowest, flags ANDed; in the first member's order."""
    first, *others = offers
    common: dict[int, MechanismSnapshot] = {}
    for mechanism, offer in first.items():
        same = [other[mechanism] for other in others if mechanism in other]
        if len(same) == len(others):
            common[mechanism] = MechanismSnapshot(
                mechanism,
                max([offer.minimum, *(one.minimum for one in same)]),
                min([offer.maximum, *(one.maximum for one in same)]),
                _and_flags([offer.flags, *(one.flags for one in same)]),
            )
    return common


def _and_flags(flags: Sequence[int]) -> int:
    result = flags[0]
    for each in flags[1:]:
        result &= each
    return result


TOKEN_FLAGS = (
    ck.CKF_RNG
    | ck.CKF_LOGIN_REQUIRED
    | ck.CKF_USER_PIN_INITIALIZED
    | ck.CKF_TOKEN_INITIALIZED
    | ck.CKF_PROTECTED_AUTHENTICATION_PATH
    | ck.CKF_WRITE_PROTECTED
)
"""Token flags that speak of the token, not of one member's moment (PIN counters, dual operations)."""


def snapshot_of(info: TokenInfo | None, mechanisms: Offer) -> TokenSnapshot:
    """What the group's token answers from local state, learnt from a member's token info (None: nothing was learnt)."""
    if info is None:
        flags = ck.CKF_TOKEN_INITIALIZED | ck.CKF_LOGIN_REQUIRED
        return TokenSnapshot("", "", flags, 0, 0, (0, 0), (0, 0), tuple(mechanisms.values()))
    return TokenSnapshot(
        info.manufacturer,
        info.model,
        info.flags & TOKEN_FLAGS,
        info.min_pin,
        info.max_pin,
        info.hardware_version,
        info.firmware_version,
        tuple(mechanisms.values()),
    )
