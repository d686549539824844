"""Admission: a member whose token has the group's domain keys, and the same ones as the others, may stay.

Source: SEMANTICS.md sections 4 (not a member any more) and 5 (domain keys).
"""

from collections.abc import Mapping, Sequence

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Route
from pyha.cryptoki.plain import dataclass, replace
from pyha.cryptoki.verdicts import Verdict, verdict
from pyha.ha.domain import AES_KEYS, RSA_EXPONENT, DomainHandles, DomainKey, domain_id, domain_search
from pyha.ha.fingerprints import Fingerprint, Fingerprints, check_of, majority, needs_proof, objection
from pyha.ha.group import Cause
from pyha.ha.identity import number
from pyha.runtime.domain_proof import proofs
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, housekeeping, read_attributes, search
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.outcomes import Refusal

_READ = (ck.CKA_CLASS, ck.CKA_ID, ck.CKA_CHECK_VALUE, ck.CKA_MODULUS, ck.CKA_PUBLIC_EXPONENT)


class NotAdmitted(Exception):
    """The token is not this group's (any more): one phrase."""


@dataclass(frozen=True, slots=True)
class DomainKeyOnToken:
    """A domain key as a token has it. `fingerprint`: `fingerprints.Fingerprint.check`, empty where the token tells no
    check value."""

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
    """Every object of the group's domain keys on a logged-in token. Raises NotAdmitted (a public exponent that is not
    ours), SearchFailed, SessionRefused, MemberLost."""
    ids = {domain_id(group_id, key): key for key in DomainKey}
    halves: dict[DomainKey, list[Half]] = {}
    with housekeeping(connection, deadline, reads=True) as session:
        for real in search(connection, session, domain_search(group_id), deadline):
            shown = read_attributes(connection, session, real, _READ, deadline, sure=True)
            key = ids.get(shown.get(ck.CKA_ID, b""))
            if key is None:
                continue
            modulus = shown.get(ck.CKA_MODULUS)
            object_class = number(shown.get(ck.CKA_CLASS))
            if (
                object_class == ck.CKO_PUBLIC_KEY
                and shown.get(ck.CKA_PUBLIC_EXPONENT, b"").lstrip(b"\0") != RSA_EXPONENT
            ):
                # Under an exponent of 1 "wrapping" would leave a key readable.
                raise NotAdmitted(f"its {key.value} domain key has another public exponent")
            fingerprint = check_of(modulus) if modulus else shown.get(ck.CKA_CHECK_VALUE, b"")
            halves.setdefault(key, []).append(Half(real, object_class, fingerprint))
    return {key: halves[key] for key in DomainKey if key in halves}


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


Handles = Mapping[DomainKey, DomainHandles]


def admit(group: GroupRuntime) -> None:
    """After the application's login: each member that is in is looked at once; who lacks the keys is out. Judged
    against the configuration's fingerprints; where it has none, against what most members tell."""
    if group.raw:
        return
    seen: list[tuple[int, Connection, Handles, Fingerprints]] = []
    for index, connection in group.present():
        try:
            seen.append((index, connection, *_look(group, connection, group.deadline())))
        except NotAdmitted as refusal:
            _expel(group, index, connection, str(refusal))
        except (SearchFailed, SessionRefused) as failure:
            # What could not be looked for may well be there: this one comes back by itself.
            group.lost(index, connection.generation, f"its domain keys could not be looked for: {failure}")
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
    group.told_domain = majority([told for *_, told in seen])
    for index, connection, handles, told in seen:
        phrase = objection(_expected(group), told)
        if phrase is not None:
            _expel(group, index, connection, phrase)
        else:
            connection.domain.update(handles)


def _expected(group: GroupRuntime) -> Fingerprints:
    return group.settings.domain or group.told_domain


def _expel(group: GroupRuntime, index: int, connection: Connection, phrase: str) -> None:
    group.lost(index, connection.generation, f"not a member any more: {phrase}", Cause.NOT_A_MEMBER)


def locate(group: GroupRuntime, connection: Connection, deadline: float) -> Handles:
    """A member that comes back: its domain keys are found, proved to be the group's, and only then remembered. Raises
    NotAdmitted, SearchFailed, SessionRefused, MemberLost."""
    handles, told = _look(group, connection, deadline)
    phrase = objection(_expected(group), told)
    if phrase is not None:
        raise NotAdmitted(phrase)
    _prove(group, connection, handles, deadline)
    connection.domain.update(handles)
    return handles


