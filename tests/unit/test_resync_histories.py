"""Random histories of three members that come and go: whatever happened, and wherever a resync was interrupted, in the
end all hold the same, and nothing is lost and nothing deleted is back (SEMANTICS.md section 5)."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute
from pyha.ha.identity import Identity, identity_of
from pyha.ha.inventory import Settings, name_of
from pyha.ha.records import record_label
from pyha.ha.resync import PASSES
from pyha.ha.superseding import renamed
from pyha.ha.tombstones import Tombstone, laid_upon
from tests.unit.model_tokens import GROUP, LEAVES, NAMES, STAYS, Token, carry_out, data, planned, record_of, rsa, secret

Event = tuple[str, Any, Any]
_MEMBERS = st.integers(0, 2)
_EVENTS = st.one_of(
    st.tuples(st.just("data"), st.sampled_from([b"x", b"y"]), st.sampled_from([b"1", b"2"])),
    st.tuples(st.sampled_from(["key", "sealed"]), st.sampled_from([b"x", b"y"]), st.just(b"")),
    st.tuples(st.just("rsa"), st.sampled_from([b"x", b"y"]), st.sampled_from([b"m", b"n"])),
    st.tuples(st.just("delete"), st.integers(0, 9), st.just(b"")),
    st.tuples(st.just("rename"), st.integers(0, 9), st.sampled_from([b"x", b"y", b"z"])),
    st.tuples(st.just("forbid"), st.integers(0, 9), st.just(b"\0")),
    st.tuples(st.just("allow"), st.integers(0, 9), st.just(b"\1")),
    st.tuples(st.just("away"), _MEMBERS, st.just(b"")),
    st.tuples(st.just("back"), _MEMBERS, st.integers(0, 4)),
)


@dataclass
class World:
    """Three tokens, and who is in. Every object is on all that are in, with the same number there."""

    tokens: list[Token] = field(default_factory=lambda: [Token(), Token(), Token()])
    inside: list[int] = field(default_factory=lambda: [0, 1, 2])
    numbers: "count[int]" = field(default_factory=lambda: count(1))

    def happen(self, what: str, which: Any, how: Any) -> None:
        if what in ("data", "key", "sealed", "rsa"):
            self._create(what, which, how)
        elif what == "away":
            if len(self.inside) > 1 and which in self.inside:
                self.inside.remove(which)
        elif what == "back":
            if which not in self.inside:
                self._return(which, how)
        else:
            self._change(what, which, how)

    def _create(self, what: str, label: bytes, value: bytes) -> None:
        number = next(self.numbers)
        identity = {
            "data": lambda: data(label, value),
            "rsa": lambda: rsa(label, value),
        }.get(what, lambda: secret(label, number.to_bytes(3, "big")))()
        for member in self.inside:
            sealed = what == "sealed"
            shown = STAYS if sealed else LEAVES
            self.tokens[member].add(identity, shown, record_of(identity, shown) if sealed else None)

    def _change(self, what: str, which: int, value: bytes) -> None:
        """The object of that number in the order of names, on every member that is in."""
        first = self.tokens[self.inside[0]]
        order = sorted(first.objects.values(), key=repr)
        if not order:
            return
        identity, shown = order[which % len(order)]
        after, changes = self._after(what, identity, shown, value)
        away = frozenset(name for member, name in enumerate(NAMES) if member not in self.inside)
        if away:
            self._bury(identity, after[0] if after else None, changes, away)
        for member in self.inside:
            token = self.tokens[member]
            real = next(real for real, each in token.objects.items() if each == (identity, shown))
            records = [at for at, (label, each) in token.records.items() if each == record_of(identity, shown)]
            del token.objects[real]
            for at in records[:1]:
                del token.records[at]
            if after:
                token.add(*after, record_of(*after) if records else None)

    @staticmethod
    def _after(
        what: str, identity: Identity, shown: Settings, value: bytes
    ) -> tuple[tuple[Identity, Settings] | None, tuple[Attribute, ...]]:
        if what == "delete":
            return None, ()
        if what == "rename":
            now = identity_of({**dict(identity.attributes), ck.CKA_LABEL: value}, identity.value_hash)
            return (now, shown), (Attribute(ck.CKA_LABEL, value),)
        changed = tuple((kind, value if kind == ck.CKA_SIGN else each) for kind, each in shown)
        return (identity, changed), (Attribute(ck.CKA_SIGN, value),)

    def _bury(self, was: Identity, now: Identity | None, changes: tuple[Attribute, ...], away: frozenset[str]) -> None:
        made = Tombstone(GROUP, was, now, changes, away, next(self.numbers))
        for member in self.inside:
            held = self.tokens[member].tombstones
            found = [each for each in held.values() if each.filed_under.same(was)]
            upon, replaced = laid_upon(made, found)
            for at in [at for at, each in held.items() if each in replaced]:
                del held[at]
            self.tokens[member].bury(upon)

    def _return(self, member: int, interruptions: int) -> None:
        """Resynchronise, interrupted after the first step, the second ..., and then to its end."""
        for cut in [*range(interruptions), None]:
            self._carry_out([*self.inside, member], cut)
        self.inside = sorted([*self.inside, member])

    def _carry_out(self, members: list[int], cut: int | None) -> None:
        tokens = [self.tokens[each] for each in members]
        made = planned(tokens, len(members) == 3, names=[NAMES[each] for each in members])
        for step in made.steps[:cut]:
            carry_out(tokens, step)

    def come_together(self) -> None:
        """Everybody returns, and all of them make up what is left, as often as `pyha group sync` does."""
        for member in range(3):
            if member not in self.inside:
                self._return(member, 0)
        for _ in range(PASSES):
            self._carry_out([0, 1, 2], None)


def certain(world: World) -> bool:
    """Whether no two objects are alike but for their settings: then nothing is left undecided."""
    return all(len({each for each, _ in token.objects.values()}) == len(token.objects) for token in world.tokens)


@settings(max_examples=300, deadline=None)
@given(st.lists(_EVENTS, max_size=25))
def test_in_the_end_all_hold_the_same_as_those_who_were_in(events: list[Event]) -> None:
    world = World()
    alike = False
    for event in events:
        world.happen(*event)
        alike |= not certain(world)
    expected = world.tokens[world.inside[0]].content()[0]
    world.come_together()
    left = planned(world.tokens)
    assert left.steps == ()
    if not alike:
        assert left.conflicts == ()
    if not left.conflicts:
        contents = [token.content() for token in world.tokens]
        assert contents[0] == contents[1] == contents[2]
        assert not contents[0][2], "no tombstone is left"
        shown = world.tokens[0].objects.values()
        keys = [each for each, own in shown if (ck.CKA_EXTRACTABLE, b"\0") in own]
        assert sorted(map(record_label, keys)) == sorted(label for label, _ in world.tokens[0].records.values())
        if not alike:
            assert contents[0][0] == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(_EVENTS, max_size=12), st.lists(_EVENTS, max_size=12), _MEMBERS)
def test_after_each_side_was_alone_they_agree_and_nothing_is_lost(
    first: list[Event], second: list[Event], alone: int
) -> None:
    world = World()
    world.inside = [member for member in range(3) if member != alone]
    for event in first:
        if event[0] not in ("away", "back"):
            world.happen(*event)
    there_deleted = {name_of(each.was) for each in world.tokens[world.inside[0]].tombstones.values()}
    kept = {name_of(identity) for identity, _ in world.tokens[world.inside[0]].objects.values()}
    world.inside = [alone]
    for event in second:
        if event[0] not in ("away", "back"):
            world.happen(*event)
    deleted = {name_of(each.was) for each in world.tokens[alone].tombstones.values()}
    own = {name_of(identity) for identity, _ in world.tokens[alone].objects.values()}
    world.come_together()
    left = planned(world.tokens)
    assert left.steps == ()
    for token in world.tokens:
        there = {name_of(identity) for identity, _ in token.objects.values()}
        if not left.conflicts:
            assert kept - deleted <= there
            # What it made anew exactly as the others deleted it cannot be told from what they deleted.
            assert own - there_deleted <= there


def test_renamed_is_the_inverse_of_itself() -> None:
    was, now = secret(b"x", b"123"), secret(b"y", b"123")
    assert renamed(renamed(was, was, now), now, was) == was
