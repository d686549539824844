"""The plan of a resync: from what the members hold to the steps that make them hold the same.

Pure. What a tombstone names is deleted or changed where it is not yet; what one member lacks is copied to it, whoever
has it; attributes that differ become alike, protections the stronger ones; records follow their keys. What cannot be
told or cannot be mended is a conflict, and is left as it is. Carried out in this order and interrupted anywhere, the
plan that is made next ends in the same state.

Source: SEMANTICS.md section 5; docs/resync.md.
"""

from collections.abc import Iterable, Sequence

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.cloning import NOT_RECORDED, SHIPPED, Reach, choose, unclonable
from pyha.ha.identity import Identity, flag
from pyha.ha.inventory import Side, is_exact
from pyha.ha.keeping import Kept, Records, tombstone_steps
from pyha.ha.matching import Slot, match
from pyha.ha.replication import KEY_CLASSES, attributes_to_create
from pyha.ha.settling import cannot_be_set, differing, renaming, settled, unmendable, weakens
from pyha.ha.steps import Change, Clear, Conflict, Copy, Delete, Plan, Step, Write
from pyha.ha.superseding import Applied, Item, graves_of
from pyha.ha.telling import attribute_names

_ORDER = (
    ck.CKO_DOMAIN_PARAMETERS,
    ck.CKO_DATA,
    ck.CKO_CERTIFICATE,
    ck.CKO_PUBLIC_KEY,
    ck.CKO_PRIVATE_KEY,
    ck.CKO_SECRET_KEY,
)
"""Public keys come before private ones, whose copies are proved by them."""

PASSES = 3
"""How often a plan is made and carried out, at most: among objects that look alike one step may have to be done before
it can be told what the next one is."""

_UNREAD = "objects there cannot be read, and it may be one of them"
_ALIKE = "objects of this name cannot be told apart, and members hold more or fewer of them"


def plan(
    sides: Sequence[Side], configured: frozenset[str], only: int | None = None, strategies: Sequence[Reach] = SHIPPED
) -> Plan:
    """The plan for these members, those that serve first, in the order of the group. `configured`: every member of the
    group, as tombstones call them. `only`: steps on (and tombstones of) this one alone. `strategies`: the group's, of
    cloning."""
    graves = graves_of(sides, configured)
    applied = Applied(sides, graves)
    conflicts = list(applied.conflicts)
    matched = match(item for items in applied.items for item in items)
    for unclear in matched.unclear:
        conflicts += _unclear(unclear, len(sides))
    complete = {side.recorded_as for side in sides} >= configured
    whole = complete and not any(side.inventory.unread for side in sides) and not matched.unclear
    kept = [Kept(slot, settled(slot)) for slot in matched.slots]
    keys = [each for each in kept if each.slot.identity.object_class in KEY_CLASSES]
    keys += [Kept(Slot({item.member: item}), item.held.settings) for unclear in matched.unclear for item in unclear]
    records = Records(sides, keys, graves, whole)
    conflicts += [_doubtful(key, member) for key in records.doubtful for member in sorted(key.slot.items)[:1]]
    deletes = _deletes(applied.items, matched.surplus)
    changes: list[Change] = []
    copies: list[Copy] = []
    for each in kept:
        for item in each.slot.items.values():
            _change(item, each, changes, conflicts)
            _prove(item, each, changes)
        for member in range(len(sides)):
            if member not in each.slot.items:
                alone = all(other in each.slot.items for other in range(len(sides)) if other != member)
                _copy(member, each, alone, strategies, copies, conflicts)
    unread = frozenset(member for member, side in enumerate(sides) if side.inventory.unread)
    conflicts += [_hidden(copy) for copy in copies if copy.member in unread]
    copies = [copy for copy in copies if copy.member not in unread]
    copies.sort(key=lambda copy: (copy.member, _rank(copy.identity)))
    applying = frozenset(range(len(sides))) if only is None else frozenset({only})
    marks, marked = tombstone_steps(sides, graves, applying, complete)
    steps: list[Step] = [*deletes, *changes, *marks, *marked, *records.writes, *copies, *records.clears]
    if only is not None:
        steps = [step for step in steps if step.member == only or _marks_for(step, only)]
        conflicts = [conflict for conflict in conflicts if conflict.member == only]
    return Plan(tuple(steps), tuple(conflicts))


def _rank(identity: Identity) -> int:
    object_class = identity.object_class
    return _ORDER.index(object_class) if object_class in _ORDER else len(_ORDER)


def _marks_for(step: Step, only: int) -> bool:
    return isinstance(step, Write | Clear) and only in step.presumes


def _deletes(items: Sequence[Sequence[Item]], surplus: Iterable[Item]) -> list[Delete]:
    found = [
        Delete(item.member, item.held.real, item.held.identity, True) for each in items for item in each if item.gone
    ]
    found += [Delete(item.member, item.held.real, item.held.identity, False) for item in surplus]
    return sorted(found, key=lambda step: (step.member, not step.superseded))


