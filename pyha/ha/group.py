"""The group as a value: which members it has, what state each is in, who may serve.

Pure. A `Group` is never edited: each piece of news gives a new one. News carries the generation of the member that it
speaks of, and news of an older generation changes nothing, so that the order in which threads report cannot matter.

Source: SEMANTICS.md sections 1, 3 and 4.
"""

from enum import Enum

from pyha.cryptoki.plain import dataclass, replace
from pyha.ha.recovery import NEVER, UNTRIED, Attempts, due_at
from pyha.ha.settings import RecoveryMode, RecoverySettings, Role


class State(Enum):
    """What a member is now."""

    IN = "in"
    RECOVERING = "recovering"  # not contacted yet, or on its way back
    FAILED = "failed"
    DISABLED = "disabled"  # by the operator
    REMOVED = "removed"  # likewise: not configured any more; its index is never another member's


class Cause(Enum):
    """Why a failed member is out, as far as its way back depends on it."""

    LOST = "lost"  # tried again by the rule of recovery attempts
    DIFFERS = "differs"  # likewise: a resync may have mended it meanwhile
    AWAITING_LOGIN = "awaiting login"  # tried again at the application's next login
    LOGIN_REFUSED = "login refused"  # likewise; never by itself, because that could lock the token
    NOT_A_MEMBER = "not a member any more"  # only the operator can mend that


class Occasion(Enum):
    """What gives rise to recovery attempts."""

    TIME = "time"  # the monitor's thread, whatever the application does
    CALL = "call"  # the application's next call of any kind
    LOGIN = "login"  # the application has just logged in
    OPERATOR = "operator"  # the recover command


