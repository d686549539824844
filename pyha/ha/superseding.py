"""What tombstones mean for the objects of the members that have not applied them.

Pure. Gives each object of each member as it is to be taken: gone, under its new name, or as one about which the others
know better. Nothing is deleted or renamed that cannot be told from what a tombstone does not speak of.

Source: docs/records.md (how a tombstone is applied).
"""

from collections.abc import Iterable, Iterator, Sequence

from pyha.cryptoki.plain import dataclass, field, replace
from pyha.ha.identity import READ, Identity, identity_of
from pyha.ha.inventory import Held, HeldTombstone, Name, Side, name_of, print_of
from pyha.ha.steps import Conflict
from pyha.ha.tombstones import Tombstone

_ALIKE = "several objects there are like one that was {what} meanwhile, and which it was cannot be told"


@dataclass(slots=True)
class Item:
    """One object of a member on its way through the plan. `identity`: as it has to be. `yields`: attributes that the
    members without this object's tombstones know better. `gone`: a tombstone deletes it. `superseded`: one changes it.
    `stuck`: one of several of which a tombstone speaks, and nobody knows of which, or one that cannot become what it
    has to: it goes to no other member.
    `graves`: the tombstones that change it. `finished`: one says that an object like it was made, to its end."""

    member: int
    held: Held
    identity: Identity
    yields: set[int] = field(default_factory=set)
    gone: bool = False
    superseded: bool = False
    stuck: bool = False
    graves: list["Grave"] = field(default_factory=list)
    finished: bool = False

    def cannot_follow(self) -> None:
        """It cannot be changed: as long as that is so its tombstones stay, else it would be taken for a new one."""
        self.stuck |= bool(self.graves)
        for grave in self.graves:
            grave.stuck.add(self.member)


@dataclass(slots=True)
class Grave:
    """One tombstone over all members that hold it. `pending`: members (`recorded_as`) that have not applied it. `held`:
    its copies on each member. `stuck`: members it cannot be applied on."""

    tombstone: Tombstone
    pending: frozenset[str]
    held: dict[int, list[HeldTombstone]] = field(default_factory=dict)
    stuck: set[int] = field(default_factory=set)


def graves_of(sides: Sequence[Side], configured: frozenset[str]) -> list[Grave]:
    """Every tombstone once, in the order of making. A member has applied it if any copy no longer names it; who is not
    configured any more never will."""
    found: dict[Tombstone, Grave] = {}
    for member, side in enumerate(sides):
        for held in side.inventory.tombstones:
            key = replace(held.tombstone, pending=frozenset())
            grave = found.setdefault(key, Grave(held.tombstone, configured))
            grave.pending &= held.tombstone.pending
            grave.held.setdefault(member, []).append(held)
    return sorted(found.values(), key=lambda grave: (grave.tombstone.made, repr(grave.tombstone)))