def _change(item: Item, kept: Kept, changes: list[Change], conflicts: list[Conflict]) -> None:
    """Make one member's object what it should be."""
    wanted: Template = (*renaming(item), *differing(item, kept.settings))
    fetched, origin = _value(item, kept.slot)
    if not wanted and not fetched:
        return
    # Of what a template holds, MODIFIABLE and the like never, and what only copies can get neither.
    impossible = tuple(each for each in differing(item, kept.settings) if cannot_be_set(each))
    frozen = dict(item.held.settings).get(ck.CKA_MODIFIABLE) == b"\0"
    lost = unmendable_value(item, fetched, origin)
    if frozen or impossible or lost:
        left = wanted if frozen else impossible
        names = attribute_names(left) or "its value"
        reason = f"{names} differ{'s' if len(left) < 2 else ''} and cannot be set on a token object"
        bars = weakens(left) or item.superseded
        conflicts.append(Conflict(item.member, item.held.identity, reason, bars))
        wanted = tuple(each for each in wanted if each not in impossible)
        if frozen or lost:
            item.cannot_follow()
            return
        if not (wanted or fetched):
            return
    if any(each.type == ck.CKA_EXTRACTABLE for each in wanted) and kept.record is None:
        conflicts.append(Conflict(item.member, item.held.identity, f"CKA_EXTRACTABLE differs, and {NOT_RECORDED}"))
        # What else a tombstone tells of is done: under its old name it would be taken for a new one.
        wanted = tuple(each for each in wanted if each.type != ck.CKA_EXTRACTABLE)
        if not (wanted or fetched):
            return
    changes.append(
        Change(
            item.member,
            item.held.real,
            item.held.identity,
            item.identity,
            wanted,
            item.superseded,
            fetched,
            origin if fetched else None,
        )
    )


def _prove(item: Item, kept: Kept, changes: list[Change]) -> None:
    """A copy of a secret key that tells no check value, though another one does, may be one that nobody has proved:
    whoever made it was killed in between. It is given the check value, which only the same key takes."""
    held = item.held
    if held.identity.object_class != ck.CKO_SECRET_KEY:
        return
    told = kept.slot.identity.get(ck.CKA_CHECK_VALUE)
    may = flag(dict(held.settings).get(ck.CKA_MODIFIABLE))
    if told and may and not held.identity.get(ck.CKA_CHECK_VALUE):
        before = item.identity
        proved = Attribute(ck.CKA_CHECK_VALUE, told)
        changes.append(Change(item.member, held.real, before, before.after((proved,)), (proved,), False))


def _value(item: Item, slot: Slot) -> tuple[tuple[int, ...], tuple[int, int] | None]:
    """CKA_VALUE of a public object that was changed elsewhere, and who has it."""
    if item.held.identity.value_hash == item.identity.value_hash:
        return (), None
    for member in sorted(slot.items):
        other = slot.items[member]
        if other.held.identity.value_hash == item.identity.value_hash:
            return (ck.CKA_VALUE,), (member, other.held.real)
    return (ck.CKA_VALUE,), None


def unmendable_value(item: Item, fetched: tuple[int, ...], origin: tuple[int, int] | None) -> bool:
    """Whether what the object has to become cannot be had from anywhere, or is in no attribute that can be set."""
    return (bool(fetched) and origin is None) or unmendable(item)


def _copy(
    member: int,
    kept: Kept,
    alone: bool,
    strategies: Sequence[Reach],
    copies: list[Copy],
    conflicts: list[Conflict],
) -> None:
    """Bring one object to a member that has none. `alone`: all others have it. Where another one lacks it as well, and
    serves, nothing is gained by keeping this one out."""
    slot, identity = kept.slot, kept.slot.identity
    source = next((slot.items[each] for each in sorted(slot.items) if not slot.items[each].stuck), None)
    if source is None:
        return
    obstacle = _obstacle(kept, strategies)
    if obstacle is not None:
        is_key = identity.object_class in KEY_CLASSES
        conflicts.append(Conflict(member, identity, obstacle, bars=alone, pinnable=is_key))
        return
    record = kept.record if _stays(kept, strategies) or kept.tells_dates else None
    copies.append(Copy(member, source.member, source.held.real, identity, kept.settings, record))


def _stays(kept: Kept, strategies: Sequence[Reach]) -> str | None:
    """Why a key cannot be carried off the member that it is copied from, so that it takes its record; None where it
    can, and where it is no key."""
    identity = kept.slot.identity
    strategy = choose(strategies, identity.object_class or 0, identity.key_type or 0)
    if identity.object_class not in KEY_CLASSES or strategy is None:
        return None
    # Of what it is there, and of what it is to be: it may have been closed meanwhile.
    settled = strategy.obstacle(dict(kept.settings))
    return strategy.obstacle(dict(kept.slot.first.held.settings)) if settled is None else settled


def _obstacle(kept: Kept, strategies: Sequence[Reach]) -> str | None:
    """Why an object cannot be brought to another member, as far as can be told beforehand."""
    identity = kept.slot.identity
    object_class, key_type = identity.object_class or 0, identity.key_type
    if object_class not in KEY_CLASSES:
        known = attributes_to_create(object_class, key_type)
        return None if known else "objects of its class cannot be created elsewhere"
    reason = unclonable(strategies, object_class, key_type or 0)
    return reason or (_stays(kept, strategies) if kept.record is None else None)


def _unclear(items: Sequence[Item], members: int) -> list[Conflict]:
    exact = all(is_exact(item.identity) for item in items)
    return [Conflict(member, items[0].identity, _ALIKE, bars=True, pinnable=not exact) for member in range(members)]


def _hidden(copy: Copy) -> Conflict:
    """It may be what cannot be read there; or a tombstone of it is."""
    is_key = copy.identity.object_class in KEY_CLASSES
    return Conflict(copy.member, copy.identity, _UNREAD, bars=True, pinnable=is_key)


def _doubtful(key: Kept, member: int) -> Conflict:
    return Conflict(member, key.slot.identity, "it has several escrow records, and which is its own cannot be told")
