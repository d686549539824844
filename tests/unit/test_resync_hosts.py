"""Random histories of two hosts, each of which sees other members, and dies in the middle of what it does: once all
come together all members hold the same, nothing is lost, and what was deleted is gone (SEMANTICS.md section 5).

PYHA_EXAMPLES in the environment is how many histories are tried.
"""

import os
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pyha.cryptoki import constants as ck
from pyha.ha.identity import Identity, identity_of
from pyha.ha.inventory import name_of
from pyha.ha.resync import PASSES
from pyha.ha.tombstones import Tombstone, laid_upon
from tests.unit.model_tokens import GROUP, LEAVES, NAMES, STAYS, Token, carry_out, data, planned, record_of, secret

EXAMPLES = int(os.environ.get("PYHA_EXAMPLES", "100"))
NEVER = 99

_HOSTS, _MEMBERS = st.integers(0, 1), st.integers(0, 2)
_DIES = st.one_of(st.just(NEVER), st.just(NEVER), st.integers(0, 7))
_EVENTS = st.one_of(
    st.tuples(_HOSTS, st.just("make"), st.sampled_from(["data", "key", "sealed", "imported"]), _DIES),
    st.tuples(_HOSTS, st.just("delete"), st.integers(0, 9), _DIES),
    st.tuples(_HOSTS, st.just("rename"), st.integers(0, 9), _DIES),
    st.tuples(_HOSTS, st.just("cut"), _MEMBERS, st.just(0)),
    st.tuples(_HOSTS, st.just("back"), st.just(0), st.integers(0, 6)),
)


