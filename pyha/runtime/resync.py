"""Resync: plan what makes members hold the same, and carry it out.

Knows members by their connections; one of them may be on its way back and not be in yet. What a member refuses is
named and left, and the rest goes on; when all is done a new plan is made, to see that nothing is left. The caller
excludes creations and changes meanwhile.

Source: SEMANTICS.md section 5; docs/resync.md.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from pyha.cryptoki.plain import dataclass
from pyha.ha.group import State
from pyha.ha.identity import Identity, identity_of
from pyha.ha.inventory import Side
from pyha.ha.marking import look_alikes, marked, of_names
from pyha.ha.replication import KEY_CLASSES
from pyha.ha.resync import PASSES, plan
from pyha.ha.settling import weakens
from pyha.ha.steps import Change, Clear, Conflict, Copy, Delete, Plan, Step, Write
from pyha.ha.telling import conflict_line, line
from pyha.runtime.afresh import Unreadable, afresh
from pyha.runtime.cloning import Place, SourceLost
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed
from pyha.runtime.inventory import Lookout, Memory, count, read_inventory
from pyha.runtime.marking import CHALLENGE, marks_of
from pyha.runtime.member import MemberLost, SessionRefused
from pyha.runtime.outcomes import Refusal, Unreplicable, is_without_reason
from pyha.runtime.resync_steps import carry_out, has_appeared
from pyha.runtime.strategy import strategies_of
from pyha.runtime.together import Rest, Together


class Beside:
    """What a resync asks about those who make and change objects. This one knows of nobody."""

    def goes_on(self, at: int) -> bool:
        """Asked before each step, by its number in the plan: whether to go on. May let others in meanwhile, whose doing
        the next plan sees. False: stop here."""
        return True

    def taken(self) -> int:
        """How often others were let in so far."""
        return 0

    def look(self) -> bool:
        """Asked between members, and between their objects, while they are read, and between the parts of a step: who
        makes or changes something just then can be noticed. Whether somebody was."""
        return False


Watch = Callable[[int, int, Callable[[], str]], None]
"""Told of each step that was carried out: (how many of them, of how many, what gives the step in words)."""


Reads = Callable[[int], None]
"""Told of each object that was read: how many of all members it were so far."""

_BLINK = 0.001
"""Seconds between two looks for others: to make or change an object on some members takes longer."""

_Key = tuple[type[Step], int, object]


class LostMeanwhile(Exception):
    """A member was lost in the middle of a resync: its index in the group, and why."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(reason)
        self.index, self.connection = place


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a resync came to. `names`: of the members, by the numbers that steps and conflicts have. `first`: the plan
    as it was made first. `done`: steps carried out. `left`: what it did not mend. `finished`: nothing else is left to
    do; False where it was only planned or stopped, or where others make objects all the time. `refused`: of `left`,
    what a member does not take of a tombstone."""

    names: tuple[str, ...]
    first: Plan
    done: int
    left: tuple[Conflict, ...]
    finished: bool
    refused: tuple[Conflict, ...] = ()

    def bars(self, name: str, pinned: bool) -> tuple[str, ...]:
        """Why this member may not serve, a line each. `pinned`: the group lets keys be on some members only."""
        return tuple(
            conflict_line(each, self.names)
            for each in self.left
            if self.names[each.member] == name and each.bars and not (each.pinnable and pinned)
        )


def resynchronise(
    group: GroupRuntime,
    members: Sequence[Place],
    only: int | None = None,
    dry: bool = False,
    beside: Beside | None = None,
    watch: Watch = lambda done, total, step: None,
    reads: Reads = lambda count: None,
) -> Outcome:
    """Make these members hold the same; those that serve come first. All are logged in as user. `only`: position of the
    one member that is to be changed. `dry`: only plan. Raises LostMeanwhile, Unreadable, and what `beside` raises."""
    work = _Work(group, tuple(members), only, beside or Beside(), watch, reads)
    with ExitStack() as looks:
        alike = work.seem_alike()
        made = work.plan() if alike else Plan()
        if made or not alike:
            work.look_afresh(looks)
            made = work.plan()
        first = made
        for _ in range(PASSES):
            steps = work.to_do(made)
            if dry or not steps:
                return work.outcome(first, made, finished=not steps)
            if not work.carry_out(steps):
                return work.outcome(first, made, finished=False)
            made = work.plan()
        steps = work.to_do(made)
        # Where there are still some: somebody of another host makes and changes objects all the time; the next attempt
        # goes on.
        return work.outcome(first, made if not steps else Plan(), finished=not steps)


class _Attributed:
    """A context in which the loss of a member is that of this one."""

    __slots__ = ("_place",)

    def __init__(self, place: Place) -> None:
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, MemberLost):
            raise LostMeanwhile(self._place, str(error)) from None


class _Troubles:
    """Steps that did not succeed, as far as others must not be carried out then."""

    def __init__(self) -> None:
        self._members: set[int] = set()  # where something that a tombstone tells of was not done
        self._unwritten: set[tuple[int, bytes]] = set()

    def add(self, step: Step) -> None:
        """This one failed. Of drift and duplicates no tombstone tells."""
        if isinstance(step, Delete | Change) and step.superseded:
            self._members.add(step.member)
        elif isinstance(step, Write):
            self._unwritten.add((step.member, step.label))

    def forbid(self, step: Step) -> bool:
        """Whether it would say that something is done which is not, or take the record away whose successor was not
        written there."""
        if not isinstance(step, Write | Clear):
            return False
        unwritten = isinstance(step, Clear) and (step.member, step.label) in self._unwritten
        return unwritten or bool(step.presumes & self._members)


class _Work:
    """One resync. `failed`: steps that a member refused, by what they were to do. `_doubted`: those that failed once
    without a reason."""

    def __init__(
        self,
        group: GroupRuntime,
        members: tuple[Place, ...],
        only: int | None,
        beside: Beside,
        watch: Watch,
        reads: Reads,
    ) -> None:
        self.failed: dict[_Key, Conflict] = {}
        self.names = tuple(group.name(index) for index, _ in members)
        self._group = group
        self._members = members
        self._only = only
        self._beside = beside
        self._watch = watch
        self._reads = reads
        self._turn = beside.taken()
        self._done = 0
        self._doubted: set[_Key] = set()
        self._troubles = _Troubles()
        self._lookouts: list[Lookout] = []
        self._memories = [Memory() for _ in members]

    def look_afresh(self, until: ExitStack) -> None:
        """From now on see the members as a process does that has just begun. Raises Unreadable."""
        self._members = afresh(self._group, self._members, until)
        self._memories = [Memory() for _ in self._members]

    def seem_alike(self) -> bool:
        """Whether all hold as many token objects: where not, a plan is made of a look afresh alone, and the members are
        not read once more for nothing. Raises LostMeanwhile, Unreadable."""
        counts = set()
        for place in self._members:
            with self._readable(place):
                counts.add(count(self._group, place[1]))
        return len(counts) < 2

    def plan(self) -> Plan:
        """Read what all members hold now. Raises LostMeanwhile, Unreadable."""
        if self._turn != self._beside.taken():
            # Others of this host were let in: what they changed on every member has no tombstone.
            self._turn = self._beside.taken()
            self._memories = [Memory() for _ in self._members]
        before = [each.tombstones() for each in self._memories]
        again = any(each.shown for each in self._memories)
        made = self._planned()
        tombstones = any(each.tombstones() - known for each, known in zip(self._memories, before, strict=True))
        if again and (tombstones or self.to_do(made)):
            # Somebody changes objects, and takes one of the members for absent: what we have read may be old. So it may
            # where there is more to do: by what another host changed on every member, on one it would be taken back.
            self._memories = [Memory() for _ in self._members]
            made = self._planned()
        return made

    def _planned(self) -> Plan:
        return plan(self._read(), _configured(self._group), self._only, strategies_of(self._group))

    def _read(self) -> list[Side]:
        sides: list[Side] = []
        for lookout, memory in zip(self._lookouts, self._memories, strict=False):
            for real, seen in lookout.ours.items():
                memory.keep(real, seen)
        self._lookouts = []
        counted = itertools.count(1)
        looked = self._group.clock()

        def told() -> None:
            nonlocal looked
            now = self._group.clock()
            if now - looked >= _BLINK:
                looked = now
                self._beside.look()
            self._reads(next(counted))

        for place, memory in zip(self._members, self._memories, strict=True):
            index, connection = place
            start = self._group.clock()
            with self._readable(place):
                inventory, handles = read_inventory(self._group, connection, memory, told)
            self._beside.look()
            self._lookouts.append(Lookout(self._group, connection, handles, start))
            recorded_as = self._group.settings.members[index].recorded_as
            sides.append(Side(self._group.name(index), recorded_as, inventory))
        return self._marked(sides)

    def _marked(self, sides: list[Side]) -> list[Side]:
        """With the marks of the secret keys that look alike, where members hold more and fewer of them."""
        names = look_alikes(sides)
        if not names:
            return sides
        challenge = os.urandom(CHALLENGE)
        marks = []
        for place, side in zip(self._members, sides, strict=True):
            with self._readable(place):
                marks.append(marks_of(self._group, place[1], of_names(side, names), challenge))
            self._beside.look()
        return marked(sides, names, marks)

    def to_do(self, made: Plan) -> tuple[Step, ...]:
        """The steps of a plan but those that failed, and those that say that one of these is done: a tombstone stays
        until its member has applied it, or the next plan would take what is left there for new, and copy it back."""
        return tuple(
            each for each in made.steps if self.key(each) not in self.failed and not self._troubles.forbid(each)
        )

    def carry_out(self, steps: Sequence[Step]) -> bool:
        """Whether it came to the end of them. Raises LostMeanwhile, Unreadable."""
        troubles = _Troubles()
        seen = self._turn
        together = Together(self._group, self._beside.look)
        rests: deque[Rest] = deque()
        for at, step in enumerate(steps):
            if not rests and not self._beside.goes_on(at):
                return False
            if seen != self._beside.taken():
                seen = self._beside.taken()
                self._see_others()
            if troubles.forbid(step):
                continue
            if isinstance(step, Change | Delete | Clear):
                self._memories[step.member].forget(step.real)
            try:
                with _Attributed(self._members[step.member]):
                    if not rests:
                        self._look(step)
                        rests.extend(together.begin(steps, at, self._members, self._is_void))
                    if rests:
                        self._finish(step.member, rests.popleft())
                    else:
                        carry_out(self._group, self._members, self._lookouts, step)
            except (Refusal, Unreplicable, SearchFailed, SessionRefused) as refusal:
                key = self.key(step)
                if _in_doubt(refusal) and key not in self._doubted:
                    # The next plan sees what has come of it, and has it done once more.
                    self._doubted.add(key)
                else:
                    self.failed[key] = _conflict(step, str(refusal))
                    self._troubles.add(step)
                troubles.add(step)
                continue
            except SourceLost as loss:
                assert isinstance(step, Copy | Change | Write)
                source = step.source if isinstance(step, Copy) else (step.origin or (0, 0))[0]
                raise LostMeanwhile(self._members[source], str(loss)) from None
            self._done += 1
            self._watch(at + 1, len(steps), partial(line, step, self.names))
        return True

    def _is_void(self, copy: Copy) -> bool:
        return has_appeared(self._lookouts[copy.member], copy)

    def _finish(self, member: int, rest: Rest) -> None:
        made = rest()
        if made is not None:
            self._lookouts[member].made(*made)

    def _see_others(self) -> None:
        """What those made who were let in has to be seen before anything is made here: SoftHSM, which does that by a
        count in a file, takes the count that its own object made for one that it knows, and misses theirs."""
        for place, lookout in zip(self._members, self._lookouts, strict=True):
            with self._readable(place):
                lookout.look(surely=True)

    def _look(self, step: Step) -> None:
        """See what others have made or deleted meanwhile, where that could be what the step is about."""
        if isinstance(step, Copy):
            self._lookouts[step.member].look()
            self._look_at_source(step.source)
        elif isinstance(step, Write) and step.origin is not None:
            self._look_at_source(step.origin[0])
        elif isinstance(step, Clear) and step.orphan:
            for place, lookout in zip(self._members, self._lookouts, strict=True):
                with _Attributed(place):
                    lookout.look()

    def _look_at_source(self, member: int) -> None:
        # A search makes SoftHSM notice what other processes have deleted; reading such an object does not.
        with _Attributed(self._members[member]):
            self._lookouts[member].look()

    @contextmanager
    def _readable(self, place: Place) -> Iterator[None]:
        try:
            with _Attributed(place):
                yield
        except (SearchFailed, SessionRefused) as failure:
            raise Unreadable(f"member {self._group.name(place[0])} cannot be compared with: {failure}") from None

    @staticmethod
    def key(step: Step) -> _Key:
        """What a step is about, in whatever plan and by whatever handle: its type, its member, and what it is."""
        if isinstance(step, Write | Clear):
            return type(step), step.member, (step.label, step.record)
        return type(step), step.member, step.identity

    def outcome(self, first: Plan, last: Plan, finished: bool) -> Outcome:
        """Of all that was done."""
        still = {self.key(each): each for each in last.steps}
        failed = tuple(each for key, each in self.failed.items() if key in still)
        refused = tuple(self.failed[key] for key, each in still.items() if key in self.failed and _is_told(each))
        return Outcome(self.names, first, self._done, (*last.conflicts, *failed), finished, refused)


def _configured(group: GroupRuntime) -> frozenset[str]:
    members = zip(group.settings.members, group.value.members, strict=False)
    return frozenset(settings.recorded_as for settings, member in members if member.state is not State.REMOVED)


def _in_doubt(failure: Refusal | Unreplicable | SearchFailed | SessionRefused) -> bool:
    """Whether a member that is alive failed at a step and gave no reason."""
    return failure.doubtful if isinstance(failure, Unreplicable) else is_without_reason(failure.rv)


def _is_told(step: Step) -> bool:
    """Whether a tombstone tells of it."""
    return isinstance(step, Delete | Change) and step.superseded


def _conflict(step: Step, reason: str) -> Conflict:
    """A step that was refused: what is left of it."""
    if isinstance(step, Delete):
        return Conflict(step.member, step.identity, f"it cannot be deleted: {reason}", bars=step.superseded)
    if isinstance(step, Change):
        bars = step.superseded or weakens(step.changes)
        return Conflict(step.member, step.identity, f"it cannot be changed: {reason}", bars=bars)
    if isinstance(step, Copy):
        is_key = step.identity.object_class in KEY_CLASSES
        return Conflict(step.member, step.identity, f"it cannot be copied: {reason}", bars=True, pinnable=is_key)
    return Conflict(step.member, _OF_RECORDS, f"{step.label.decode(errors='replace')}: {reason}")


_OF_RECORDS: Identity = identity_of({})
