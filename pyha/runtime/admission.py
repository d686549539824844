"""Admission: a member whose token has the group's domain keys, and the same ones as the others, may stay.

Source: SEMANTICS.md sections 4 (not a member any more) and 5 (domain keys).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from pyha.cryptoki import constants as ck
from pyha.ha.domain import AES_KEYS, DomainHandles, DomainKey, domain_id, domain_search
from pyha.ha.group import Cause
from pyha.ha.identity import number
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, housekeeping, read_attributes, search
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.outcomes import Refusal

_READ = (ck.CKA_CLASS, ck.CKA_ID, ck.CKA_CHECK_VALUE, ck.CKA_MODULUS)


class NotAdmitted(Exception):
    """The token is not this group's (any more): one phrase."""


@dataclass(frozen=True, slots=True)
class DomainKeyOnToken:
    """A domain key as a token has it. `fingerprint`: an AES key's check value (empty where the token tells none), an
    RSA pair's first 8 bytes of the SHA-256 of its modulus."""

    handles: DomainHandles
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Half:
    """One object of a domain key: an AES key, or one of an RSA pair's two. `real`: its real handle."""

    real: int
    object_class: int | None
    fingerprint: bytes


def read_domain_keys(connection: Connection, group_id: bytes, deadline: float) -> dict[DomainKey, DomainKeyOnToken]:
    """The group's domain keys on a logged-in token; what is not there is left out. Raises NotAdmitted (a key is there
    twice, or half), SearchFailed, SessionRefused, MemberLost."""
    return {key: whole(key, found) for key, found in find_halves(connection, group_id, deadline).items()}


def find_halves(connection: Connection, group_id: bytes, deadline: float) -> dict[DomainKey, list[Half]]:
    """Every object of the group's domain keys on a logged-in token. Raises SearchFailed, SessionRefused,
    MemberLost."""
    ids = {domain_id(group_id, key): key for key in DomainKey}
    halves: dict[DomainKey, list[Half]] = {}
    with housekeeping(connection, deadline) as session:
        for real in search(connection, session, domain_search(group_id), deadline):
            shown = read_attributes(connection, session, real, _READ, deadline)
            key = ids.get(shown.get(ck.CKA_ID, b""))
            if key is None:
                continue
            modulus = shown.get(ck.CKA_MODULUS)
            fingerprint = sha256(modulus).digest()[:8] if modulus else shown.get(ck.CKA_CHECK_VALUE, b"")
            halves.setdefault(key, []).append(Half(real, number(shown.get(ck.CKA_CLASS)), fingerprint))
    return halves


def whole(key: DomainKey, halves: Sequence[Half]) -> DomainKeyOnToken:
    """A domain key from the objects that are of it. Raises NotAdmitted."""
    by_class = {half.object_class: half for half in halves}
    if len(by_class) != len(halves):
        raise NotAdmitted(f"it has several {key.value} domain keys")
    if key in AES_KEYS:
        secret = by_class.get(ck.CKO_SECRET_KEY)
        if secret is not None and len(halves) == 1:
            return DomainKeyOnToken(DomainHandles(secret.real, secret.real), secret.fingerprint)
    else:
        public, private = by_class.get(ck.CKO_PUBLIC_KEY), by_class.get(ck.CKO_PRIVATE_KEY)
        if public is not None and private is not None and public.fingerprint == private.fingerprint:
            return DomainKeyOnToken(DomainHandles(public.real, private.real), public.fingerprint)
    raise NotAdmitted(f"its {key.value} domain key is not whole")


def admit(group: GroupRuntime) -> None:
    """After the application's login: each member that is in is looked at once; who lacks the keys is out."""
    if group.raw:
        return
    told: list[tuple[int, Connection, dict[DomainKey, bytes]]] = []
    for index, connection in group.present():
        try:
            told.append((index, connection, locate(group, connection, group.deadline())))
        except NotAdmitted as refusal:
            group.lost(index, connection.generation, f"not a member any more: {refusal}", Cause.NOT_A_MEMBER)
        except (SearchFailed, SessionRefused) as failure:
            # What could not be looked for may well be there: this one comes back by itself.
            group.lost(index, connection.generation, f"its domain keys could not be looked for: {failure}")
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
    expected: dict[DomainKey, bytes] = {}
    for _, _, fingerprints in told:
        for key, fingerprint in fingerprints.items():
            if not expected.get(key):
                expected[key] = fingerprint
    for index, connection, fingerprints in told:
        for key, fingerprint in expected.items():
            own = fingerprints.get(key)
            if own is None or (own and own != fingerprint):
                what = "missing" if own is None else "another one"
                reason = f"not a member any more: its {key.value} domain key is {what}"
                group.lost(index, connection.generation, reason, Cause.NOT_A_MEMBER)
                break


def locate(group: GroupRuntime, connection: Connection, deadline: float) -> dict[DomainKey, bytes]:
    """Find the domain keys on a logged-in member, remember their handles; their fingerprints. RSA pairs may be
    missing: not every module can hold them. Raises NotAdmitted, SearchFailed, SessionRefused, MemberLost."""
    found = read_domain_keys(connection, group.settings.id, deadline)
    for key in AES_KEYS:
        if key not in found:
            raise NotAdmitted(f"its {key.value} domain key is missing")
    for key, on_token in found.items():
        connection.domain[key] = on_token.handles
    return {key: on_token.fingerprint for key, on_token in found.items()}


def domain_handles(
    group: GroupRuntime, connection: Connection, key: DomainKey, deadline: float
) -> DomainHandles | None:
    """A domain key's real handles on this member; None for an RSA pair that it has not. Raises MemberLost where the
    token is not the group's, SessionRefused, and Refusal where the application is not logged in as user: then no token
    shows its domain keys."""
    if group.user != ck.CKU_USER:
        raise Refusal(ck.CKR_USER_NOT_LOGGED_IN, "the domain keys are not seen")
    if key not in connection.domain:
        try:
            locate(group, connection, deadline)
        except NotAdmitted as refusal:
            raise MemberLost(f"not a member any more: {refusal}") from None
    return connection.domain.get(key)
