"""The group's own records in a resync: every member holds one escrow record for each key that has one, and the
tombstones that others still wait for.

Pure. A record is dropped only where another one is kept for the same key, or where no key of it is left: two records
that may be of two keys both stay.

Source: SEMANTICS.md section 5 (an escrow record lives exactly as long as its key); docs/records.md.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from pyha.cryptoki import constants as ck
from pyha.cryptoki.plain import dataclass, replace
from pyha.ha.arrays import is_dated
from pyha.ha.identity import Identity, flag
from pyha.ha.inventory import HeldRecord, Settings, Side
from pyha.ha.matching import Slot
from pyha.ha.records import EscrowRecord, fingerprint_of, record_label
from pyha.ha.replication import KEY_CLASSES
from pyha.ha.settling import template_of
from pyha.ha.steps import Clear, Write
from pyha.ha.superseding import Grave
from pyha.ha.tombstones import tombstone_label


@dataclass(slots=True)
class Kept:
    """A key, its settings, and the record that is its own, where it has one."""

    slot: Slot
    settings: Settings
    record: EscrowRecord | None = None

    @property
    def stays(self) -> bool:
        """Whether it must not leave its tokens."""
        return not flag(dict(self.settings).get(ck.CKA_EXTRACTABLE))

    @property
    def tells_dates(self) -> bool:
        """Whether its record has dates that no member shows."""
        return self.record is not None and is_dated(
            tuple(each for each in self.record.template if each.type not in dict(self.settings))
        )


class Records:
    """All escrow records, assigned to the keys. `writes`, `clears`: what makes every member hold the same ones.
    `doubtful`: keys whose records cannot be told apart."""

    def __init__(self, sides: Sequence[Side], keys: Sequence[Kept], graves: Sequence[Grave], whole: bool) -> None:
        """`whole`: nothing is missing from the inventories, so that a record without a key is one."""
        self.writes: list[Write] = []
        self.clears: list[Clear] = []
        self.doubtful: list[Kept] = []
        self._sides = sides
        self._whole = whole
        self._dead = [(record_label(each), fingerprint_of(each)) for each in _dead(graves)]
        by_label: dict[bytes, dict[int, list[HeldRecord]]] = {}
        for member, side in enumerate(sides):
            for held in side.inventory.records:
                by_label.setdefault(held.label, {}).setdefault(member, []).append(held)
        self._without = [key for key in keys if key.stays and record_label(key.slot.identity) not in by_label]
        named: dict[bytes, list[Kept]] = {}
        for key in keys:
            named.setdefault(record_label(key.slot.identity), []).append(key)
        for label in sorted(by_label):
            self._settle(label, by_label[label], named.get(label, []))

    def _settle(self, label: bytes, held: dict[int, list[HeldRecord]], keys: list[Kept]) -> None:
        left = _distinct(held)
        # Keys that must not leave choose first: nobody could write theirs again.
        for key in sorted(keys, key=lambda each: not each.stays):
            fitting = [record for record in left if _fits(record, key.slot.identity)]
            if fitting:
                key.record = max(fitting, key=lambda record: _nearness(record, key))
                left.remove(key.record)
        dropped = []
        for record in left:
            fitting_keys = [key for key in keys if _fits(record, key.slot.identity)]
            if not fitting_keys:
                if self._is_dead(label, record) or (self._whole and not self._may_be_of_a_renamed(record)):
                    dropped.append(record)
            elif _is_superseded(record, fitting_keys):
                dropped.append(record)
            else:
                self.doubtful += fitting_keys
        wanted = Counter(key.record for key in keys if key.record is not None)
        orphans = {record for record in dropped if not any(_fits(record, key.slot.identity) for key in keys)}
        for member in range(len(self._sides)):
            has = Counter(each.record for each in held.get(member, ()))
            for record, count in wanted.items():
                write = Write(member, label, record, origin=_who_has(record, held))
                self.writes += [write] * (count - has[record])
            for each in held.get(member, ()):
                if has[each.record] > wanted[each.record] and (wanted[each.record] or each.record in dropped):
                    has[each.record] -= 1
                    orphan = each.record in orphans and not self._is_dead(label, each.record)
                    self.clears.append(Clear(member, each.real, label, each.record, orphan=orphan))

    def _may_be_of_a_renamed(self, record: EscrowRecord) -> bool:
        """Whether a key that must not leave, and has no record under its name, got that name from a vendor's tool:
        nobody could write its record again."""
        return any(_fits(record, key.slot.identity) for key in self._without)

    def _is_dead(self, label: bytes, record: EscrowRecord) -> bool:
        """Whether a tombstone says that its key is gone, or is called otherwise since."""
        return any(
            label == each and (not mark or not record.fingerprint or mark == record.fingerprint)
            for each, mark in self._dead
        )


def _dead(graves: Iterable[Grave]) -> list[Identity]:
    return [
        grave.tombstone.was
        for grave in graves
        if grave.tombstone.was.object_class in KEY_CLASSES
        and (grave.tombstone.now is None or record_label(grave.tombstone.now) != record_label(grave.tombstone.was))
    ]


def _distinct(held: dict[int, list[HeldRecord]]) -> list[EscrowRecord]:
    """Each record as often as the member has it that has it most often, in an order that is the same everywhere."""
    most: Counter[EscrowRecord] = Counter()
    for records in held.values():
        most |= Counter(each.record for each in records)
    return sorted(most.elements(), key=repr)


def _who_has(record: EscrowRecord, held: dict[int, list[HeldRecord]]) -> tuple[int, int]:
    """The first member that has this record, and its handle there."""
    return next((member, each.real) for member in sorted(held) for each in held[member] if each.record == record)


def _fits(record: EscrowRecord, identity: Identity) -> bool:
    mark = fingerprint_of(identity)
    return not mark or not record.fingerprint or mark == record.fingerprint


def _nearness(record: EscrowRecord, key: Kept) -> tuple[int, str]:
    wanted = {each.type: each.value for each in template_of(key.slot.identity, key.settings)}
    agreeing = sum(each.type in wanted and wanted[each.type] == each.value for each in record.template)
    return agreeing, repr(record)


def _is_superseded(record: EscrowRecord, keys: Sequence[Kept]) -> bool:
    """Whether the keys have records of their own, one of which is surely of the same key as this one."""
    if any(key.record is None for key in keys):
        return False
    same_blob = any(key.record is not None and key.record.blob == record.blob for key in keys)
    return same_blob or bool(record.fingerprint and all(fingerprint_of(key.slot.identity) for key in keys))


def tombstone_steps(
    sides: Sequence[Side], graves: Sequence[Grave], applying: frozenset[int], complete: bool
) -> tuple[list[Write], list[Clear]]:
    """What marks the tombstones as applied by these members, and gives every member those that others wait for.
    `complete`: every configured member takes part. While one is away those that all have applied stay too: it may hold
    a copy that does not know so, and would have them applied again to what was made since."""
    writes: list[Write] = []
    clears: list[Clear] = []
    for grave in graves:
        appliers = frozenset(
            member for member in applying if sides[member].recorded_as in grave.pending and member not in grave.stuck
        )
        pending = grave.pending - {sides[member].recorded_as for member in appliers}
        target = replace(grave.tombstone, pending=pending)
        label = tombstone_label(target.filed_under)
        for member in range(len(sides)):
            held = grave.held.get(member, [])
            needed = bool(pending) or not complete
            right = next((each for each in held if needed and each.tombstone.pending == pending), None)
            if needed and right is None:
                writes.append(Write(member, label, target, appliers))
            clears += [Clear(member, each.real, label, each.tombstone, appliers) for each in held if each is not right]
    return writes, clears
