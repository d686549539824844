"""Steps of our own on members while an application's call is carried out on all of them.

Each step is healed on its member as an application's call is: a lost session or login once, a stale domain key once, an
ambiguous answer probed. What was made is remembered, so that a refusal leaves nothing half-made.

Sources: SEMANTICS.md sections 2 (healing), 3 (creation) and 5; `pyha.runtime.failover` for the remedies.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, Function
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.plain import dataclass, field
from pyha.runtime import log
from pyha.runtime.failover import POISON_LIMIT, NotThere, Tried, settle
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import STILL_THERE, destroy, expect_login, is_gone
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.outcomes import Disturbed, Refusal
from pyha.runtime.refinding import Find, went_with_its_login

T = TypeVar("T")

_NEEDED = "it needs a resync"


class _Step:
    """The failover loop's policy for one step on one given member."""

    def __init__(
        self, function: Function, attempt: Callable[[float], tuple[int, Any]], unbind: Callable[[Connection], object]
    ) -> None:
        self.function = function
        self._attempt = attempt
        self._unbind = unbind

    def choose(self, excluded: set[int]) -> int | None:
        return None

    def attempt(self, index: int, connection: Connection, deadline: float) -> tuple[int, list[Any]]:
        rv, value = self._attempt(deadline)
        return rv, [value]

    def renew_session(self, index: int, connection: Connection, deadline: float) -> bool:
        connection.drop_idle(deadline)
        return True

    def renew_handles(self, index: int, connection: Connection, deadline: float) -> bool:
        connection.domain.clear()
        self._unbind(connection)
        return True


def step(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    name: str,
    attempt: Callable[[float], tuple[int, T]],
    unbind: Callable[[Connection], object] = lambda connection: None,
    tried: Tried | None = None,
) -> tuple[int, T | None]:
    """One step on this member: (CK_RV, what `attempt` gave beside it). `attempt(deadline)` may be tried twice; `name`:
    of the function whose verdicts count; `unbind` makes `attempt` look for its objects anew; `tried`: what the first
    try came to, where it was made already. Raises MemberLost, Refusal."""
    function = BY_NAME[name]
    try:
        policy = _Step(function, attempt, unbind)
        rv, values = settle(group, policy, index, connection, group.deadline(function.slow), tried)
    except NotThere as disturbance:
        raise Disturbed(disturbance.rv, f"member {group.name(index)} cannot do {name}") from None
    except SessionRefused as refused:
        raise Refusal(refused.rv, f"member {group.name(index)} cannot do {name}") from None
    return rv, values[0] if values else None


def on_each(group: GroupRuntime, what: str, work: Callable[[int, Connection], T]) -> list[tuple[Connection, T]]:
    """`work` on every member that is in, in their order; who is lost meanwhile is out, and the rest go on. A call that
    takes down helper after helper is refused. `what`: the name of the application's function. Raises what `work` raises
    but MemberLost; Refusal, NobodyLeft."""
    done = []
    gone = []
    poisoned = 0
    for index, connection in group.present():
        start = group.clock()
        try:
            done.append((connection, work(index, connection)))
        except MemberLost as loss:
            seconds = group.clock() - start
            group.lost(index, connection.generation, str(loss), seconds=seconds)
            gone.append((index, str(loss), seconds))
            poisoned += loss.culprit
            if poisoned >= POISON_LIMIT:
                raise Refusal(ck.CKR_DEVICE_ERROR, "it ends the helpers that it is given to") from None
    if not done:
        raise group.nobody_left()
    for index, why, seconds in gone:
        group.news.count_failover(what, index, why, seconds, None)
    return done


def expect_tokens(group: GroupRuntime, what: str) -> None:
    """Before anything is made or changed by the function of this name: who has another token in its slot by now gets
    nothing of it, and is out. Raises Refusal, NobodyLeft."""
    try:
        on_each(group, what, lambda index, connection: connection.expect_token(group.deadline(), at_ease=True))
    except SessionRefused as busy:
        raise Refusal(busy.rv, "a member cannot be asked for its token") from None


def on_first(group: GroupRuntime, work: Callable[[int, Connection], T | None]) -> T | None:
    """What `work` gives on the first member, in their order, where it gives something; as `on_each`, but that no member
    is left is no error."""
    poisoned = 0
    for index, connection in group.present():
        try:
            found = work(index, connection)
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
            poisoned += loss.culprit
            if poisoned >= POISON_LIMIT:
                raise Refusal(ck.CKR_DEVICE_ERROR, "it ends the helpers that it is given to") from None
            continue
        if found is not None:
            return found
    return None


@dataclass(frozen=True, slots=True)
class Made:
    """One object on one member (index, connection, real handle). `logins`: the connection's count of logins then, for
    with a login go the handles of private objects. `find`: looks for it after that; None where nobody could. `equal`:
    one like it would do as well."""

    index: int
    connection: Connection
    real: int
    logins: int
    find: Find | None
    equal: bool

    @property
    def forgotten(self) -> bool:
        """Whether the handle went with its login."""
        return self.connection.logins != self.logins


