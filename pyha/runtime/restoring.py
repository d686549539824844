"""The domain keys of a backup onto one token: a member that was replaced, lost them, or is new.

Used by the `pyha` command only, never inside an application. What a restore makes on the token it takes back where a
later step fails; what was there stays. Repeated after a crash at any point it completes what is missing.

Source: SEMANTICS.md section 5 (domain keys).
"""

from collections.abc import Mapping
from types import TracebackType

from pyha.cryptoki import constants as ck
from pyha.cryptoki.plain import dataclass, field
from pyha.cryptoki.values import Attribute, Buffer
from pyha.ha.domain import AES_KEYS, DomainKey, domain_label, is_domain_label
from pyha.ha.fingerprints import Fingerprint, Fingerprints, objection
from pyha.ha.identity import ulong
from pyha.runtime.admission import DomainKeyOnToken, Half, NotAdmitted, find_halves, whole
from pyha.runtime.domain_keys import (
    Candidate,
    NotServable,
    RsaPair,
    fingerprints,
    pair_works,
    place_pair,
    place_secret,
    remove_domain_keys,
)
from pyha.runtime.founding import check_records, open_doors
from pyha.runtime.housekeeping import SearchFailed, destroy, housekeeping, read_attributes, search
from pyha.runtime.member import MemberLost, SessionRefused

_TROUBLE = (MemberLost, SessionRefused, SearchFailed)


@dataclass(frozen=True, slots=True)
class Backup:
    """An opened backup. `label`: the group's when it was made. `values`: the AES domain keys, 32 bytes each, in
    writable memory that `wipe` clears. `pairs`: the RSA ones as they are wrapped under the sealed AES key; none in a
    group without. `fingerprints`: of every key, what a token that holds it has to tell."""

    label: str
    group_id: bytes
    values: Mapping[DomainKey, Buffer] = field(repr=False)
    pairs: Mapping[DomainKey, RsaPair] = field(repr=False)
    fingerprints: Fingerprints

    def __enter__(self) -> "Backup":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def wipe(self) -> None:
        """Overwrite the values; the backup is of no use afterwards."""
        for value in self.values.values():
            value[:] = bytes(len(value))


@dataclass(frozen=True, slots=True)
class Restored:
    """`put`: the keys that the token was given, none where it had them all. `open_doors`: what a holder of the PIN
    could do to the domain keys on this token (`founding.open_doors`), where that was allowed."""

    put: tuple[DomainKey, ...]
    open_doors: tuple[str, ...]


def restore_onto(candidate: Candidate, backup: Backup, allow_open_doors: bool = False) -> Restored:
    """Give a logged-in token the domain keys that it lacks, try the doors, and compare all of them afterwards. Raises
    NotServable, and then the token is as before: where it holds other keys, is another group's, cannot hold the keys or
    the group's records, or leaves a door open."""
    connection = candidate.connection
    refuse_strangers(candidate, backup.group_id)
    check_records(candidate)
    held, stale = _held(candidate, backup)
    connection.domain.clear()
    connection.domain.update({key: on_token.handles for key, on_token in held.items()})
    put = tuple(key for key in (*AES_KEYS, *backup.pairs) if key not in held)
    try:
        _remove(candidate, stale)
        for key in put:
            if key in backup.values:
                place_secret(candidate, backup.group_id, key, backup.values[key])
            else:
                place_pair(candidate, backup.group_id, key, backup.pairs[key])
        doors = open_doors(candidate)
        if doors and not allow_open_doors:
            raise NotServable(f"{candidate.name}: {doors[0]} (--allow-open-doors takes the token all the same)")
        _compare(candidate, backup)
    except BaseException:
        remove_domain_keys([candidate], backup.group_id, held)
        raise
    return Restored(put, doors)


def refuse_strangers(candidate: Candidate, group_id: bytes) -> None:
    """Raises NotServable where the token holds domain keys of a group other than this."""
    deadline = candidate.deadline()
    try:
        with housekeeping(candidate.connection, deadline) as session:
            for object_class in (ck.CKO_SECRET_KEY, ck.CKO_PRIVATE_KEY, ck.CKO_PUBLIC_KEY):
                keys = (Attribute(ck.CKA_CLASS, ulong(object_class)),)
                for real in search(candidate.connection, session, keys, deadline):
                    shown = read_attributes(candidate.connection, session, real, (ck.CKA_LABEL,), deadline)
                    label = shown.get(ck.CKA_LABEL, b"")
                    if is_domain_label(label) and label != domain_label(group_id):
                        named = label.decode(errors="replace")
                        raise NotServable(
                            f'{candidate.name}: the token is a member of another group: it holds the "{named}"'
                        )
    except _TROUBLE as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None


def _held(candidate: Candidate, backup: Backup) -> tuple[dict[DomainKey, DomainKeyOnToken], list[int]]:
    """The keys of the backup that the token has whole; and the real handles of halves, which a restore that was
    interrupted left, and of what two of them at once have left twice. Raises NotServable where one is another key."""
    try:
        halves = find_halves(candidate.connection, backup.group_id, candidate.deadline())
    except (NotAdmitted, *_TROUBLE) as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None
    held: dict[DomainKey, DomainKeyOnToken] = {}
    stale: list[int] = []
    for key, found in halves.items():
        expected = backup.fingerprints.get(key, Fingerprint(b""))
        for half in found:
            # One that the token tells no check value of is proved afterwards.
            if half.fingerprint and half.fingerprint != expected.check:
                raise NotServable(
                    f"{candidate.name}: the token holds another {key.value} domain key than the backup: "
                    f"{half.fingerprint.hex()}, expected {expected}"
                )
        classes = {half.object_class for half in found}
        if len(found) > len(classes) and all(half.fingerprint == expected.check for half in found):
            stale += (half.real for half in found)
        elif key not in AES_KEYS and len(found) == 1:
            stale.append(found[0].real)
        else:
            held[key] = _whole(candidate, key, found)
    return held, stale


def _whole(candidate: Candidate, key: DomainKey, halves: list[Half]) -> DomainKeyOnToken:
    try:
        return whole(key, halves)
    except NotAdmitted as refusal:
        raise NotServable(f"{candidate.name}: {refusal}") from None


def _remove(candidate: Candidate, stale: list[int]) -> None:
    deadline = candidate.deadline()
    try:
        for real in stale:
            with housekeeping(candidate.connection, deadline) as session:
                destroy(candidate.connection, session, real, deadline)
    except _TROUBLE as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None


def _compare(candidate: Candidate, backup: Backup) -> None:
    """Raises NotServable where the token does not hold exactly the keys of the backup."""
    told = fingerprints(candidate.connection, backup.group_id, candidate.deadline())
    refusal = objection(backup.fingerprints, told)
    if refusal is not None:
        raise NotServable(f"{candidate.name}: {refusal}, though the backup's was put there")
    for key in backup.pairs:
        if not pair_works(candidate, key):
            raise NotServable(f"{candidate.name}: the {key.value} domain key does not unwrap what it should")
