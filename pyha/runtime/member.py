"""One member while it is connected: its module's link, real sessions, login, and one call on it.

Knows one token behind one module; knows nothing of the other members, of virtual handles or of where calls go.
Everything here belongs to one *generation*: a member that is lost is closed and connected anew as another
`Connection`.

Sources: SEMANTICS.md sections 2 and 4; REPLICATION.md (quirks: token missing right after C_Initialize, token info).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from pyha.abi.codec import Codecs, Malformed
from pyha.abi.express import Seat
from pyha.abi.info import unpack_token_info
from pyha.abi.link import Arena, Link, LinkBusy, LinkDead, LinkFailed, LinkLate, lost_with
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, Function, Route
from pyha.cryptoki.info import TokenInfo
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.values import MemberInitialize, Out
from pyha.cryptoki.verdicts import Verdict, verdict
from pyha.ha.domain import DomainHandles, DomainKey
from pyha.runtime.expecting import INFO_TRIES, pause, read_at_ease, stranger
from pyha.runtime.gate import Gate, GateTimeout
from pyha.runtime.resident import Resident

Clock = Callable[[], float]

_FINALIZE = BY_NAME["C_Finalize"].index
_TRIES = 5
_BUDGET = 0.01
"""Seconds in which a series begins calls: next to nothing of what one call may take."""
_SESSION_FLAGS = ck.CKF_SERIAL_SESSION | ck.CKF_RW_SESSION
_LOW = {
    ck.CKU_USER: ck.CKF_USER_PIN_COUNT_LOW | ck.CKF_USER_PIN_FINAL_TRY | ck.CKF_USER_PIN_LOCKED,
    ck.CKU_SO: ck.CKF_SO_PIN_COUNT_LOW | ck.CKF_SO_PIN_FINAL_TRY | ck.CKF_SO_PIN_LOCKED,
}
_WARNS = "the token warns that few tries of the PIN are left, or none (a login with its vendor's tools ends that)"


class MemberLost(Exception):
    """The member is gone. `culprit`: its helper died in this very call."""

    def __init__(self, reason: str, culprit: bool = False) -> None:
        super().__init__(reason)
        self.culprit = culprit


class LoginRefused(Exception):
    """An automatic login was not tried, or refused: one sentence. `tried`: the token has refused the PIN."""

    def __init__(self, reason: str, tried: bool = False) -> None:
        super().__init__(reason)
        self.tried = tried


class TokenMatch(Protocol):
    """The part of a member's URI that finds its token."""

    def matches(self, info: TokenInfo, slot_id: int) -> bool: ...


_Object = TypeVar("_Object", contravariant=True)
_Told = TypeVar("_Told")


class Turns(Protocol[_Object, _Told]):
    """How a series of calls of one function lies in an arena (`pyha.abi.series`, `pyha.abi.creations`)."""

    @property
    def function(self) -> Function: ...

    def size(self, count: int) -> int: ...

    def write(self, arena: Arena, session: int, objects: Sequence[_Object]) -> int: ...

    def read(self, arena: Arena, count: int, made: int) -> list[_Told | None]: ...