@dataclass
class Hosts:
    """Three tokens, and which of them each host sees. `kept`, `deleted`: names of which the host was told so, and that
    nobody else has touched."""

    tokens: list[Token] = field(default_factory=lambda: [Token(), Token(), Token()])
    seen: list[list[int]] = field(default_factory=lambda: [[0, 1, 2], [0, 1, 2]])
    numbers: "count[int]" = field(default_factory=lambda: count(1))
    touched: dict[bytes, set[int]] = field(default_factory=dict)
    there: dict[bytes, bool | None] = field(default_factory=dict)
    left: int = NEVER

    def happen(self, host: int, what: str, which: Any, dies: int) -> None:
        self.left = dies
        if what == "cut":
            if len(self.seen[host]) > 1 and which in self.seen[host]:
                self.seen[host].remove(which)
        elif what == "back":
            self._back(host, dies)
        elif what == "make":
            self._make(host, which)
        else:
            self._change(host, what, which)

    def _goes_on(self) -> bool:
        """Whether the host lives to do one thing more."""
        self.left -= 1
        return self.left >= 0

    def _make(self, host: int, kind: str) -> None:
        label = b"i" if kind == "imported" else b"%d" % next(self.numbers)
        if kind == "imported" and any(
            identity.get(ck.CKA_LABEL) == label for token in self.tokens for identity, _ in token.objects.values()
        ):
            return  # made twice it would be there twice
        identity = data(label) if kind == "data" else secret(label, b"imp" if kind == "imported" else label.rjust(3))
        shown = STAYS if kind == "sealed" else LEAVES
        self._touch(host, label, None)
        for member in self.seen[host]:
            if kind == "sealed":
                if not self._goes_on():
                    return
                self.tokens[member].records[next(self.numbers) + 10**6] = record_entry(identity, shown)
        for member in self.seen[host]:
            if not self._goes_on():
                return
            self.tokens[member].add(identity, shown)
        away = self._away(host)
        told = any(
            each.pending & {NAMES[member] for member in self.seen[host]} and each.was.same(identity)
            for member in self.seen[host]
            for each in self.tokens[member].tombstones.values()
        )
        if away and not told and not self._bury(host, identity, identity, away):
            return
        self._touch(host, label, True)

    def _change(self, host: int, what: str, which: int) -> None:
        first = self.tokens[self.seen[host][0]]
        order = sorted(first.objects.values(), key=repr)
        if not order:
            return
        identity, shown = order[which % len(order)]
        label = identity.get(ck.CKA_LABEL) or b""
        now = None
        if what == "rename":
            new = label + b"'"
            if label == b"i" or label in (each.get(ck.CKA_LABEL) for each, _ in order if each != identity):
                return  # two of one name and value would be there, and which is which nobody could say
            now = identity_of({**dict(identity.attributes), ck.CKA_LABEL: new}, identity.value_hash)
            self._touch(host, new, None)
        self._touch(host, label, None)
        lacking = {NAMES[member] for member in self.seen[host] if not self._held(member, identity)}
        away = self._away(host) | lacking
        if away and not self._bury(host, identity, now, away):
            return
        if now is not None and record_of(identity, shown) in (each for _, each in first.records.values()):
            for member in self.seen[host]:
                if not self._goes_on():
                    return
                self.tokens[member].records[next(self.numbers) + 10**6] = record_entry(now, shown)
        for member in self.seen[host]:
            if not self._goes_on():
                return
            for real in self._held(member, identity)[:1]:
                _, own = self.tokens[member].objects.pop(real)
                if now is not None:
                    self.tokens[member].add(now, own)
        for member in self.seen[host]:
            if not self._goes_on():
                return
            records = self.tokens[member].records
            for at in [at for at, each in records.items() if each == record_entry(identity, shown)][:1]:
                del records[at]
        alone = self.touched[label] == {host}
        self.there[label] = False if alone else None
        if now is not None:
            self._touch(host, label + b"'", True if alone else None)

    def _held(self, member: int, identity: Identity) -> list[int]:
        return [real for real, (each, _) in self.tokens[member].objects.items() if each.same(identity)]

    def _away(self, host: int) -> frozenset[str]:
        return frozenset(name for member, name in enumerate(NAMES) if member not in self.seen[host])

    def _touch(self, host: int, label: bytes, there: bool | None) -> None:
        self.touched.setdefault(label, set()).add(host)
        self.there[label] = there if self.touched[label] == {host} else None

    def _bury(self, host: int, was: Identity, now: Identity | None, away: frozenset[str]) -> bool:
        """Whether it lived to do so on every member that it sees."""
        found = [
            each
            for member in self.seen[host]
            for each in self.tokens[member].tombstones.values()
            if each.filed_under.same(was)
        ]
        changes = ()
        made = Tombstone(GROUP, was, now, changes, away, next(self.numbers))
        upon, replaced = laid_upon(made, found)
        for member in self.seen[host]:
            if not self._goes_on():
                return False
            self.tokens[member].bury(upon)
        for member in self.seen[host]:
            held = self.tokens[member].tombstones
            for at in [at for at, each in held.items() if any(each.is_copy_of(gone) for gone in replaced)]:
                del held[at]
        return True

    def _back(self, host: int, cuts: int) -> None:
        """Those that the host does not see return to it, one by one, the first resync cut short."""
        for member in range(3):
            if member not in self.seen[host]:
                self._resync([*self.seen[host], member], cuts)
                for _ in range(PASSES):
                    self._resync([*self.seen[host], member], None)
                self.seen[host] = sorted([*self.seen[host], member])

    def _resync(self, members: list[int], cut: int | None) -> None:
        tokens = [self.tokens[each] for each in members]
        made = planned(tokens, len(members) == 3, names=[NAMES[each] for each in members])
        for step in made.steps[:cut]:
            carry_out(tokens, step)

    def come_together(self) -> None:
        """What `pyha group sync` does with all three."""
        for _ in range(PASSES):
            self._resync([0, 1, 2], None)


def record_entry(identity: Identity, shown: Any) -> tuple[bytes, Any]:
    """The record of a key as a token of the model holds it."""
    token = Token()
    token.add(identity, shown, record_of(identity, shown))
    return next(iter(token.records.values()))


@settings(max_examples=EXAMPLES, deadline=None, derandomize="PYHA_EXAMPLES" not in os.environ)
@given(st.lists(_EVENTS, min_size=4, max_size=16))
def test_in_the_end_all_members_agree(events: list[tuple[int, str, Any, int]]) -> None:
    hosts = Hosts()
    for event in events:
        hosts.happen(*event)
    hosts.come_together()
    left = planned(hosts.tokens)
    assert left.steps == ()
    assert left.conflicts == ()
    contents = [token.content() for token in hosts.tokens]
    assert contents[0] == contents[1] == contents[2]
    assert not contents[0][2], "no tombstone is left"
    labels = [identity.get(ck.CKA_LABEL) for identity, _ in hosts.tokens[0].objects.values()]
    assert len({name_of(identity) for identity, _ in hosts.tokens[0].objects.values()}) == len(labels)
    for label, there in hosts.there.items():
        if there is not None:
            assert (label in labels) == there, label
    sealed = [identity for identity, shown in hosts.tokens[0].objects.values() if shown == STAYS]
    assert sorted(map(repr, (record_of(each) for each in sealed))) == sorted(
        repr(each) for _, each in hosts.tokens[0].records.values()
    )
