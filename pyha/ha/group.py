"""The group as a value: which members it has, what state each is in, who may serve.

Pure. A `Group` is never edited: each piece of news gives a new one. News carries the generation of the member that it
speaks of, and news of an older generation changes nothing, so that the order in which threads report cannot matter.

Source: SEMANTICS.md sections 1, 3 and 4.
"""

from dataclasses import dataclass, replace
from enum import Enum

from pyha.ha.settings import Role


class State(Enum):
    """What a member is now."""

    IN = "in"
    RECOVERING = "recovering"  # not contacted yet, or on its way back
    FAILED = "failed"
    DISABLED = "disabled"  # by the operator


class Cause(Enum):
    """Why a failed member is out, as far as its way back depends on it."""

    LOST = "lost"  # tried again by the rule of recovery attempts
    DIFFERS = "differs"  # likewise: a resync may have mended it meanwhile
    AWAITING_LOGIN = "awaiting login"  # tried again at the application's next login
    LOGIN_REFUSED = "login refused"  # likewise; never by itself, because that could lock the token
    NOT_A_MEMBER = "not a member any more"  # only the operator can mend that


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `generation` counts its connections, from 0; `reason` says why it is out, in one phrase, `cause` what
    that means for its way back. `unsynchronised`: it serves without having been compared with another member."""

    name: str
    role: Role = Role.ACTIVE
    state: State = State.RECOVERING
    generation: int = 0
    reason: str = "not contacted yet"
    cause: Cause | None = None
    unsynchronised: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """The members in configured order. `announced`: whether the loss of the last one was answered to a call already
    (that call gets CKR_DEVICE_ERROR, the ones after it CKR_TOKEN_NOT_PRESENT)."""

    members: tuple[Member, ...]
    announced: bool = False

    def _with(self, index: int, member: Member) -> "Group":
        members = (*self.members[:index], member, *self.members[index + 1 :])
        return replace(self, members=members)

    def joined(self, index: int, generation: int, unsynchronised: bool = False) -> "Group":
        """The member at `index` is connected, logged in where that is due, and may serve."""
        member = self.members[index]
        if member.state is State.DISABLED or generation < member.generation:
            return self
        came = replace(
            member,
            state=State.IN,
            generation=generation,
            reason="",
            cause=None,
            unsynchronised=unsynchronised,
        )
        return replace(self._with(index, came), announced=False)

    def lost(self, index: int, generation: int, reason: str, cause: Cause = Cause.LOST) -> "Group":
        """The member at `index` failed in its connection `generation`."""
        member = self.members[index]
        if member.state not in (State.IN, State.RECOVERING) or generation < member.generation:
            return self
        out = replace(member, state=State.FAILED, generation=generation, reason=reason, cause=cause)
        return self._with(index, out)

    def recovering(self, index: int) -> "Group":
        """Somebody brings the failed member at `index` back; the group itself where it is not failed (another does so
        already)."""
        member = self.members[index]
        return self._with(index, replace(member, state=State.RECOVERING)) if member.state is State.FAILED else self

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
        return tuple(sorted(self._in(), key=lambda index: (self.members[index].role is Role.STANDBY, index)))

    def serving(self) -> tuple[int, ...]:
        """Members that operations go to: the active ones that are in; where there is none, all standby ones."""
        inside = self._in()
        active = tuple(index for index in inside if self.members[index].role is Role.ACTIVE)
        return active or inside

    def complete(self) -> bool:
        """Every configured member is in."""
        return all(member.state is State.IN for member in self.members)

    def _in(self) -> tuple[int, ...]:
        return tuple(index for index, member in enumerate(self.members) if member.state is State.IN)