class Connection:
    """One connection of a member, from its helper's start to its end.

    `open_link(deadline)` starts the link; `token` finds the token among the module's slots; `generation` counts.
    `resident`: the module, where it runs in this process and others may use it too.
    """

    def __init__(
        self,
        name: str,
        generation: int,
        open_link: Callable[[float], Link],
        token: TokenMatch,
        codecs: Codecs,
        reserved: bytes | None = None,
        clock: Clock = time.monotonic,
        resident: Resident | None = None,
    ) -> None:
        self.name = name
        self.generation = generation
        self.clock = clock
        self.catalogue = Gate()
        self.slot = -1
        self.token_info: TokenInfo | None = None
        self.stranger = ""  # one phrase, once its slot has been seen to have another token
        self.bound: dict[int, int] = {}  # virtual object handle -> real one
        self.known: dict[int, int] = {}  # and back
        self.domain: dict[DomainKey, DomainHandles] = {}
        self.proved: set[tuple[int, DomainHandles]] = set()  # seen to be the group's own, in the login of that count
        self.wraps: bool | None = None  # not asked yet
        self.logged_in: int | None = None
        self.refused: Any = None  # the application's PIN that the token has refused while this connection was logged in
        self.nonsense = 0  # counts answers that cannot be: more than there was room for, or a handle of 0
        self.logins = 0  # counts logins, so that a login that another thread healed is not thrown away again
        self._open_link = open_link
        self._token = token
        self._codecs = codecs
        self._reserved = reserved
        self._link: Link | None = None
        self._idle: list[int] = []
        self._unclosed: list[int] = []  # sessions for whose closing there was no time
        self._anchor = 0
        self._login_lock = threading.RLock()
        self._cause = ""  # why it ended, in one phrase
        self._resident = resident or Resident()
        self._entered = False
        self._finishing = False  # who ends the connection waits for its helper
        self._starting = threading.Lock()  # held while the helper starts
        self.seat: Seat | None = None  # what C knows of it, while it is a member's
        self._over = False  # `abandon` was here, perhaps before there was a link

    # -- life ---------------------------------------------------------------------------------------------------

    def connect(self, deadline: float) -> None:
        """Start the link, initialise the module, find the token. Raises MemberLost with the cause."""
        with self._starting:
            if self._over:
                raise MemberLost(self._cause or "it is not connected")
            try:
                self._link = self._open_link(deadline)
            except LinkFailed as failure:
                raise MemberLost(str(failure)) from None
        if self._over:
            # Who ended the connection could wait no longer for the start, and found nothing to end.
            self.close()
            raise MemberLost(self._cause or "it is not connected")
        try:
            self._initialize(deadline)
            self._find_token(deadline)
        except MemberLost:
            self.close()
            raise
        except MemberBusy:
            # Nobody else can be in its way yet.
            self.close()
            raise MemberLost("it did not start within its deadline") from None

    def _initialize(self, deadline: float) -> None:
        with self._resident.lock:
            if not self._resident.users:
                rv, _ = self.call("C_Initialize", deadline, MemberInitialize(self._reserved))
                if rv not in (ck.CKR_OK, ck.CKR_CRYPTOKI_ALREADY_INITIALIZED):
                    raise MemberLost(f"C_Initialize answered {rv_name(rv)}")
                # Where the application itself, say, initialised the module first, it is not ours to finalize.
                self._resident.ours |= rv == ck.CKR_OK
            self._resident.users += 1
            self._entered = True

    def _leave(self, out: bool) -> None:
        """The module is not finalized. `out`: a call may still be inside."""
        with self._resident.lock:
            if out:
                self._resident.ours = False
            if self._entered:
                self._entered = False
                self._resident.users -= 1

    def _finalize(self, link: Link, deadline: float) -> bool:
        """The last one finalizes the module, under nobody's call: the monitor may be inside as well, and most modules
        do not live through that. False: somebody was inside until the deadline. The caller holds the module's lock;
        afterwards the link is its own."""
        arena = link.alone(deadline)
        if arena is None:
            return False
        self._leave(out=False)
        if self._resident.ours and not self._resident.users:
            self._resident.ours = False
            arena.words[0] = 0
            with contextlib.suppress(LinkDead, LinkLate):
                link.invoke(arena, _FINALIZE, deadline)
        return True

    def _find_token(self, deadline: float) -> None:
        # SoftHSM rewrites its token file at every login of any process: for a moment the token is not there.
        for attempt in range(_TRIES):
            for slot in self._slots(deadline):
                info = self._read_token_info(slot, deadline)
                if info is not None and self._token.matches(info, slot):
                    self.slot, self.token_info = slot, info
                    return
            if attempt == _TRIES - 1 or self.clock() >= deadline:
                break
            pause(attempt)
            self._initialize_anew(deadline)
        raise MemberLost("its token is not among the module's tokens")

    def _initialize_anew(self, deadline: float) -> bool:
        """Finalize and initialise the module, where nobody else uses it: it reads its tokens again. False: not done."""
        with self._resident.lock:
            link = self._link
            if link is None or not self._resident.ours or self._resident.users != 1:
                return False
            try:
                if not self._finalize(link, deadline):
                    return False
            finally:
                link.share()
            self._initialize(deadline)
        return True

    def visible_tokens(self, deadline: float) -> list[TokenInfo]:
        """Every token that the module shows, ours among them. Raises MemberLost."""
        infos = (self._read_token_info(slot, deadline) for slot in self._slots(deadline))
        return [info for info in infos if info is not None]

    def _slots(self, deadline: float) -> tuple[int, ...]:
        room: int | None = None
        for _ in range(3):
            rv, results = self.call("C_GetSlotList", deadline, 1, room)
            count, slots = results[1] if results[1] is not None else (0, None)
            if rv == ck.CKR_OK and slots is not None:
                return tuple(slots)
            if rv not in (ck.CKR_OK, ck.CKR_BUFFER_TOO_SMALL):
                raise MemberLost(f"C_GetSlotList answered {rv_name(rv)}")
            room = count + 1
        return ()

    def close(self, cause: str = "", hangs: bool = False) -> None:
        """End the connection; `cause`: why, for all who are inside. A module that is inside a call may return from it,
        unless it `hangs`: SoftHSM's C_Login empties the token's file before it writes it, and one that is killed in
        between has lost the token."""
        link = self._link
        if link is not None:
            self._cause = self._cause or cause
            self._link = None
            self._leave_seat()
            self._leave(link.close(at_once=hangs))

    def finish(self, deadline: float) -> None:
        """End the connection at C_Finalize or by the operator's word: the module may finalize. Returns when its helper
        is gone, or at the deadline (seconds): a module that is still inside of a call then may return from it as after
        `close`, for a machine that has much to do is no reason to lose a token."""
        link = self._link
        if link is not None and link.alive:
            self._finishing = True
            with self._resident.lock:
                if self._entered and not self._finalize(link, deadline):
                    self._leave(out=True)
        self.abandon(deadline)

    def abandon(self, deadline: float) -> None:
        """`finish`, while another thread still connects it: its module is not ours to finalize. A helper that is just
        starting is waited for: nobody could end it yet, and it would go to its token afterwards."""
        self._over = True
        if self._starting.acquire(timeout=max(0.0, deadline - self.clock())):
            self._starting.release()
        link = self._link
        if link is not None:
            self._link = None
            self._leave_seat()
            link.dismiss(deadline)
            self._leave(link.close(at_once=False))

    # -- the express way ----------------------------------------------------------------------------------------

    @property
    def native(self) -> Any:
        """cdata `pyha_link *`; None where there is none."""
        return self._link.native if self._link is not None else None

    def take_seat(self, seat: Seat) -> None:
        """C may call it from now on."""
        self.seat = seat
        self.tell_user()
        if self._link is None:  # closed meanwhile
            self._leave_seat()

    def tell_user(self) -> None:
        """C knows who is logged in."""
        seat = self.seat
        if seat is not None:
            seat.user(self.logged_in, self.logins)

    def _leave_seat(self) -> None:
        seat, self.seat = self.seat, None
        if seat is not None:
            seat.close()

    def _now_is(self, user: int | None) -> None:
        """Who is logged in changed."""
        self.logged_in = user
        self.tell_user()

    def bind(self, handle: int, real: int) -> None:
        """A virtual object handle has this real one here."""
        self.bound[handle] = real
        self.known[real] = handle
        if self.seat is not None:
            self.seat.unbind(handle)

    def unbind(self, handle: int) -> None:
        """It has none any more."""
        real = self.bound.pop(handle, None)
        if real is not None and self.known.get(real) == handle:
            del self.known[real]
        if self.seat is not None:
            self.seat.unbind(handle)

    def lost_express(self, function: Function, outcome: int, place: int) -> MemberLost:
        """How a call of C's was lost, through the arena of this number."""
        link = self._link
        # Another thread may have closed the connection; this call may be the one that the helper died in all the same.
        loss: Exception = link.lost_express(place, outcome) if link is not None else lost_with(outcome)
        if isinstance(loss, LinkDead | LinkLate):
            return self._lost(function, loss)
        return MemberLost(str(loss))

    # -- one call -----------------------------------------------------------------------------------------------

    def invoke(self, function: Function, values: list[Any], deadline: float) -> tuple[int, list[Any]]:
        """One call of the member's module with real handles in `values`: (CK_RV, results as the codec reads them).

        `deadline`: monotonic seconds. Raises MemberLost where the member is gone or late; MemberBusy where no call
        could be made in time.
        """
        link = self._link
        if link is None:
            raise MemberLost(self._cause or "it is not connected")
        if self.clock() >= deadline:
            # Others have used the time up, on their way here: that says nothing of this member.
            raise MemberBusy(ck.CKR_DEVICE_ERROR)
        codec = self._codecs.made[function.index] or self._codecs.of(function)
        try:
            arena = link.arena(codec.size(values), deadline)
        except (LinkDead, LinkLate) as loss:
            raise self._not_called(function, loss) from None
        used = arena.capacity
        try:
            used = codec.write(arena, values)
            rv = link.invoke(arena, function.index, deadline)
            return rv, codec.read(arena, values, rv)
        except (LinkDead, LinkLate) as loss:
            raise self._lost(function, loss) from None
        except Malformed:
            # The answer cannot be believed; whether the member can is for a probe to say.
            self.nonsense += 1
            return ck.CKR_DEVICE_ERROR, [None] * len(values)
        finally:
            link.release(arena, used)

    def series(
        self, layout: Turns[_Object, _Told], session: int, objects: Sequence[_Object], deadline: float
    ) -> list[_Told | None]:
        """What calls for the first of these objects came to, each as `layout` says, in one hand-over; at least of one:
        None where that cannot be told. `objects`: so many as the layout takes. `deadline`: for one call. Raises as
        `invoke` does."""
        link = self._link
        if link is None:
            raise MemberLost(self._cause or "it is not connected")
        if self.clock() >= deadline:
            raise MemberBusy(ck.CKR_DEVICE_ERROR)
        count = len(objects)
        try:
            arena = link.arena(layout.size(count), deadline)
        except (LinkDead, LinkLate) as loss:
            raise self._not_called(layout.function, loss) from None
        used = arena.capacity
        try:
            used = layout.write(arena, session, objects)
            made = link.series(arena, layout.function.index, count, _BUDGET, deadline)
            if not made:
                self.nonsense += 1
            return layout.read(arena, count, made) if made else [None]
        except (LinkDead, LinkLate) as loss:
            raise self._lost(layout.function, loss) from None
        finally:
            link.release(arena, used)

    def _not_called(self, function: Function, loss: LinkDead | LinkLate) -> "MemberBusy | MemberLost":
        """There was no arena for a call."""
        if isinstance(loss, LinkBusy):
            # No call was made: all of the member's places were taken for so long. Whether one of those calls hangs is
            # for its own deadline to say.
            return MemberBusy(ck.CKR_DEVICE_ERROR)
        return self._lost(function, loss)

    def spare(self) -> Arena | None:
        """A place for a straight call, where one is free at once."""
        link = self._link
        return link.spare() if link is not None else None

    def spare_session(self) -> int | None:
        """`acquire`, where no session has to be opened."""
        try:
            return self._idle.pop()
        except IndexError:
            seat = self.seat
            return (seat.take() or None) if seat is not None else None

    def straight(self, function: Function, arena: Arena, call: Any, session: int, key: int, deadline: float) -> int:
        """One straight call (`Link.straight`), through `arena`, which is given back. Raises MemberLost as `invoke`
        does."""
        link = self._link
        if link is None:
            raise MemberLost(self._cause or "it is not connected")
        try:
            return link.straight(arena, call, session, key, deadline)
        except (LinkDead, LinkLate) as loss:
            raise self._lost(function, loss) from None

    def _lost(self, function: Function, loss: LinkDead | LinkLate) -> MemberLost:
        late, culprit = isinstance(loss, LinkLate), isinstance(loss, LinkDead) and loss.culprit
        if late:
            cause = f"{function.name} did not return within its deadline"
        elif culprit:
            cause = f"its helper crashed in {function.name}"
        else:
            # Why it ended under all who were inside only one of them may know.
            cause = self._cause or f"its helper ended during {function.name}"
        if not self._finishing:
            # At once, whoever made this call: nobody else shall wait for a member that is known to hang.
            self.close(cause, hangs=late)
        return MemberLost(cause, culprit)

    def call(self, name: str, deadline: float, *values: Any) -> tuple[int, list[Any]]:
        """`invoke` by name, for housekeeping."""
        return self.invoke(BY_NAME[name], list(values), deadline)

    def offers(self, function: Function) -> bool:
        """Whether the module has this function at all."""
        return self._link is not None and self._link.offers(function.index)

    # -- real sessions ------------------------------------------------------------------------------------------

    def acquire(self, deadline: float) -> int:
        """A real session with no operation on it; `give_back` or `discard` it. Raises MemberLost, SessionRefused."""
        return self.spare_session() or self.open_session(deadline)

    def open_session(self, deadline: float) -> int:
        """A new real session, always read/write: the rules of read-only ones are kept by us (SEMANTICS.md section
        2)."""
        rv, results = self.call("C_OpenSession", deadline, self.slot, _SESSION_FLAGS, None, None)
        if rv != ck.CKR_OK:
            if verdict(Route.LOCAL, rv) is not Verdict.ANSWER:
                raise MemberLost(f"C_OpenSession answered {rv_name(rv)}")
            raise SessionRefused(rv)
        session = int(results[3])
        try:
            # Not before: a token that came in between would have been given the session.
            self.expect_token(deadline)
        except BaseException:
            self.discard(session, deadline)
            raise
        return session

    def expect_token(self, deadline: float, at_ease: bool = False) -> bool:
        """That the slot still holds the token that this connection is for. False: the module cannot say now, not even
        when it is asked again (`at_ease`). Raises MemberLost where it is another, MemberBusy."""
        known = True
        if self.token_info is not None and not self.stranger:
            self.stranger, known = stranger(self.token_info, self._reader(deadline), self._late(deadline), at_ease)
        if self.stranger:
            raise MemberLost(self.stranger)
        return known

    def before_pin(self, deadline: float) -> None:
        """A PIN is about to go to the slot's token: no other's than the member's may get it. Raises MemberLost,
        MemberBusy."""
        if not self.expect_token(deadline, at_ease=True):
            raise MemberLost("its token info cannot be read, so it is not known whose token is in its slot")

    def _reader(self, deadline: float) -> Callable[[], TokenInfo | None]:
        return lambda: self._read_token_info(self.slot, deadline)

    def _late(self, deadline: float) -> Callable[[], bool]:
        return lambda: self.clock() >= deadline

    def give_back(self, session: int, straight: bool = False) -> None:
        """Return a session that has no operation. `straight`: the next of its kind may be C's to take."""
        seat = self.seat if straight else None
        if self._link is not None and (seat is None or not seat.put(session)):
            self._idle.append(session)

    def discard(self, session: int, deadline: float) -> None:
        """Close a session that may be spoilt. A member that is gone has none; without memory or time it is closed when
        the next one is."""
        self._unclosed.append(session)
        # A call that may not wait at all would end a member that is only busy.
        while self._unclosed and self.clock() < deadline:
            try:
                session = self._unclosed.pop()
            except IndexError:  # another thread took the last one
                return
            try:
                self.call("C_CloseSession", deadline, session)
            except MemberLost:
                return
            except (MemberBusy, MemoryError):
                self._unclosed.append(session)
                return

    @contextlib.contextmanager
    def logging_in(self, deadline: float) -> Iterator[None]:
        """One thread at a time opens the anchor, logs in or out: a PIN that was changed elsewhere must not be tried by
        every thread. Raises MemberLost at the deadline."""
        if not self._login_lock.acquire(timeout=min(max(deadline - self.clock(), 0), threading.TIMEOUT_MAX)):
            raise MemberLost("an earlier login did not return within its deadline")
        try:
            yield
        finally:
            self._login_lock.release()

    def anchor(self, deadline: float) -> int:
        """The session that keeps the login alive, and that logs in and out. Raises MemberLost, SessionRefused."""
        if not self._anchor:
            with self.logging_in(deadline):
                if not self._anchor:
                    self._anchor = self.open_session(deadline)
        return self._anchor

    def release_all(self, deadline: float) -> None:
        """The last virtual session closed: log out and close every real session (SEMANTICS.md section 2). Raises
        MemberLost."""
        with self.logging_in(deadline):
            if self._anchor:
                if self.logged_in is not None:
                    rv, _ = self.call("C_Logout", deadline, self._anchor)
                    if rv not in (ck.CKR_OK, ck.CKR_USER_NOT_LOGGED_IN, ck.CKR_SESSION_HANDLE_INVALID):
                        raise MemberLost(f"C_Logout answered {rv_name(rv)}")
                if self._resident.users == 1 and self._resident.ours:
                    self.call("C_CloseAllSessions", deadline, self.slot)
                    while self.spare_session():
                        pass
                    self._unclosed.clear()
                    self._anchor = 0
                self.forget_anchor(deadline)  # the token's other sessions are somebody else's
            self.drop_idle(deadline)
            self._now_is(None)
            self.forget_objects()

    # -- health and login ---------------------------------------------------------------------------------------

    def alive(self, deadline: float) -> bool:
        """Whether a probe finds nothing wrong with the member. Raises nothing."""
        return not self.probe(deadline)

    def probe(self, deadline: float) -> str:
        """Why the member is to be taken for lost, in one phrase; empty where it gives any answer of its own on a fresh
        session. Raises nothing."""
        try:
            session = self.open_session(deadline)
            try:
                rv, _ = self.call("C_GenerateRandom", deadline, session, Out(8))
            finally:
                self.discard(session, deadline)
        except (SessionRefused, MemoryError):
            return ""  # what this process has no memory for says nothing of the member
        except MemberLost as loss:
            return str(loss)
        return "" if verdict(Route.ANY, rv) is Verdict.ANSWER else f"C_GenerateRandom answered {rv_name(rv)}"

    def expect_well(self, name: str, rv: int, deadline: float) -> None:
        """A probe after an ambiguous answer, `rv` of the function `name`. Raises MemberLost where it fails as well."""
        ailment = self.probe(deadline)
        if ailment:
            raise MemberLost(f"{name} answered {rv_name(rv)} and the probe failed: {ailment}")

    def read_token_info(self, deadline: float) -> TokenInfo | None:
        """The token's info now, None where the module could not say (SoftHSM fails while another process logs in)."""
        return read_at_ease(self._reader(deadline), self._late(deadline))

    def _read_token_info(self, slot: int, deadline: float) -> TokenInfo | None:
        rv, results = self.call("C_GetTokenInfo", deadline, slot, None)
        return unpack_token_info(results[1]) if rv == ck.CKR_OK else None

    def login(self, user: int, pin: Any, deadline: float) -> int:
        """C_Login by the application: the CK_RV is its answer."""
        with self.logging_in(deadline):
            rv = self._log_in(user, pin, deadline)
            if rv == ck.CKR_OK:
                self._is_logged_in(user)
        return rv

    def _log_in(self, user: int, pin: Any, deadline: float) -> int:
        """C_Login, repeated where the module did not get as far as the PIN: while another process logs in, SoftHSM
        cannot read its token, and says that it has no PIN (then repeated at ease) or a general error (then once, and
        not where the token's flags say that it was a try after all)."""
        ambiguous = 0
        for attempt in range(INFO_TRIES):
            anchor = self.anchor(deadline)
            self.before_pin(deadline)
            rv, _ = self.call("C_Login", deadline, anchor, user, pin)
            pinless = rv == ck.CKR_USER_PIN_NOT_INITIALIZED
            ambiguous += not pinless
            if pin is None or ambiguous > 1 or not (pinless or verdict(Route.EVERY, rv) is Verdict.SUSPECT):
                return rv
            pause(attempt)
            info = self.read_token_info(deadline)
            if info is None or info.flags & _LOW[user]:
                return rv
        return rv

    def _is_logged_in(self, user: int) -> None:
        self.logins += 1
        self._now_is(user)

    def login_again(self, user: int, pin: Any, deadline: float) -> None:
        """An automatic login, never tried where the token warns that few tries are left. Raises LoginRefused,
        MemberLost."""
        info = self.read_token_info(deadline)
        if info is None:
            raise MemberLost("its token info cannot be read, so the PIN's tries are not known")
        if info.flags & _LOW[user]:
            raise LoginRefused(f"login refused: {_WARNS}")
        rv = self._log_in(user, pin, deadline)
        if rv == ck.CKR_USER_PIN_NOT_INITIALIZED and self._initialize_anew(deadline):
            # SoftHSM read its token while another process had emptied the file, and believes that for good.
            self._anchor = 0
            while self.spare_session():
                pass
            self.forget_objects()
            self._find_token(deadline)
            rv = self._log_in(user, pin, deadline)
        if verdict(Route.LOCAL, rv) is Verdict.MEMBER_LOST:
            raise MemberLost(f"C_Login answered {rv_name(rv)}")
        if rv not in (ck.CKR_OK, ck.CKR_USER_ALREADY_LOGGED_IN):
            raise LoginRefused(f"login refused: C_Login answered {rv_name(rv)}", tried=True)
        self._is_logged_in(user)

    def logout(self, deadline: float) -> int:
        """C_Logout. Handles of private objects are void afterwards (PKCS #11 section 5.6); the group has forgotten
        those."""
        with self.logging_in(deadline):
            rv, _ = self.call("C_Logout", deadline, self.anchor(deadline))
            self._now_is(None)
            # Public objects keep their handles, and a session object could not be found again without.
            self.domain.clear()
            self.proved.clear()
        return rv

    def forget_objects(self) -> None:
        """Drop every binding; objects are bound anew when they are used next."""
        self.bound.clear()
        self.known.clear()
        if self.seat is not None:
            self.seat.unbind_all()
        self.domain.clear()
        self.proved.clear()

    def forget_login(self, since: int, deadline: float) -> None:
        """The module says that nobody is logged in: the anchor and the bindings of that login are void. `since`: the
        count `logins` before the call that was told so; another thread may have logged in again meanwhile."""
        with self.logging_in(deadline):
            if self.logins == since:
                self._now_is(None)
                self.forget_anchor(deadline)
                self.forget_objects()

    def forget_anchor(self, deadline: float) -> None:
        """The anchor session is not to be believed any more."""
        anchor, self._anchor = self._anchor, 0
        if anchor:
            self.discard(anchor, deadline)

    def drop_idle(self, deadline: float) -> None:
        """A session that we held idle turned out to be gone: believe none of the others."""
        while session := self.spare_session():
            self.discard(session, deadline)

    def knows_mechanism(self, mechanism: int) -> bool:
        """Whether the parameter of this CK_MECHANISM_TYPE is known, from the table or the configuration."""
        return mechanism in self._codecs.mechanisms

    def enter_catalogue(self, deadline: float, alone: bool) -> None:
        """Creation and destruction (`alone`) exclude searches on one member. Raises MemberBusy at the deadline."""
        try:
            self.catalogue.enter(deadline, alone, self.clock)
        except GateTimeout:
            # Not lost: making a key may take longer than this call may wait, and who is inside has a deadline itself.
            raise MemberBusy(ck.CKR_DEVICE_ERROR) from None


class SessionRefused(Exception):
    """A real session could not be opened for a reason that is the application's to know. `rv`: the CK_RV."""

    def __init__(self, rv: int) -> None:
        super().__init__(rv_name(rv))
        self.rv = rv


class MemberBusy(SessionRefused):
    """The member's objects are in use by an earlier call for longer than this one may wait; another may serve it."""