_AUTOMATIC = (Cause.LOST, Cause.DIFFERS)
_AT_LOGIN = (Cause.AWAITING_LOGIN, Cause.LOGIN_REFUSED)


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `generation` counts its connections and the attempts at one, from 0; `reason` says why it is out, in
    one phrase, `cause` what that means for its way back. `unsynchronised`: it serves without having been compared with
    another member. `attempts`: to bring it back; `losses`: how often it was in, or should have come, and failed.
    `place`: in the configured order; members of the same place are ordered by index."""

    name: str
    role: Role = Role.ACTIVE
    state: State = State.RECOVERING
    generation: int = 0
    reason: str = "not contacted yet"
    cause: Cause | None = None
    unsynchronised: bool = False
    attempts: Attempts = UNTRIED
    losses: int = 0
    place: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """The members, each at one index for the process's life. `announced`: whether the loss of the last one was answered
    to a call already (that call gets CKR_DEVICE_ERROR, the ones after it CKR_TOKEN_NOT_PRESENT)."""

    members: tuple[Member, ...]
    announced: bool = False

    def _with(self, index: int, member: Member) -> "Group":
        members = (*self.members[:index], member, *self.members[index + 1 :])
        return replace(self, members=members)

    def joined(self, index: int, generation: int, unsynchronised: bool = False) -> "Group":
        """The member at `index` is connected, logged in where that is due, and may serve."""
        member = self.members[index]
        # A connection that was lost is no member, even if whoever made it comes late.
        over = generation < member.generation or (generation == member.generation and member.state is State.FAILED)
        if member.state in _TAKEN_OUT or over:
            return self
        came = replace(
            member,
            state=State.IN,
            generation=generation,
            reason="",
            cause=None,
            unsynchronised=unsynchronised,
        )
        return replace(self._with(index, came)._worth_a_look(), announced=False)

    def lost(self, index: int, generation: int, reason: str, cause: Cause = Cause.LOST) -> "Group":
        """The member at `index` failed in its connection `generation`."""
        member = self.members[index]
        if member.state not in (State.IN, State.RECOVERING) or generation < member.generation:
            return self
        # Without a cause it was not out yet: an attempt that ends without it is no loss.
        losses = member.losses + (member.cause is None)
        out = replace(
            member,
            state=State.FAILED,
            generation=generation,
            reason=reason,
            cause=cause,
            unsynchronised=False,
            losses=losses,
        )
        after = self._with(index, out)
        # With nobody left to compare with, who was kept out for a difference can be of use.
        return after if after._in() else after._worth_a_look()

    def _worth_a_look(self) -> "Group":
        """Who stays out because objects differ is compared with others than last time."""
        return replace(
            self, members=tuple(replace(each, attempts=each.attempts.worth_a_look()) for each in self.members)
        )

    # -- recovery -----------------------------------------------------------------------------------------------

    def recovering(self, index: int) -> "Group":
        """Somebody brings the failed member at `index` back, in its next generation; the group itself where it is not
        failed (another does so already)."""
        member = self.members[index]
        if member.state is not State.FAILED:
            return self
        # A generation of its own from the start: late news of the lost connection must not end the attempt.
        return self._with(index, replace(member, state=State.RECOVERING, generation=member.generation + 1))

    def returned(self, index: int, generation: int, now: float, unsynchronised: bool = False) -> "Group":
        """The attempt `generation` brought the member back at `now` (monotonic seconds). `unsynchronised`: without a
        comparison; else it was compared with all that are in, and they with it."""
        after = self.joined(index, generation, unsynchronised)
        if after is self:
            return self
        if not unsynchronised and any(member.unsynchronised for member in after.members):
            members = tuple(replace(member, unsynchronised=False) for member in after.members)
            after = replace(after, members=members)
        return after._attempted(index, after.members[index].attempts.returned(now))

    def stays_out(self, index: int, generation: int, reason: str, now: float, cause: Cause = Cause.LOST) -> "Group":
        """The attempt `generation` ended without the member at `now` (monotonic seconds)."""
        after = self.lost(index, generation, reason, cause)
        if after is self:
            return self
        return after._attempted(index, after.members[index].attempts.failed(now, cause is Cause.DIFFERS))

    def _attempted(self, index: int, attempts: Attempts) -> "Group":
        return self._with(index, replace(self.members[index], attempts=attempts))

    def due(self, settings: RecoverySettings, occasion: Occasion, now: float) -> tuple[int, ...]:
        """The members that are to be tried on this occasion at `now` (monotonic seconds).

        Interval and number bound what is tried by itself; who logs in or commands asks for an attempt now. A member
        that is none any more is tried at the operator's command alone, and has to pass all that a new one has to.
        """
        if occasion is Occasion.LOGIN:
            # In manual mode who waits for the login was asked for by the operator; a refused one has to be asked for.
            return self.failed(*((Cause.AWAITING_LOGIN,) if settings.mode is RecoveryMode.MANUAL else _AT_LOGIN))
        if occasion is Occasion.OPERATOR:
            return self.failed(*Cause)
        if settings.mode is not _MODE_OF[occasion]:
            return ()
        times = ((index, due_at(settings, self.members[index].attempts)) for index in self.failed(*_AUTOMATIC))
        return tuple(index for index, at in times if at is not None and now >= at)

    def next_due(self, settings: RecoverySettings) -> float | None:
        """When the monitor has something to try (monotonic seconds), None where there is nothing it could try."""
        if settings.mode is not RecoveryMode.BACKGROUND:
            return None
        times = (due_at(settings, self.members[index].attempts) for index in self.failed(*_AUTOMATIC))
        return min((at for at in times if at is not None), default=None)

    def failed(self, *causes: Cause) -> tuple[int, ...]:
        """The members that are out for one of these causes."""
        return tuple(
            index
            for index, member in enumerate(self.members)
            if member.state is State.FAILED and member.cause in causes
        )

    def announce(self) -> "Group":
        """The loss of every member has been answered to the application once."""
        return replace(self, announced=True)

    def present(self) -> tuple[int, ...]:
        """Members that receive every object and every login: all that are in, in configured order, active ones
        first."""
        return tuple(sorted(self._in(), key=lambda index: self.members[index].role is Role.STANDBY))

    def serving(self) -> tuple[int, ...]:
        """Members that operations go to: the active ones that are in; where there is none, all standby ones."""
        inside = self._in()
        active = tuple(index for index in inside if self.members[index].role is Role.ACTIVE)
        return active or inside

    def returned_at(self) -> dict[int, float]:
        """When each serving member that was away came back (monotonic seconds)."""
        last = {index: self.members[index].attempts.last for index in self.serving()}
        return {index: at for index, at in last.items() if at != NEVER}

    def promoted(self) -> bool:
        """Standby members serve, because no active one is left."""
        serving = self.serving()
        return bool(serving) and self.members[serving[0]].role is Role.STANDBY

    def deserted(self) -> bool:
        """Every member was asked, or is out by the operator's word, and none is in."""
        asked = all(member.state is not State.RECOVERING or member.cause is not None for member in self.members)
        return asked and not self._in()

    def complete(self) -> bool:
        """Every configured member is in."""
        return all(member.state is State.IN for member in self.members if member.state is not State.REMOVED)

    def _in(self) -> tuple[int, ...]:
        inside = [index for index, member in enumerate(self.members) if member.state is State.IN]
        return tuple(sorted(inside, key=lambda index: (self.members[index].place, index)))

    # -- the operator ---------------------------------------------------------------------------------------------

    def configured(self) -> tuple[int, ...]:
        """The members that the configuration names, in its order, the disabled ones too."""
        indices = [index for index, member in enumerate(self.members) if member.state is not State.REMOVED]
        return tuple(sorted(indices, key=lambda index: (self.members[index].place, index)))

    def described(self, index: int, name: str, role: Role, place: int) -> "Group":
        """The member at `index` (the next free one for a new member) as the configuration has it now. A new member is
        out until it is `wanted`."""
        if index == len(self.members):
            return replace(self, members=(*self.members, Member(name, role, State.REMOVED, place=place)))
        return self._with(index, replace(self.members[index], name=name, role=role, place=place))

    def taken_out(self, index: int, state: State, reason: str) -> "Group":
        """The operator disables (State.DISABLED) or removes (State.REMOVED) the member at `index`; an attempt that
        brings it back is void."""
        out = replace(self.members[index], state=state, reason=reason, cause=None, unsynchronised=False)
        return self._with(index, out)._worth_a_look()

    def wanted(self, index: int, contacted: bool) -> "Group":
        """The operator adds or enables the member at `index`, which is out. `contacted`: the group has asked its
        members already, so that this one comes by way of recovery; else it is asked with the others."""
        member = self.members[index]
        if member.state not in _TAKEN_OUT:
            return self
        state, cause = (State.FAILED, Cause.LOST) if contacted else (State.RECOVERING, None)
        # No loss: it has failed nobody.
        came = replace(member, state=state, cause=cause, reason="not contacted yet", attempts=UNTRIED)
        return self._with(index, came)


_TAKEN_OUT = (State.DISABLED, State.REMOVED)
_MODE_OF = {Occasion.TIME: RecoveryMode.BACKGROUND, Occasion.CALL: RecoveryMode.ON_CALL}
