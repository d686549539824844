"""A group at run time: the group value, its members' connections, their load, and what the application logged in with.

Knows which member is in and how busy each is; does not know what a call means (that is `failover` and its policies),
nor what is said of it all (`news`).
One lock guards the group value, which is replaced, never edited, and the loads; no member is ever called while it is
held.

Sources: SEMANTICS.md sections 1 to 4.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pyha.abi.express import TURNS
from pyha.abi.pins import PinLost
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import FUNCTIONS, Function
from pyha.cryptoki.info import TokenInfo
from pyha.cryptoki.plain import replace
from pyha.ha.administration import DISABLED
from pyha.ha.fingerprints import Fingerprints
from pyha.ha.group import Cause, Group, Member, State
from pyha.ha.selection import WARM_UP, least_busy, mean_after, warmed
from pyha.ha.settings import MechanismSnapshot, RecoveryMode, TokenSnapshot
from pyha.runtime.exclusion import Exclusion
from pyha.runtime.expecting import same
from pyha.runtime.express import Express
from pyha.runtime.mechanisms import common_mechanisms, offered, snapshot_of
from pyha.runtime.member import Clock, Connection, LoginRefused, MemberLost, SessionRefused
from pyha.runtime.news import News
from pyha.runtime.objects import ObjectTable
from pyha.runtime.pinsource import PinUnavailable
from pyha.runtime.session import VirtualSession
from pyha.runtime.settings import GroupSettings
from pyha.runtime.status import NOW

Connect = Callable[[int, int], Connection]
"""(member index, generation) -> a Connection that was not connected yet."""

OwnPin = Callable[[int], bytearray | None]
"""Member index -> the user PIN from the member's own source, None where it has none. Raises PinUnavailable."""


_BACKGROUND = RecoveryMode.BACKGROUND  # looked up once: Python 3.11 is slow at it
_TURN = 0xFFFF_FFFF  # turns are numbers of C's
_UNKNOWN = 0.001  # seconds that a call takes, before one has come back

_FAREWELL = 1.0
"""Seconds that a member gets to finalize when the operator takes it out."""


class NobodyLeft(Exception):
    """No member can serve. `first`: this call met the loss; later ones find the token not present."""

    def __init__(self, first: bool) -> None:
        super().__init__("no member left")
        self.first = first


