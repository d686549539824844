"""What is left after a resync in which a member refused steps: carried out on tokens that are plain values, by the
passes of the real thing (SEMANTICS.md section 5, docs/resync.md)."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute
from pyha.ha.inventory import Inventory
from pyha.ha.steps import Change, Delete, Step, Write
from pyha.ha.tombstones import Tombstone
from pyha.runtime import resync
from pyha.runtime.inventory import Memory
from pyha.runtime.outcomes import Refusal
from pyha.runtime.together import Together
from tests.unit.model_tokens import GROUP, LEAVES, NAMES, STAYS, Token, carry_out, data, planned, secret

Refuses = Callable[[Step], bool]


def resynchronised(
    monkeypatch: pytest.MonkeyPatch, tokens: list[Token], refuses: Refuses = lambda step: False, rv: int = 0
) -> resync.Outcome:
    """A resync of the first two of three members, which refuse some steps with `rv`."""

    def read(group: Any, token: Any, memory: Memory, reads: Any) -> tuple[Inventory, frozenset[int]]:
        return token.inventory(), frozenset()

    def step(group: Any, members: Any, lookouts: Any, each: Step) -> None:
        if refuses(each):
            raise Refusal(rv or ck.CKR_ACTION_PROHIBITED, "refused")
        carry_out(tokens, each)

    lookout = SimpleNamespace(ours={}, look=lambda: None)
    monkeypatch.setattr(resync, "read_inventory", read)
    monkeypatch.setattr(resync, "carry_out", step)
    monkeypatch.setattr(resync, "count", lambda group, token: len(token.content()))
    monkeypatch.setattr(resync, "afresh", lambda group, members, until: members)
    monkeypatch.setattr(resync, "Lookout", lambda *arguments: lookout)
    monkeypatch.setattr(Together, "begin", lambda *arguments: [])  # each step goes by itself
    monkeypatch.setattr(resync, "_configured", lambda group: frozenset(NAMES))
    settings = SimpleNamespace(members=[SimpleNamespace(recorded_as=name) for name in NAMES])
    group: Any = SimpleNamespace(clock=lambda: 0.0, name=NAMES.__getitem__, settings=settings, strategies=())
    members: Any = tuple(enumerate(tokens))
    return resync.resynchronise(group, members)


def deleted(what: Any, *pending: str) -> Tombstone:
    return Tombstone(GROUP, what, None, (), frozenset(pending), 1)


@pytest.mark.parametrize("rv", [ck.CKR_DEVICE_MEMORY, ck.CKR_GENERAL_ERROR])
def test_a_tombstone_stays_where_the_one_that_takes_its_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, rv: int
) -> None:
    """Else a member that is full forgets what the third one has missed, and it comes back with that one."""
    gone = secret(b"gone", b"123")
    tokens = [Token(), Token()]
    tokens[0].bury(deleted(gone, "b", "c"))
    tokens[1].add(gone)
    resynchronised(monkeypatch, tokens, lambda step: isinstance(step, Write) and step.member == 0, rv)
    assert tokens[1].objects == {}
    third = Token()
    third.add(gone)
    # The second one is away by now.
    made = planned([tokens[0], third], whole=False, names=("a", "c"))
    assert [type(step) for step in made.steps if not isinstance(step, Write)][:1] == [Delete], made.steps


def test_what_was_renamed_and_cannot_be_does_not_come_back_under_its_old_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    was, now = secret(b"old", b"123"), secret(b"new", b"123")
    tokens = [Token(), Token()]
    tokens[0].add(now)
    tokens[0].bury(Tombstone(GROUP, was, now, (Attribute(ck.CKA_LABEL, b"new"),), frozenset("b"), 1))
    tokens[1].add(was, (*LEAVES, (ck.CKA_MODIFIABLE, b"\0")))
    for _ in range(2):
        outcome = resynchronised(monkeypatch, tokens)
        assert outcome.bars("b", pinned=False)
        assert [identity for identity, _ in tokens[0].objects.values()] == [now]
        assert len(tokens[1].objects) == 1


def test_what_cannot_be_had_from_anywhere_any_more_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value was changed meanwhile, and once more by a vendor's tool."""
    was, now, other = (data(b"d", value) for value in (b"1", b"2", b"3"))
    tokens = [Token(), Token()]
    tokens[0].add(other)
    tokens[0].bury(Tombstone(GROUP, was, now, (), frozenset("b"), 1))
    tokens[1].add(was)
    for _ in range(2):
        outcome = resynchronised(monkeypatch, tokens)
        assert outcome.bars("b", pinned=False)
        assert [identity for identity, _ in tokens[0].objects.values()] == [other]


def test_a_difference_that_stays_keeps_no_tombstone_of_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that refuses a change serves where it weakens nothing; what it has applied must not be written for ever,
    nor be applied again to what is made since."""
    gone, kept = secret(b"gone", b"123"), secret(b"kept", b"456")
    tokens = [Token(), Token()]
    tokens[0].bury(deleted(gone, "b"))
    tokens[0].add(kept, (*LEAVES, (ck.CKA_URL, b"1")))
    tokens[1].add(kept, (*LEAVES, (ck.CKA_URL, b"2")))
    tokens[1].add(gone)
    outcome = resynchronised(monkeypatch, tokens, lambda step: isinstance(step, Change))
    assert outcome.left
    assert not outcome.bars("b", pinned=False)
    assert [len(token.objects) for token in tokens] == [1, 1]
    left = [each.pending for token in tokens for each in token.tombstones.values()]
    assert all("b" not in pending for pending in left), left


def test_a_renamed_key_gets_its_name_though_it_cannot_be_kept_from_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    was, now = secret(b"old", b"123"), secret(b"new", b"123")
    tokens = [Token(), Token()]
    tokens[0].add(now, STAYS)
    tokens[0].bury(Tombstone(GROUP, was, now, (Attribute(ck.CKA_LABEL, b"new"),), frozenset("b"), 1))
    tokens[1].add(was, LEAVES)
    assert resynchronised(monkeypatch, tokens).left
    assert [[identity for identity, _ in token.objects.values()] for token in tokens] == [[now], [now]]