@dataclass(slots=True)
class Placed:
    """What has been made so far, so that it can be taken back. `what`: the name of the application's function, or what
    else makes it."""

    what: str
    objects: list[Made] = field(default_factory=list)

    def add(
        self,
        index: int,
        connection: Connection,
        real: int,
        find: Find | None = None,
        equal: bool = False,
        logins: int | None = None,
    ) -> None:
        """One object more. `logins`: the connection's count when it was made, where that was not just now."""
        logins = connection.logins if logins is None else logins
        self.objects.append(Made(index, connection, real, logins, find, equal))

    def has(self, connection: Connection, real: int) -> bool:
        """Whether this object is one of them."""
        return any(each.connection is connection and each.real == real for each in self.objects)

    def take_back_last(self, connection: Connection, session: int, deadline: float) -> None:
        """Destroy what was made last, on its own member and a session of the caller's. Raises MemberLost where it is
        there and cannot be found again, SearchFailed, SessionRefused."""
        made = self.objects[-1]
        assert made.connection is connection
        _destroy_once(made, session, deadline)
        self.objects.pop()

    def unbind_forgotten(self, group: GroupRuntime, handle: int) -> None:
        """The virtual handle keeps no real one that went with its login while others were made."""
        for made in self.objects:
            if made.forgotten and made.connection.bound.get(handle) == made.real:
                group.objects.unbind(made.connection, handle)

    def take_back(self, group: GroupRuntime) -> None:
        """Destroy all of it, the last made first. A member that is lost is cleared at its resync, and who fails at it,
        or only says to have done it, is out."""
        for made in reversed(self.objects):
            try:
                rv = _destroy(group, made)
                if rv not in (ck.CKR_OK, ck.CKR_OBJECT_HANDLE_INVALID, ck.CKR_ACTION_PROHIBITED):
                    raise MemberLost(f"C_DestroyObject answered {rv_name(rv)} to what was taken back; {_NEEDED}")
            except MemberLost as loss:
                group.lost(made.index, made.connection.generation, str(loss))
                continue
            except Refusal as refusal:
                group.lost(made.index, made.connection.generation, f"{refusal}; {_NEEDED}")
                continue
            if rv == ck.CKR_ACTION_PROHIBITED:  # for ever, and it would be so at its resync
                log.log(
                    "error",
                    f'group "{group.settings.label}": member {group.name(made.index)} keeps an object that was to be '
                    f"taken back: C_DestroyObject answered {rv_name(rv)}",
                )
        self.objects.clear()


def _destroy(group: GroupRuntime, made: Made) -> int:
    def attempt(deadline: float) -> tuple[int, None]:
        # Of its own, because looking for it again may leave session objects.
        session = made.connection.open_session(deadline)
        try:
            return _destroy_once(made, session, deadline), None
        finally:
            made.connection.discard(session, deadline)

    return step(group, made.index, made.connection, "C_DestroyObject", attempt)[0]


def _destroy_once(made: Made, session: int, deadline: float) -> int:
    """The CK_RV of destroying it under the handle it had, or has now. Raises MemberLost, SearchFailed,
    SessionRefused."""
    expect_login(made.connection, session, deadline)
    if not made.forgotten:
        rv = destroy(made.connection, session, made.real, deadline)
        if rv == ck.CKR_OBJECT_HANDLE_INVALID and not made.forgotten:
            _expect_known(made)
        if rv == ck.CKR_OK or not made.forgotten:
            return expect_gone(made.connection, session, made.real, rv, deadline)
    found = made.find(made.connection, session, deadline) if made.find is not None else None
    if found is None or len(found) > 1:
        raise MemberLost(f"it forgot its login while something was made there; {_NEEDED}")
    if not found:
        return ck.CKR_OK
    return expect_gone(
        made.connection, session, found[0], destroy(made.connection, session, found[0], deadline), deadline
    )


def _expect_known(made: Made) -> None:
    """A handle that a member does not know any more says nothing of the object: another thread may have healed the
    login right after it was made, and SoftHSM overlooks for a while what is there. Raises MemberLost."""
    if made.find not in (None, went_with_its_login) and not made.equal:
        raise MemberLost(f"it does not know the handle of what was made there; {_NEEDED}")


def expect_gone(connection: Connection, session: int, real: int, rv: int, deadline: float) -> int:
    """The answer to its destruction. Raises MemberLost where it was CKR_OK, and is not so; SearchFailed."""
    if rv == ck.CKR_OK and not is_gone(connection, session, real, deadline):
        raise MemberLost(f"{STILL_THERE}; {_NEEDED}")
    return rv