class GroupRuntime:
    """One group, or one member's own slot (`raw`: no masking, nothing hidden, nothing replicated)."""

    def __init__(
        self,
        settings: GroupSettings,
        slot: int,
        connect: Connect,
        clock: Clock = time.monotonic,
        raw: bool = False,
        own_pin: OwnPin = lambda index: None,
    ):
        self.settings = settings
        self.slot = slot
        self.raw = raw
        self.clock = clock
        self.sessions: dict[int, VirtualSession] = {}
        # Short-lived processes that each make one signature shall not all begin with the same member.
        self.express = Express(int.from_bytes(os.urandom(2)))
        self._user: int | None = None
        self.pin: Any = None
        self.told_domain: Fingerprints = {}  # what most members told, where the configuration says nothing
        self._mechanisms: dict[int, MechanismSnapshot] | None = None
        self.token_info: TokenInfo | None = None
        if settings.token is not None:
            self.mechanisms = {offer.type: offer for offer in settings.token.mechanisms}
        self.login_lock = threading.RLock()
        self._lock = threading.Lock()
        # On every call's way, where `with` takes twice as long.
        self._take, self._free = self._lock.acquire, self._lock.release
        self._connecting = threading.Lock()
        self._asked = False  # contact has begun
        self._contacted = False
        self._closed = False
        self.new_connection = connect
        self.own_pin = own_pin
        count = len(settings.members)
        self._value = Group(
            tuple(
                Member(member.name, member.role, place=place)
                if member.enabled
                else Member(member.name, member.role, State.DISABLED, reason=DISABLED, place=place)
                for place, member in enumerate(settings.members)
            )
        )
        self.connections: list[Connection | None] = [None] * count
        self.tokens: dict[int, TokenInfo] = {}  # member -> what its token said of itself when it came
        self.threads = True  # the application allows them, and the system gives them
        self.recovery = settings.recovery  # with the mode that is possible here
        # What makes and changes token objects shares it; who compares a returned member with the others is alone.
        self.changes = Exclusion(settings.id, clock)
        self._used = [0.0] * count
        self.objects = ObjectTable(self.connections)
        self.loads = [0.0] * count
        self.news = News(settings, clock, lambda: (self.value, self.recovery.mode))
        self.status = self.news.status
        self.status.elsewhere = self.express.counts
        self._means, self._turns = self.express.books.means, self.express.books.turns
        self._serving: tuple[int, ...] = ()
        self._serving_of: Group | None = None
        self._returned: dict[int, float] = {}
        self._arriving: set[Connection] = set()
        self.by_contact: dict[int, int] = {}  # members in uncompared: the generation, until `returning` has looked
        self._offered: set[int] = set()  # members whose mechanisms are in the list
        self.strategies: tuple[Any, ...] = ()  # of cloning (`runtime.strategy`), before the one that is shipped
        # Of session keys: what tokens take for CKA_EXTRACTABLE where it is not said, and why some die with a member.
        self.extractable_by_default: dict[tuple[Any, ...], bool] = {}
        self.uncarried: set[str] = set()

    # -- what the express way has to know -----------------------------------------------------------------------

    @property
    def value(self) -> Group:
        """The group value; replaced, never edited, with the lock."""
        return self._value

    @value.setter
    def value(self, value: Group) -> None:
        if value is not self._value:
            self._value = value
            self.express.shut()

    @property
    def user(self) -> int | None:
        """Who the application is logged in as."""
        return self._user

    @user.setter
    def user(self, user: int | None) -> None:
        self._user = user
        self.express.books.user(user)

    @property
    def mechanisms(self) -> dict[int, MechanismSnapshot] | None:
        """What the group offers, by CK_MECHANISM_TYPE; None where it is not known yet."""
        return self._mechanisms

    @mechanisms.setter
    def mechanisms(self, mechanisms: dict[int, MechanismSnapshot] | None) -> None:
        self._mechanisms = mechanisms
        self.express.books.forbid()

    def _open_express(self, value: Group) -> None:
        """Calls may go the express way from now on, if nothing is unusual: members recover in the background, and none
        has just returned. `value`: whose serving members are known."""
        if self.recovery.mode is not _BACKGROUND or self.clock is not time.monotonic or self._closed:
            return
        now = self.clock()
        if any(now - at < WARM_UP for at in self._returned.values()):
            return
        # From here on by the value alone: `_serving` and `_returned` may be another thread's, of the value before.
        if any(now - at < WARM_UP for at in value.returned_at().values()):
            return
        with self._lock:
            usual = self._value is value and self.recovery.mode is _BACKGROUND and not self._closed
            if usual and not self.express.is_open:
                patience = [self.patience(function) for function in FUNCTIONS]
                self.express.open([self.connections[index] for index in value.serving()], patience)

    # -- deadlines ----------------------------------------------------------------------------------------------

    def deadline(self, slow: bool = False) -> float:
        """From now, on our clock, for all steps of one application call on one member (SEMANTICS.md section 4)."""
        return self.clock() + (self.settings.slow_deadline if slow else self.settings.deadline)

    def patience(self, function: Function) -> float:
        """Seconds that a call of this function may take on one member."""
        return self.settings.slow_deadline if function.slow else self.settings.deadline

    # -- members come and go ------------------------------------------------------------------------------------

    def contact(self) -> None:
        """Connect every member that was not tried yet. Raises NobodyLeft where none answers."""
        if not self._contacted:
            with self._connecting:
                if not self._contacted:
                    with self._lock:
                        self._asked = True  # who is added from now on comes by way of recovery
                        members = self.value.members
                    for index, member in enumerate(members):
                        if member.state is State.RECOVERING and not self._closed:
                            self._bring_in(index)
                    self._contacted = True
                    self._learn()
                    self.news.tell()
                    self.status.due = NOW
        if not self.value.serving():
            raise self.nobody_left()

    def _bring_in(self, index: int) -> None:
        generation = self.value.members[index].generation + 1
        connection = self.new_connection(index, generation)
        start = self.clock()
        try:
            with self.arriving(connection):
                connection.connect(self.deadline())
        except MemberLost as loss:
            self.lost(index, generation, str(loss), seconds=self.clock() - start)
            return
        with self._lock:
            after = self.value if self._closed else self.value.joined(index, generation)
            came = after is not self.value
            if came:
                self.connections[index] = connection
                self.value = after
                self.by_contact[index] = generation
                self._used[index] = self.clock()  # it has just answered: not to be probed yet
                self._know(index, connection)
                self.express.admit(index, connection)
        if not came:
            # C_Finalize or the operator came meanwhile, and found nothing here to close.
            connection.close()

    def _know(self, index: int, connection: Connection) -> None:
        if connection.token_info is not None:
            self.tokens[index] = connection.token_info

    def knows(self, index: int, connection: Connection) -> bool:
        """Whether it has the token that this process has had as this member: asked before a PIN goes there. A URI may
        name several, one after the other."""
        before, now = self.tokens.get(index), connection.token_info
        return before is None or now is None or same(before, now)

    @contextmanager
    def arriving(self, connection: Connection) -> Iterator[None]:
        """While the block lasts C_Finalize ends this connection too, though it is no member's yet."""
        self._arriving.add(connection)
        try:
            if self._closed:
                raise MemberLost("the module was finalized")
            yield
        finally:
            self._arriving.discard(connection)

    def _learn(self) -> None:
        """Refresh on contact what is answered from local state. What was written down about all members is only
        narrowed by those that are here: a member that is out today must not widen the list."""
        offers = []
        for index in self.value.present():
            connection = self.connections[index]
            if connection is None:
                continue
            try:
                offer = offered(connection, self.deadline(), None if self.raw else self.mechanisms)
            except (MemberLost, SessionRefused) as loss:
                self.lost(index, connection.generation, str(loss))
                continue
            if offer:
                self._offered.add(index)
                offers.append(offer)
            if self.token_info is None:
                self.token_info = connection.token_info
        if offers:
            self.mechanisms = common_mechanisms(offers)

    def learn_from(self, index: int, connection: Connection) -> None:
        """A member that comes later, and whose mechanisms were not looked at yet, narrows the list. Raises MemberLost,
        SessionRefused."""
        if index not in self._offered:
            offer = offered(connection, self.deadline())
            if offer:
                self._offered.add(index)
                self.mechanisms = common_mechanisms([offer] if self.mechanisms is None else [self.mechanisms, offer])

    def lost(
        self, index: int, generation: int, reason: str, cause: Cause = Cause.LOST, seconds: float | None = None
    ) -> None:
        """A member failed: out it goes, its helper is ended, one line says so. One whose slot has another token now is
        none any more, whatever the call that met it made of that. `seconds`: after which the call that met it knew."""
        with self._lock:
            connection = self.connections[index]
            if connection is not None and connection.generation == generation:
                self.connections[index] = None
                if connection.stranger:
                    reason, cause = connection.stranger, Cause.NOT_A_MEMBER
            else:
                connection = None
            before = self.value
            self.value = before.lost(index, generation, reason, cause)
            changed = self.value is not before
        if connection is not None:
            connection.close(reason)
        if changed and not self._closed:
            after = "" if seconds is None else f" (after {seconds:.3f} s)"
            self.news.say("error", index, f"lost: {reason}{after}")
            if self._contacted:
                self.news.tell()

    def begin_recovery(self, index: int) -> int | None:
        """Claim the one attempt to bring a failed member back: its new generation; None where it is not for us to
        make."""
        with self._lock:
            before = self.value
            if self._closed:
                return None
            self.value = before.recovering(index)
            return self.value.members[index].generation if self.value is not before else None

    def join(self, index: int, connection: Connection, unsynchronised: bool) -> None:
        """A recovered member serves from now on. Raises MemberLost where C_Finalize or the operator came meanwhile."""
        with self._lock:
            if self._closed:
                raise MemberLost("the module was finalized")
            before = self.value
            after = before.returned(index, connection.generation, self.clock(), unsynchronised)
            if after is before:
                raise MemberLost("the operator took it out meanwhile")
            self.connections[index] = connection
            self.value = after
            self._used[index] = self.clock()
            self._know(index, connection)
            self.express.admit(index, connection)
            self.news.returned(index)
        self.news.tell()
        for other, member in enumerate(before.members):
            if member.unsynchronised and not after.members[other].unsynchronised:
                self.news.say("warning", other, f"was resynchronised with {self.name(index)}")

    def recovery_failed(self, index: int, generation: int, reason: str, cause: Cause) -> None:
        """An attempt ended without the member; said when the reason is a new one."""
        with self._lock:
            before = self.value.members[index]
            self.value = self.value.stays_out(index, generation, reason, self.clock(), cause)
        self.news.tell()
        if before.reason != reason and not self._closed:
            self.news.say("warning", index, f"stays out: {reason}")

    def probe_idle(self, seconds: float) -> None:
        """Probe every member that has answered nothing for so long, so that its failure is noticed before a call meets
        it."""
        now = self.clock()
        for index in self.value.present():
            connection = self.connections[index]
            if connection is None or self.loads[index] or now - self._used[index] < seconds:
                continue
            load, _, _, used = self.express.counts(index)
            if load or (used and now - used < seconds):
                continue
            self._used[index] = now
            ailment = connection.probe(self.deadline())
            if ailment:
                reason = f"a probe of the idle member failed: {ailment}"
                self.lost(index, connection.generation, reason, seconds=self.clock() - now)

    def nobody_left(self) -> NobodyLeft:
        """The exception for a call that no member can take."""
        with self._lock:
            first = not self.value.announced
            self.value = self.value.announce()
        return NobodyLeft(first)

    def missing(self) -> frozenset[str]:
        """Who of the configured members is not in, standby and disabled ones too, as records call them."""
        value = self.value
        out = [index for index in value.configured() if value.members[index].state is not State.IN]
        return frozenset(self.settings.members[index].recorded_as for index in out)

    def name(self, index: int) -> str:
        """A member's name, for logs."""
        return self.settings.members[index].name

    def present(self) -> list[tuple[int, Connection]]:
        """Members that are in, active ones first: those that receive objects and logins. Raises NobodyLeft for none."""
        found = []
        for index in self.value.present():
            connection = self.connections[index]
            if connection is not None:
                found.append((index, connection))
        if not found:
            raise self.nobody_left()
        return found

    def snapshot(self) -> TokenSnapshot:
        """What is known of the token without asking a member now: the configuration's, else what was learnt; of a
        member's own token what it said itself, once it was reached."""
        if self.settings.token is not None and not (self.raw and self.token_info is not None):
            return self.settings.token
        if self.token_info is None:
            with suppress(NobodyLeft):
                self.contact()
        return snapshot_of(self.token_info, self.mechanisms or {})

    # -- the operator -------------------------------------------------------------------------------------------

    def administer(self, settings: GroupSettings, change: Callable[[Group, bool], Group]) -> None:
        """The operator's new settings, members at the index that they have for the process's life, and what they do to
        the group value: `change` gets it, and whether the members have been asked already. The connection of a member
        that is out then stays until `retire`."""
        with self._lock:
            for _ in range(len(settings.members) - len(self.connections)):
                self.connections.append(None)
                self.loads.append(0.0)
                self._used.append(0.0)
                self.status.add_member()
            self.settings = self.news.settings = self.status.settings = settings
            self.value = change(self.value, self._asked)
            # Before the express way may be opened again, on which nobody looks after members within calls.
            changed, self.recovery = self.recovery != settings.recovery, settings.recovery
            self.express.shut()
        if changed and not self.threads:
            self.forbid_threads()
        self.news.tell()

    def forbid_threads(self) -> None:
        """There are to be none of ours: what a thread would do is done within the application's calls."""
        self.threads = False
        if self.recovery.mode is RecoveryMode.BACKGROUND:
            self.recovery = replace(self.recovery, mode=RecoveryMode.ON_CALL)
        with self._lock:
            self.express.shut()

    def leaving(self) -> tuple[int, ...]:
        """The members that the operator took out and that are still connected, for what they have begun."""
        members = zip(self.value.members, self.connections, strict=False)
        return tuple(
            index
            for index, (member, connection) in enumerate(members)
            if connection is not None and member.state in (State.DISABLED, State.REMOVED)
        )

    def retire(self, index: int, now: bool) -> bool:
        """End the connection of a member that was taken out, if it is done with what it had begun, or `now`. Whether it
        is ended."""
        # Session objects that can follow to another member do so when they are used next.
        bound = () if now else [each.home[0] for each in self.objects.entries() if each.home and each.kept is None]
        with self._lock:
            connection = self.connections[index]
            if self.value.members[index].state not in (State.DISABLED, State.REMOVED) or connection is None:
                return True
            if not now and (self.loads[index] or self.express.counts(index)[0] or index in bound):
                return False
            self.connections[index] = None
        connection.finish(self.clock() + _FAREWELL)
        return True

    # -- load ---------------------------------------------------------------------------------------------------

    def choose(self, excluded: set[int], spread: bool, kind: int = 0) -> int | None:
        """The serving member for a call: the least busy (`spread`) or the primary; None where none is left. `kind`:
        calls of the same kind go round among equals by themselves, else a program that makes a signature, then random
        bytes, then a signature would ask one of two members for every signature."""
        value = self.value
        if value is not self._serving_of:
            self._returned = value.returned_at()
            self._serving, self._serving_of = value.serving(), value
        candidates: Sequence[int] = self._serving
        if excluded:
            candidates = [index for index in value.serving() if index not in excluded]
        if not candidates:
            return None
        if not self.express.is_open and spread and not excluded:
            self._open_express(value)
        if not spread or len(candidates) == 1:
            return candidates[0]
        at = kind % TURNS
        turn = self._turns[at] = self._turns[at] + 1 & _TURN
        if self._returned:
            candidates = self._warmed(candidates, turn)
        return least_busy(candidates, self._loads_of_both(), turn)

    def _loads_of_both(self) -> list[float]:
        """With what is on the express way."""
        return [
            load if connection is None or connection.seat is None else load + connection.seat.books[0] / 1e9
            for load, connection in zip(self.loads, self.connections, strict=False)
        ]

    def choose_again(self, kind: int) -> None:
        """The choice that was just made for this kind came to nothing: the next is the same again, so that each member
        has its turn."""
        at = kind % TURNS
        self._turns[at] = self._turns[at] - 1 & _TURN

    def _warmed(self, candidates: Sequence[int], turn: int) -> Sequence[int]:
        returned, now = self._returned, self.clock()
        if all(now - at >= WARM_UP for at in returned.values()):
            if self._returned is returned:
                self._returned = {}
            return candidates
        return warmed(candidates, returned, now, turn)

    def weight(self, function: Function) -> float:
        """Seconds that a call of this function takes of late."""
        return self._means[function.index] or _UNKNOWN

    def add_load(self, index: int, seconds: float) -> None:
        """Raise (or, negative, lower) a member's load."""
        self._take()
        try:
            self._load(index, self.loads[index] + seconds)
        finally:
            self._free()

    def _load(self, index: int, load: float) -> None:
        """With the lock."""
        # Floats do not cancel exactly; idle members must compare as equal.
        self.loads[index] = load = load if load > 1e-9 else 0.0
        connection = self.connections[index]
        seat = connection.seat if connection is not None else None
        if seat is not None:
            seat.elsewhere[0] = load

    def enter(self, index: int, function: Function) -> tuple[Connection, float]:
        """A call is about to go to a member: its connection, and the weight by which it counts as busier until
        `leave`. Raises MemberLost where it just went."""
        connection = self.connections[index]
        if connection is None:
            raise MemberLost("it is not connected")
        return connection, self.burden(index, function)

    def burden(self, index: int, function: Function) -> float:
        """`enter`, for who has the connection: the weight."""
        weight = self._means[function.index] or _UNKNOWN
        self._take()
        try:
            self._load(index, self.loads[index] + weight)
            self.status.in_flight[index] += 1
        finally:
            self._free()
        return weight

    def leave(self, index: int, function: Function, weight: float, start: float, served: bool) -> None:
        """The call that began at `start` (our clock) came back. `served`: the member completed an operation for the
        application by it: a signature, some random bytes."""
        self._used[index] = now = self.clock()
        self._means[function.index] = mean_after(self._means[function.index] or None, now - start)
        self._take()
        try:
            self._load(index, self.loads[index] - weight)
            self.status.in_flight[index] -= 1
            if served:
                self.status.served[index] += 1
        finally:
            self._free()
        if now >= self.status.due:
            self.news.due(now)

    # -- login on members ---------------------------------------------------------------------------------------

    def log_in_member(self, index: int, connection: Connection, deadline: float, present: bool = False) -> bool:
        """Bring a member to the application's own login; False (and the member is out) where that is refused.

        `present`: the application is inside C_Login, so that a protected path (a NULL PIN) may ask its user. Raises
        MemberLost, SessionRefused.
        """
        if self.user is None or connection.logged_in == self.user:
            return True
        with connection.logging_in(deadline):
            user, pin = self.user, self.pin
            if user is None or connection.logged_in == user:
                return True
            if self.connections[index] is not connection:
                return False
            try:
                self._log_in(index, connection, user, pin, deadline, present)
            except (LoginRefused, PinUnavailable) as refusal:
                # Before anybody else gets in: who waits for this login would only try the same PIN again.
                self.lost(index, connection.generation, str(refusal), Cause.LOGIN_REFUSED)
                return False
        return True

    def log_in_returning(self, index: int, connection: Connection, deadline: float) -> None:
        """The application's login on a member that is not in yet. Raises LoginRefused, PinUnavailable, MemberLost,
        SessionRefused."""
        with connection.logging_in(deadline):
            user, pin = self.user, self.pin
            if user is not None and connection.logged_in != user:
                self._log_in(index, connection, user, pin, deadline, present=False)

    def _log_in(self, index: int, connection: Connection, user: int, pin: Any, deadline: float, present: bool) -> None:
        if pin is not None and connection.refused is pin:
            raise LoginRefused("login refused: its PIN was refused before")
        own = self.own_pin(index) if user == ck.CKU_USER else None
        try:
            if own is None and pin is None and not present:
                raise LoginRefused("awaiting login: its PIN is entered at the token and is not kept")
            connection.login_again(user, pin if own is None else own, deadline)
        except PinLost:
            if self.user is not None:
                raise LoginRefused("awaiting login: the PIN is not kept any more") from None
            # else C_Logout came between, and the member is where the application is
        finally:
            if own is not None:
                own[:] = bytes(len(own))

    def login_order(self) -> list[tuple[int, Connection]]:
        """`present`, with the members that have a PIN source of their own last: the application's PIN is not theirs."""
        members = self.settings.members
        return sorted(self.present(), key=lambda pair: members[pair[0]].uri.pin_source is not None)

    # -- end ----------------------------------------------------------------------------------------------------

    def close(self, deadline: float) -> None:
        """C_Finalize: end every connection, waiting for none past the deadline."""
        with self._lock:
            self._closed = True
            self.express.shut()
            leaving = list(self.connections)
            self.connections[:] = [None] * len(leaving)
        self.news.end()
        for connection in leaving:
            if connection is not None:
                connection.finish(deadline)
        for arriving in list(self._arriving):
            arriving.abandon(deadline)
        if self.pin is not None:
            self.pin.wipe()
            self.pin = None
