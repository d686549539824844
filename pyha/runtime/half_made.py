"""A creation that is taken back: what it made on the members that are in, and what it may have made on those that were
lost in the middle of it.

The latter cannot be looked at. A tombstone on the others names them, so that their resync clears it away; a member that
is in is never named.

Source: SEMANTICS.md sections 3 (the half-made object is cleared) and 5; docs/records.md (tombstones).
"""

from pyha.cryptoki import constants as ck
from pyha.ha.domain import APPLICATION
from pyha.ha.identity import Identity
from pyha.runtime import log
from pyha.runtime.group import GroupRuntime
from pyha.runtime.making import identity_on
from pyha.runtime.member import MemberLost
from pyha.runtime.missed import Missed
from pyha.runtime.outcomes import Refusal
from pyha.runtime.steps import Placed


class Creation:
    """One creating call: `placed`: the token objects that it has made so far. `what`: the function's name."""

    def __init__(self, group: GroupRuntime, what: str) -> None:
        self.placed = Placed(what)
        self._group = group
        self._what = what
        self._marks: list[Missed] = []
        self._in = {index: each.generation for index, each in enumerate(group.connections) if each is not None}

    def lost(self) -> frozenset[str]:
        """Who was in when it began and has been lost since."""
        now = self._group.connections
        members = self._group.settings.members
        return frozenset(
            members[index].recorded_as
            for index, generation in self._in.items()
            if (connection := now[index]) is None or connection.generation != generation
        )

    def made(self, identity: Identity) -> None:
        """The token object is there. A member that is away may hold a tombstone of an earlier one like it, which names
        members that are in now: so it is written down for it that this is a new one. Where such a tombstone is seen it
        does no harm, because those that hold it hold the new one too. Raises Refusal, NobodyLeft."""
        if not self._group.missing():
            return
        mark = Missed(self._group, self._what, identity, identity, (), self._group.missing)
        if mark.is_told():
            return
        self._marks.append(mark)
        mark.cover()

    def take_back(self) -> None:
        """Nothing of it stays, on no member. Raises nothing."""
        for mark in self._marks:
            mark.take_back()
        identities = self._identities()
        missed = [Missed(self._group, self._what, each, None, (), self.lost) for each in identities]
        for each in missed:
            each.cover_at_last()
        self.placed.take_back(self._group)
        for each in missed:
            # Once more: another may have been lost while it was taken back there.
            each.cover_at_last()
            each.settle()
        if not identities:
            self.warn()

    def warn(self) -> None:
        """Say of members that were lost on the way what nobody can tell of what they hold."""
        lost = ", ".join(sorted(self.lost()))
        if lost:
            label = self._group.settings.label
            log.log("warning", f'group "{label}": {self._what}: the token {lost} may hold what it was making when lost')

    def _identities(self) -> list[Identity]:
        """What was made, each once; the group's own records belong to their keys."""
        found: list[Identity] = []
        for made in self.placed.objects:
            if made.forgotten or self._group.connections[made.index] is not made.connection:
                continue
            try:
                identity = identity_on(self._group, made.index, made.connection, made.real)
            except MemberLost as loss:
                self._group.lost(made.index, made.connection.generation, str(loss))
                continue
            except Refusal:
                continue
            if identity is None or identity.get(ck.CKA_APPLICATION) == APPLICATION or not identity.token:
                continue
            if not any(identity.same(each) for each in found):
                found.append(identity)
        return found
