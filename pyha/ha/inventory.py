"""What one member holds, as far as resync has to know it, and what makes objects of several members one.

Pure values. An object is told by its *name* (what both members must show alike), and within a name by its *print*: the
hash of its value, its twin, or its check value. A print of None fits every other. How differences are mended is
decided in `pyha.ha.resync`.

Sources: SEMANTICS.md section 5 (resync); REPLICATION.md (identity and finding).
"""

from collections import Counter
from collections.abc import Iterable

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import PROTECTIONS
from pyha.cryptoki.plain import dataclass
from pyha.ha.arrays import ARRAYS, DATES
from pyha.ha.identity import WITH_VALUE, Identity
from pyha.ha.records import EscrowRecord
from pyha.ha.replication import KEY_CLASSES
from pyha.ha.tombstones import Tombstone

COMPARED = (
    *(each for each in PROTECTIONS if each != ck.CKA_PRIVATE),
    ck.CKA_ALLOWED_MECHANISMS,
    ck.CKA_CERTIFICATE_CATEGORY,
    ck.CKA_URL,
    ck.CKA_HASH_OF_SUBJECT_PUBLIC_KEY,
    ck.CKA_HASH_OF_ISSUER_PUBLIC_KEY,
    ck.CKA_PUBLIC_KEY_INFO,
    *DATES,
    *ARRAYS,
)
"""Attributes that resync makes alike, beside what an identity has; arrays are packed."""

Settings = tuple[tuple[int, bytes], ...]
"""(CKA_, value) of each attribute of `COMPARED` that an object shows."""

Name = tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Held:
    """One object as a member has it. `real`: its handle there. `mark`: of a secret key's value, where it was asked for
    (`pyha.ha.marking`)."""

    real: int
    identity: Identity
    settings: Settings = ()
    mark: bytes = b""


@dataclass(frozen=True, slots=True)
class HeldRecord:
    """One escrow record. `label`: its CKA_LABEL."""

    real: int
    label: bytes
    record: EscrowRecord


@dataclass(frozen=True, slots=True)
class HeldTombstone:
    """One tombstone that may be believed."""

    real: int
    tombstone: Tombstone


@dataclass(frozen=True, slots=True)
class Inventory:
    """All token objects of a member but its domain keys. `unread`: how many there are that could not be read."""

    objects: tuple[Held, ...] = ()
    records: tuple[HeldRecord, ...] = ()
    tombstones: tuple[HeldTombstone, ...] = ()
    unread: int = 0


@dataclass(frozen=True, slots=True)
class Side:
    """One member that takes part. `recorded_as`: what tombstones call it."""

    name: str
    recorded_as: str
    inventory: Inventory


def name_of(identity: Identity) -> Name:
    """What an object is called, and its public part: the same on every member, whatever a module tells of the rest."""
    if identity.get(ck.CKA_CHECK_VALUE) is None:
        return identity.attributes
    return tuple(pair for pair in identity.attributes if pair[0] != ck.CKA_CHECK_VALUE)


def print_of(identity: Identity) -> bytes | None:
    """What tells it from others of its name; None where the member tells nothing."""
    if identity.object_class in WITH_VALUE:
        # One that has no value at all is as certain of that as others are of theirs.
        return identity.value_hash or b""
    if identity.object_class in KEY_CLASSES:
        return identity.get(ck.CKA_MODULUS) or identity.twin or identity.get(ck.CKA_CHECK_VALUE) or None
    return b""


def is_exact(identity: Identity) -> bool:
    """Whether two objects with this name and print cannot but be the same: all that they consist of was compared. A
    check value has three bytes only, and a twin is found by CKA_ID: they are no reason to destroy a key."""
    return identity.object_class in WITH_VALUE or bool(identity.get(ck.CKA_MODULUS))


@dataclass(frozen=True, slots=True)
class Difference:
    """How many objects only the one token has (`surplus`), and how many only the other (`missing`)."""

    missing: int
    surplus: int

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus)


def compare(reference: Iterable[Identity], other: Iterable[Identity]) -> Difference:
    """What the token objects of one token lack or have too many against those of the reference, roughly: by name, value
    and twin."""
    expected, found = (Counter(_told(each) for each in identities if each.token) for identities in (reference, other))
    return Difference((expected - found).total(), (found - expected).total())


def _told(identity: Identity) -> tuple[Name, bytes, bytes]:
    return name_of(identity), identity.value_hash or b"", identity.twin or b""
