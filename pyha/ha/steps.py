"""The steps of a resync: values that say what is to be done, on which member, to which object.

Pure. A step names what it acts on by identity, besides the handle that it had when the plan was made: whoever carries
it out reads the object again first, and does nothing where it is not what the plan was made for.

Source: SEMANTICS.md section 5 (each step re-reads its object and is idempotent).
"""

from pyha.cryptoki.plain import dataclass
from pyha.cryptoki.values import Template
from pyha.ha.identity import Identity
from pyha.ha.inventory import Settings
from pyha.ha.records import EscrowRecord
from pyha.ha.tombstones import Tombstone


@dataclass(frozen=True, slots=True)
class Delete:
    """Destroy an object. `superseded`: a tombstone names it; else it is one too many of several equal ones."""

    member: int
    real: int
    identity: Identity
    superseded: bool


@dataclass(frozen=True, slots=True)
class Change:
    """Set attributes. `identity`: the object before; `after`: afterwards. `fetched`: CKA_ of more that is set, to what
    the object `origin` (member, handle) has. `superseded`: a tombstone tells of it; else it is drift."""

    member: int
    real: int
    identity: Identity
    after: Identity
    changes: Template
    superseded: bool
    fetched: tuple[int, ...] = ()
    origin: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """Bring an object from `source` (handle `real` there) to `member`. `identity`, `settings`: what it is then there
    and here. `record`: what it is made from where it cannot be wrapped."""

    member: int
    source: int
    real: int
    identity: Identity
    settings: Settings
    record: EscrowRecord | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """Write a record. `label`: its CKA_LABEL. `presumes`: members whose own steps must have succeeded. `origin`: who
    (member, handle) has the escrow record already, as long as its key is there."""

    member: int
    label: bytes
    record: EscrowRecord | Tombstone
    presumes: frozenset[int] = frozenset()
    origin: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Clear:
    """Remove a record. `orphan`: because no key of it was found anywhere."""

    member: int
    real: int
    label: bytes
    record: EscrowRecord | Tombstone
    presumes: frozenset[int] = frozenset()
    orphan: bool = False


Step = Delete | Change | Copy | Write | Clear


@dataclass(frozen=True, slots=True)
class Conflict:
    """What resync does not mend. `bars`: the member may not serve with it; `pinnable`: unless the group lets keys be on
    some members only (`unreplicable = "pin"`)."""

    member: int
    identity: Identity
    reason: str
    bars: bool = False
    pinnable: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """`steps`: in the order in which they are to be carried out. `conflicts`: what is left."""

    steps: tuple[Step, ...] = ()
    conflicts: tuple[Conflict, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps or self.conflicts)
