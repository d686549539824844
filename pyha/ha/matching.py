"""Which objects of several members are one and the same.

Pure. Objects of one name are sorted by their prints into classes, and within a class one object of each member goes to
one *slot*: what every member should have once. Where it cannot be told which is which, nobody guesses.

Source: SEMANTICS.md section 5 (duplicates are merged the same way everywhere).
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from pyha.cryptoki import constants as ck
from pyha.cryptoki.plain import dataclass, field
from pyha.ha.identity import Identity
from pyha.ha.inventory import Name, Settings, is_exact, name_of, print_of
from pyha.ha.superseding import Item


@dataclass(slots=True)
class Slot:
    """One object over all members. `items`: by member."""

    items: dict[int, Item] = field(default_factory=dict)

    @property
    def first(self) -> Item:
        """That of the first member which has it."""
        return self.items[min(self.items)]

    @property
    def identity(self) -> Identity:
        """As the member shows it that shows most."""
        if len(self.items) == 1:
            return self.first.identity
        return max((self.items[member].identity for member in sorted(self.items)), key=_shown)


@dataclass(slots=True)
class Matched:
    """`slots`; `surplus`: one too many of equal ones; `unclear`: objects of one name that cannot be told apart."""

    slots: list[Slot] = field(default_factory=list)
    surplus: list[Item] = field(default_factory=list)
    unclear: list[list[Item]] = field(default_factory=list)


def match(items: Iterable[Item]) -> Matched:
    """The slots of all objects, in an order that is the same on every host."""
    buckets: dict[Name, list[Item]] = {}
    for item in items:
        if not item.gone:
            buckets.setdefault(name_of(item.identity), []).append(item)
    matched = Matched()
    for name in sorted(buckets):
        classes = _classes(buckets[name])
        if classes is None:
            matched.unclear.append(buckets[name])
            continue
        for each in classes:
            _fill(_without_unfinished(each, matched), matched)
    return matched


def _shown(identity: Identity) -> int:
    return len(identity.attributes) + 2 * (identity.value_hash is not None) + 2 * (identity.twin is not None)


def _classes(items: Sequence[Item]) -> list[list[Item]] | None:
    """Objects of one name by print; None where those without one cannot be assigned."""
    if len(items) == 1:
        return [list(items)]
    marked = _by_mark(items)
    if marked is not None:
        return marked
    by_print: dict[bytes | None, list[Item]] = {}
    for item in items:
        by_print.setdefault(print_of(item.identity), []).append(item)
    unknown = by_print.pop(None, [])
    known: list[list[Item]] = [by_print[each] for each in sorted(by_print, key=lambda each: each or b"")]
    if not unknown:
        return known
    if not known:
        # As many on each member that has any: then they are taken to be the same ones.
        return [unknown] if len(set(_counts(unknown).values())) == 1 else None
    for item in unknown:
        missing = [each for each in known if item.member not in _counts(each)]
        alone = _counts(unknown)[item.member] == 1
        if not (alone and len(missing) == 1):
            return None
        # With the others of its class it must make no more than they have.
        if max(_counts(missing[0]).values()) != 1:
            return None
    for item in unknown:
        missing = [each for each in known if item.member not in _counts(each)]
        missing[0].append(item)
    return known


def _by_mark(items: Sequence[Item]) -> list[list[Item]] | None:
    """Objects of one name by their marks; None where not all have one, or where that does not say by which check value
    each class is told, and its record found."""
    if not all(item.held.mark for item in items):
        return None
    marks: dict[bytes, list[Item]] = {}
    for item in items:
        marks.setdefault(item.held.mark, []).append(item)
    told = {
        item.held.identity.get(ck.CKA_CHECK_VALUE) or b"": marked for marked, each in marks.items() for item in each
    }
    told.pop(b"", None)
    if sorted(told.values()) != sorted(marks):
        return None
    return [marks[told[each]] for each in sorted(told)]


def _without_unfinished(items: list[Item], matched: Matched) -> list[Item]:
    """Of secret keys that are one by their marks, those that are left when what nobody has finished is one too many: a
    copy that tells no check value, beside one like it on the same member that does, where no other member has as many.
    Who made it was killed in the call, and it came when another copy was there already. Not where a tombstone says that
    such a key was made while members were away: an application may have unwrapped one that it had."""
    if not items[0].held.mark or any(item.held.mark != items[0].held.mark for item in items):
        return items
    counts = _counts(items)
    surplus: list[Item] = []
    for member, count in counts.items():
        others = max((each for other, each in counts.items() if other != member), default=0)
        own = sorted((item for item in items if item.member == member), key=_order)
        told = {item.held.settings for item in own if item.held.identity.get(ck.CKA_CHECK_VALUE)}
        unfinished = [
            item
            for item in own
            if item.held.settings in told
            and not item.held.identity.get(ck.CKA_CHECK_VALUE)
            and not (item.graves or item.finished)
        ]
        surplus += unfinished[: max(count - max(others, 1), 0)]
    matched.surplus += surplus
    gone = {(item.member, item.held.real) for item in surplus}
    return [item for item in items if (item.member, item.held.real) not in gone]


def _counts(items: Iterable[Item]) -> Counter[int]:
    return Counter(item.member for item in items)


def _fill(items: list[Item], matched: Matched) -> None:
    """Put the objects of one class into slots: equal settings first, then in the order of their settings."""
    alone = {item.member: item for item in items}
    if len(alone) == len(items):  # one on each member that has any: they are one, whatever their settings
        matched.slots.append(Slot({member: alone[member] for member in sorted(alone)}))
        return
    slots: list[Slot] = []
    for member in sorted(_counts(items)):
        free: dict[Settings, list[Slot]] = {}
        for slot in reversed(slots):
            free.setdefault(slot.first.held.settings, []).append(slot)
        own = sorted((item for item in items if item.member == member), key=_order)
        left = [item for item in own if not _take(item, free.get(item.held.settings, []))]
        rest = [slot for slot in reversed(slots) if member not in slot.items]
        left = [item for item in left if not _take(item, rest)]
        for item in left:
            if is_exact(item.identity) and item.held.settings in free:
                matched.surplus.append(item)
            else:
                slots.append(Slot({member: item}))
    matched.slots += slots


def _order(item: Item) -> tuple[object, ...]:
    return (item.held.settings, item.held.real)


def _take(item: Item, free: list[Slot]) -> bool:
    """Put it into the last of these slots, if there is one."""
    if not free:
        return False
    free.pop().items[item.member] = item
    return True
