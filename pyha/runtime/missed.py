"""What members miss is written down on those that are in, before it happens there.

One `Missed` accompanies one object through one call: `cover` before each step that changes it, `settle` when the call
is over. As long as every member concerned is in, nothing is written and no member is asked.

Source: SEMANTICS.md section 5; docs/records.md (tombstones).
"""

import time
from collections.abc import Callable, Iterable

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Template
from pyha.ha.identity import Identity
from pyha.ha.tombstones import Tombstone, laid_upon, recordable, united
from pyha.runtime import log, tombstones
from pyha.runtime.group import GroupRuntime, NobodyLeft
from pyha.runtime.member import Connection
from pyha.runtime.outcomes import Refusal, refused
from pyha.runtime.steps import Placed, on_each, step


class Missed:
    """The tombstone of one object for one call. `what`: the name of its function. `was`, `now`, `changes`: as a
    Tombstone has them; `absent`: tells who misses it, from time to time more."""

    def __init__(
        self,
        group: GroupRuntime,
        what: str,
        was: Identity,
        now: Identity | None,
        changes: Template,
        absent: Callable[[], frozenset[str]],
    ) -> None:
        self._group = group
        self._what = what
        self._was = was
        self._now = now
        self._changes = recordable(changes, was.object_class)
        self._absent = absent
        self._earlier: list[Tombstone] | None = None
        self._written: Tombstone | None = None
        self._placed = Placed(self._what)
        self._gone: tuple[Tombstone, ...] = ()
        # Handles of the earlier ones: by the connection's generation, member and count of logins, with which they go.
        self._seen: dict[tuple[int, int, int], list[int]] = {}

    def cover(self) -> None:
        """Whoever is missing now is named by a tombstone on every member that is in. Raises Refusal where one of them
        does not take it, NobodyLeft."""
        absent = self._absent()
        while absent and (self._written is None or not absent <= self._written.pending):
            self._write(absent)
            absent = self._absent()

    def cover_at_last(self) -> None:
        """The same when the change is done and cannot be refused any more. Raises nothing."""
        try:
            self.cover()
        except (Refusal, NobodyLeft) as refusal:
            label = self._group.settings.label
            who = ", ".join(sorted(self._absent()))
            what = "what was deleted may come back" if self._now is None else "a change may be lost"
            log.log("error", f'group "{label}": no tombstone for {who}, {what}: {refusal}')

    def is_told(self) -> bool:
        """Whether a tombstone that is seen speaks of an earlier object like this one, on a member that is in. Raises
        Refusal, NobodyLeft."""
        if self._earlier is None:
            self._earlier = united(self._found())
        settings = self._group.settings.members
        inside = {settings[index].recorded_as for index, _ in self._group.present()}
        return any(each.pending & inside and each.was.same(self._was) for each in self._earlier)

    def settle(self) -> None:
        """The call is over: what the tombstone takes the place of goes. Raises nothing but NobodyLeft."""
        if not self._gone:
            return
        gone, self._gone = self._gone, ()

        def work(index: int, connection: Connection) -> None:
            def attempt(deadline: float) -> tuple[int, None]:
                # Searched for once only: among hundreds of records a search is what takes time.
                seen = self._seen.get((connection.generation, index, connection.logins))
                tombstones.remove(connection, self._group.settings.id, self._was, gone, deadline, seen)
                return ck.CKR_OK, None

            step(self._group, index, connection, "C_DestroyObject", attempt)

        try:
            on_each(self._group, self._what, work)
        except Refusal as refusal:
            log.log("warning", f'group "{self._group.settings.label}": a superseded tombstone stays: {refusal}')

    def take_back(self) -> None:
        """Nothing was deleted or changed after all. Raises nothing."""
        self._placed.take_back(self._group)
        self._written, self._gone = None, ()

    def _write(self, absent: frozenset[str]) -> None:
        if self._earlier is None:
            self._earlier = united(self._found())
        made, before, narrow = time.time_ns(), self._written, self._placed
        if before is not None:
            # A tombstone is never widened: a later one takes its place.
            made, absent = max(made, before.made + 1), absent | before.pending
        new = Tombstone(self._group.settings.id, self._was, self._now, self._changes, absent, made)
        new, self._gone = laid_upon(new, self._earlier)
        self._placed = Placed(self._what)

        def find(connection: Connection, session: int, deadline: float) -> list[int]:
            found = tombstones.find(connection, self._group.settings.id, deadline, self._was)
            return [real for real, tombstone in found if tombstone == new][:1]

        def work(index: int, connection: Connection) -> None:
            rv, real = step(
                self._group,
                index,
                connection,
                "C_CreateObject",
                lambda deadline: tombstones.write(connection, new, deadline),
            )
            if rv != ck.CKR_OK or real is None:
                raise refused(rv, f"member {self._group.name(index)} refused the tombstone")
            self._placed.add(index, connection, real, find, equal=True)

        try:
            on_each(self._group, self._what, work)
        except BaseException:
            self._placed.take_back(self._group)
            self._placed = narrow
            raise
        self._written = new
        # Not before: in between the narrower one has to be there.
        narrow.take_back(self._group)

    def _found(self) -> Iterable[Tombstone]:
        def work(index: int, connection: Connection) -> list[Tombstone]:
            def attempt(deadline: float) -> tuple[int, list[Tombstone]]:
                logins = connection.logins
                found = tombstones.find(connection, self._group.settings.id, deadline, self._was)
                self._seen[connection.generation, index, logins] = [real for real, _ in found]
                return ck.CKR_OK, [tombstone for _, tombstone in found]

            return step(self._group, index, connection, "C_GetAttributeValue", attempt)[1] or []

        return [tombstone for _, found in on_each(self._group, self._what, work) for tombstone in found]
