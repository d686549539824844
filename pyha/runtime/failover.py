"""The failover loop, once: choose a member, try, judge the answer, heal or go to the next.

Knows verdicts and members; knows no function by name: a *policy* (one a route, `pyha.runtime.policies`) says which
members are candidates and what one try does. The loop ends by construction: on each member each remedy is taken once,
and no member is tried twice.

Sources: SEMANTICS.md sections 2 to 4; DESIGN.md "The failover loop, once".
"""

from typing import Any, Protocol

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Function, Route
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.plain import dataclass
from pyha.cryptoki.verdicts import Verdict, verdict
from pyha.runtime.admission import expect_domain
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, so_is_logged_in
from pyha.runtime.member import Connection, MemberBusy, MemberLost, SessionRefused

POISON_LIMIT = 2
"""Helpers that one call may take down before it gets its error instead of another member (SEMANTICS.md section 3)."""


_REPEATABLE = (Route.ANY, Route.READ, Route.SEARCH, Route.START, Route.CONTINUE, Route.FINISH)


class NotThere(Exception):
    """An object of the call is not on this member. `rv`: what the application is told if no other has it."""

    def __init__(self, rv: int) -> None:
        super().__init__("an object is not on this member")
        self.rv = rv


class Abandoned(Exception):
    """The operation cannot be brought to another member: an honest error, `rv`."""

    def __init__(self, rv: int) -> None:
        super().__init__("the operation cannot move to another member")
        self.rv = rv


@dataclass(slots=True)
class Tried:
    """A first try that was made before the loop (`straight`, `together`): on which member, since when (the group's
    clock), the counts of its logins and of its impossible answers before; what it answered, or how the member was
    lost."""

    index: int
    connection: Connection
    start: float
    logins: int
    nonsense: int
    rv: int
    results: list[Any]
    loss: MemberLost | None

    def answer(self) -> tuple[int, list[Any]]:
        """What `attempt` would have said. Raises MemberLost."""
        if self.loss is not None:
            raise self.loss
        return self.rv, self.results


class Policy(Protocol):
    """What the loop needs to know of one call."""

    function: Function

    def choose(self, excluded: set[int]) -> int | None:
        """The next candidate (member index), None where none is left."""

    def attempt(self, index: int, connection: Connection, deadline: float) -> tuple[int, list[Any]]:
        """One try: (CK_RV, results). Raises MemberLost, NotThere, SessionRefused, Abandoned."""

    def renew_session(self, index: int, connection: Connection, deadline: float) -> bool:
        """The real session is lost: drop it, so that the next try takes a fresh one. False: nothing to heal."""

    def renew_handles(self, index: int, connection: Connection, deadline: float) -> bool:
        """Bind the call's objects again. False: nothing to heal."""


def run(group: GroupRuntime, policy: Policy, serves: bool = False, tried: Tried | None = None) -> tuple[int, list[Any]]:
    """Carry the call out on the first member that answers: (CK_RV, results). `serves`: its success is an operation that
    is done for the application. `tried`: the first try, where it was made already. Raises NobodyLeft."""
    function = policy.function
    excluded: set[int] = set()
    poisoned = 0
    lost: tuple[int, str, float] | None = None
    missing: int | None = None
    while True:
        index = policy.choose(excluded) if tried is None else tried.index
        if index is None:
            if missing is not None:
                return missing, []
            raise group.nobody_left()
        if lost is not None:
            group.news.count_failover(function.name, *lost, index)
            lost = None
        excluded.add(index)
        first, tried = tried, None
        try:
            if first is None:
                connection, weight = group.enter(index, function)
            else:
                connection, weight = first.connection, group.burden(index, function)
        except MemberLost:
            continue
        start = group.clock() if first is None else first.start
        served = False
        try:
            rv, results = settle(group, policy, index, connection, start + group.patience(function), first)
            served = serves and rv == ck.CKR_OK
            return rv, results
        except (NotThere, MemberBusy) as absence:
            missing = absence.rv
        except (SessionRefused, Abandoned) as refusal:
            return refusal.rv, []
        except MemberLost as loss:
            lost = index, str(loss), group.clock() - start
            group.lost(index, connection.generation, str(loss), seconds=lost[2])
            poisoned += loss.culprit
            if poisoned >= POISON_LIMIT:
                return ck.CKR_DEVICE_ERROR, []
        finally:
            group.leave(index, function, weight, start, served)


def settle(
    group: GroupRuntime,
    policy: Policy,
    index: int,
    connection: Connection,
    deadline: float,
    tried: Tried | None = None,
) -> tuple[int, list[Any]]:
    """One member until it answers, every remedy once."""
    taken: tuple[Verdict, ...] = ()
    if tried is None and not group.log_in_member(index, connection, deadline):
        raise MemberLost("its login was refused")
    while True:
        logins, nonsense = (tried or connection).logins, (tried or connection).nonsense
        ours = False
        try:
            rv, results = policy.attempt(index, connection, deadline) if tried is None else tried.answer()
        except SearchFailed as failure:
            # A search of our own, on the way to the call: what it answered is not the application's.
            rv, results, ours = failure.rv, [], True
        tried = None
        if rv == ck.CKR_OK:
            return rv, results
        group.news.count_error(index, rv)
        if connection.nonsense != nonsense:
            group.news.nonsense(index, policy.function.name)
            # What makes or changes nothing may be asked of another member instead.
            ours |= policy.function.route in _REPEATABLE
        judgement = verdict(policy.function.route, rv)
        # A login that another thread has healed meanwhile: the call fell into the gap, its answer says nothing.
        disturbed = connection.logins != logins
        if judgement is Verdict.ANSWER or (judgement in taken and not (judgement is Verdict.LOGIN_LOST and disturbed)):
            if ours:
                raise NotThere(ck.CKR_DEVICE_ERROR)
            return rv, results
        if judgement is Verdict.MEMBER_LOST:
            raise MemberLost(f"{policy.function.name} answered {rv_name(rv)}")
        taken = (*taken, judgement)
        if judgement is Verdict.SUSPECT:
            connection.expect_well(policy.function.name, rv, deadline)
            # SoftHSM fails like this in the middle of a search; reading may be repeated.
            if disturbed and policy.function.route is Route.READ:
                continue
        elif _heal(group, policy, judgement, index, connection, logins, deadline):
            continue
        if ours:
            raise NotThere(ck.CKR_DEVICE_ERROR)
        return rv, results


def _heal(
    group: GroupRuntime,
    policy: Policy,
    judgement: Verdict,
    index: int,
    connection: Connection,
    logins: int,
    deadline: float,
) -> bool:
    if judgement is Verdict.SESSION_LOST:
        return policy.renew_session(index, connection, deadline)
    if judgement is Verdict.HANDLE_STALE:
        return policy.renew_handles(index, connection, deadline)
    # LOGIN_LOST: an error of the application's own where it never logged in, or did as SO.
    if group.user is None or (group.user == ck.CKU_SO and so_is_logged_in(connection, deadline)):
        return False
    connection.forget_login(logins, deadline)
    if not group.log_in_member(index, connection, deadline):
        return False
    expect_domain(group, connection, deadline)
    return policy.renew_session(index, connection, deadline)