class Applied:
    """The objects of all members with the tombstones applied. `items`: by member. `conflicts`: what could not be."""

    def __init__(self, sides: Sequence[Side], graves: Sequence[Grave]) -> None:
        self.conflicts: list[Conflict] = []
        self.items = [
            [Item(member, held, held.identity) for held in sorted(side.inventory.objects, key=lambda each: each.real)]
            for member, side in enumerate(sides)
        ]
        self._sides = sides
        self._by_name: list[dict[Name, list[Item]]] = []
        for items in self.items:
            index: dict[Name, list[Item]] = {}
            for item in items:
                index.setdefault(name_of(item.identity), []).append(item)
            self._by_name.append(index)
        self._by_was: dict[Name, list[Grave]] = {}
        by_now: dict[Name, list[Grave]] = {}
        for grave in graves:
            self._by_was.setdefault(name_of(grave.tombstone.was), []).append(grave)
            by_now.setdefault(name_of(grave.tombstone.filed_under), []).append(grave)
        for grave in graves:
            name = name_of(grave.tombstone.was)
            later = [other for other in self._by_was[name] if _follows(other, grave)]
            later += [other for other in by_now.get(name, ()) if _takes_the_name(other, grave)]
            if grave.tombstone.of_making:
                for member in range(len(sides)):
                    for item in self._like(member, grave.tombstone.was):
                        item.finished = True
            for member, side in enumerate(sides):
                # A later one of its own: it has been through all this while it was alone.
                own = any(side.recorded_as not in other.pending for other in later)
                if side.recorded_as in grave.pending and not own:
                    self._apply(member, grave)

    def _apply(self, member: int, grave: Grave) -> None:
        if grave.tombstone.now is None:
            self._delete(member, grave)
        elif not grave.tombstone.of_making:
            self._change(member, grave, grave.tombstone.now)

    def _like(self, member: int, identity: Identity) -> list[Item]:
        found = self._by_name[member].get(name_of(identity), ())
        return [item for item in found if not item.gone and identity.same(item.identity)]

    def _delete(self, member: int, grave: Grave) -> None:
        was, count = grave.tombstone.was, grave.tombstone.count
        there = self._like(member, was)
        if not there:
            return
        # What the others hold of the same was made again, or was never deleted.
        elsewhere = list(self._like_on_the_others(member, grave))
        again = max((len(items) for items in elsewhere), default=0)
        if again == len(there) and any(_equal(there, items) for items in elsewhere):
            return
        told_apart = all(print_of(item.identity) is not None for item in there) and print_of(was) is not None
        spoken_of = count + self._count_of_later(member, grave)
        if len(there) > spoken_of + again or (len(there) > spoken_of and not told_apart):
            self._stuck(member, grave, there, "deleted")
            return
        kept = len(there) - count
        settings = {item.held.settings for items in elsewhere for item in items}
        # Of several, those stay that the others hold as they are.
        order = sorted(there, key=lambda each: (each.held.settings in settings, -each.held.real))
        for item in order[: len(there) - max(kept, 0)]:
            item.gone = True

    def _like_on_the_others(self, member: int, grave: Grave) -> Iterator[list[Item]]:
        for other, side in enumerate(self._sides):
            if other != member and side.recorded_as not in grave.pending:
                yield self._like(other, grave.tombstone.was)

    def _change(self, member: int, grave: Grave, now: Identity) -> None:
        was = grave.tombstone.was
        there = self._like(member, was) or self._like(member, now)
        if not there or self._is_changed(member, grave, there) or self._came_to_nothing(member, grave, now):
            return
        if len(there) > 1 and not _interchangeable(there):
            self._stuck(member, grave, there, "changed")
            return
        item = there[0]
        before = name_of(item.identity)
        item.identity = renamed(item.identity, was, now)
        item.superseded = True
        item.graves.append(grave)
        item.yields.update(each.type for each in grave.tombstone.changes)
        if name_of(item.identity) != before:
            self._by_name[member][before].remove(item)
            self._by_name[member].setdefault(name_of(item.identity), []).append(item)

    def _is_changed(self, member: int, grave: Grave, there: Sequence[Item]) -> bool:
        """Whether the change was carried out, and only not marked: as many are left as on others."""
        was, now = grave.tombstone.was, grave.tombstone.now
        if len(there) == 1:
            return False
        elsewhere = self._like_on_the_others(member, grave)
        if was == now:
            return any(_equal(there, items) for items in elsewhere)
        known = all(print_of(item.identity) is not None for item in there)
        return known and any(len(there) == len(items) for items in elsewhere)

    def _came_to_nothing(self, member: int, grave: Grave, now: Identity) -> bool:
        """Whether nobody has the new name, and others have the very object under the old one: whoever wrote the
        tombstone died before the change."""
        was = grave.tombstone.was
        if name_of(was) == name_of(now) or print_of(was) is None:
            return False
        others = [
            other for other, side in enumerate(self._sides) if other != member and side.recorded_as not in grave.pending
        ]
        return any(self._like(other, was) for other in others) and not any(self._like(other, now) for other in others)

    def _count_of_later(self, member: int, grave: Grave) -> int:
        """How many more of the same went, or got another name, by later tombstones."""
        return sum(
            other.tombstone.count
            for other in self._by_was[name_of(grave.tombstone.was)]
            if _follows(other, grave)
            and (other.tombstone.now is None or name_of(other.tombstone.now) != name_of(other.tombstone.was))
            and self._sides[member].recorded_as in other.pending
        )

    def _stuck(self, member: int, grave: Grave, there: Sequence[Item], what: str) -> None:
        grave.stuck.add(member)
        for item in there:
            item.stuck = True
        self.conflicts.append(Conflict(member, grave.tombstone.was, _ALIKE.format(what=what), bars=True))


def _follows(other: Grave, grave: Grave) -> bool:
    return other.tombstone.made > grave.tombstone.made and other.tombstone.was.same(grave.tombstone.was)


def _takes_the_name(other: Grave, grave: Grave) -> bool:
    now = other.tombstone.now
    return other.tombstone.made > grave.tombstone.made and now is not None and now.same(grave.tombstone.was)


def _equal(there: Iterable[Item], items: Iterable[Item]) -> bool:
    mine, theirs = (sorted(item.held.settings for item in each) for each in (there, items))
    return mine == theirs and all(print_of(item.identity) is not None for item in (*there, *items))


def _interchangeable(items: Sequence[Item]) -> bool:
    """Whether it makes no difference which of them is meant."""
    prints = {print_of(item.identity) for item in items}
    return None not in prints and len(prints) == len({item.held.settings for item in items}) == 1


def renamed(identity: Identity, was: Identity, now: Identity) -> Identity:
    """An object after a change that made `was` what is `now`."""
    attributes = dict(identity.attributes)
    for kind in READ:
        before, after = was.get(kind), now.get(kind)
        if before != after:
            attributes.pop(kind, None)
            if after is not None:
                attributes[kind] = after
    value_hash = identity.value_hash if was.value_hash == now.value_hash else now.value_hash
    twin = identity.twin if was.twin == now.twin else now.twin
    return identity_of(attributes, value_hash, twin)