def expect_domain(group: GroupRuntime, connection: Connection, deadline: float) -> None:
    """A member was logged in anew in the midst of its work: a token that was initialised anew, and kept its serial,
    has nothing to answer with. The keys themselves are proved before they are used. Raises MemberLost,
    SessionRefused."""
    if group.raw or group.user != ck.CKU_USER or connection.domain:
        return
    try:
        _whole_domain(group, connection, deadline)
    except NotAdmitted as refusal:
        # Whether for good is for its recovery to say, which sees the token by a helper of its own.
        raise MemberLost(f"not a member any more: {refusal}") from None
    except SearchFailed:
        return  # the call itself goes on, and is judged by its own answer


def _prove(group: GroupRuntime, connection: Connection, handles: Handles, deadline: float) -> None:
    """Raises NotAdmitted where an AES domain key is proved to be another than the group's; a token that cannot give
    proofs was judged by its check values. Raises SearchFailed, SessionRefused, MemberLost."""
    now = {(connection.logins, handles[key]) for key in AES_KEYS}
    if now <= connection.proved:
        return
    try:
        told = _proofs(connection, handles, deadline)
    except SearchFailed as failure:
        if verdict(Route.READ, failure.rv) is Verdict.SUSPECT and connection.alive(deadline):
            return
        raise
    expected = _expected(group)
    for key, proof in told.items():
        if key in expected and Fingerprint(b"", proof).agrees(expected[key]) is False:
            raise NotAdmitted(f"its {key.value} domain key is another one")
    # Not before: another thread would use the keys meanwhile.
    connection.proved.update(now)


def _look(group: GroupRuntime, connection: Connection, deadline: float) -> tuple[Handles, Fingerprints]:
    """The domain keys of a logged-in member: their real handles, and what the token tells, with the proof where it
    tells nothing. RSA pairs may be missing: not every module can hold them. Raises NotAdmitted, SearchFailed,
    SessionRefused, MemberLost."""
    found = _whole_domain(group, connection, deadline)
    handles = {key: on_token.handles for key, on_token in found.items()}
    told = {key: Fingerprint(on_token.fingerprint) for key, on_token in found.items()}
    if needs_proof(told) or not group.settings.domain:
        # Where the configuration says nothing, proofs are what all members can be compared by.
        for key, proof in _proofs(connection, handles, deadline).items():
            told[key] = replace(told[key], proof=proof)
    return handles, told


def _whole_domain(group: GroupRuntime, connection: Connection, deadline: float) -> dict[DomainKey, DomainKeyOnToken]:
    """Raises NotAdmitted where an AES key is not there, SearchFailed, SessionRefused, MemberLost."""
    found = read_domain_keys(connection, group.settings.id, deadline)
    for key in AES_KEYS:
        if key not in found:
            raise NotAdmitted(f"its {key.value} domain key is missing")
    return found


def _proofs(connection: Connection, handles: Handles, deadline: float) -> dict[DomainKey, bytes]:
    """Raises SearchFailed, SessionRefused, MemberLost."""
    return dict(zip(AES_KEYS, proofs(connection, [handles[key] for key in AES_KEYS], deadline), strict=True))


def domain_handles(
    group: GroupRuntime, connection: Connection, key: DomainKey, deadline: float
) -> DomainHandles | None:
    """A domain key's real handles on this member; None for an RSA pair that it has not. Before the first use on a
    connection the AES keys are proved: a check value can be made to agree, and this is where a key of the group's would
    go out under another's. Raises MemberLost where the token is not the group's, SessionRefused, SearchFailed, and
    Refusal where the application is not logged in as user: then no token shows its domain keys."""
    if group.user != ck.CKU_USER:
        raise Refusal(ck.CKR_USER_NOT_LOGGED_IN, "the domain keys are not seen")
    handles: Handles = dict(connection.domain)  # another thread may log out
    try:
        if key not in handles:
            handles = locate(group, connection, deadline)
        elif key in AES_KEYS:
            _prove(group, connection, handles, deadline)
    except NotAdmitted as refusal:
        raise MemberLost(f"not a member any more: {refusal}") from None
    return handles.get(key)
