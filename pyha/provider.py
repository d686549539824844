"""One run from C_Initialize to C_Finalize: the slots, the sessions, and every call that needs no member.

Knows the application's view: slot ids, virtual sessions, read-only rules. Where a call goes on members is decided by
its route, in `pyha.runtime`; C memory is read and written in `pyha.abi`.

Sources: SEMANTICS.md sections 1 and 2; PKCS #11 Base Specification 2.40 sections 5.4 to 5.6.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pyha.abi.express import begin_run, end_run
from pyha.abi.info import pack
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import FUNCTIONS, Function, Operation, Route
from pyha.cryptoki.info import Info, MechanismInfo, SessionInfo, SlotInfo, TokenInfo
from pyha.cryptoki.mechanisms import MechanismRow
from pyha.ha.settings import RecoveryMode
from pyha.runtime import changing, creating, everywhere, reading, recovery, searching
from pyha.runtime.binding import MECHANISMS_AT
from pyha.runtime.calls import Unknown, single
from pyha.runtime.failover import Tried
from pyha.runtime.group import GroupRuntime, NobodyLeft
from pyha.runtime.housekeeping import SearchFailed
from pyha.runtime.member import SessionRefused
from pyha.runtime.monitor import Guard, Monitor
from pyha.runtime.operations import cancel, drop, operate
from pyha.runtime.reload import Reload
from pyha.runtime.session import VirtualSession
from pyha.runtime.straight import General, Met, Way, mets, ways

Answer = tuple[int, list[Any]]
_Local = Callable[[list[Any]], Answer]
_Everywhere = Callable[[GroupRuntime, VirtualSession, Function, list[Any]], int]

# Python 3.11 finds a member of an enumeration through functions of its metaclass; a call names ten of them.
_LOCAL, _ANY, _READ, _SEARCH, _CREATE = Route.LOCAL, Route.ANY, Route.READ, Route.SEARCH, Route.CREATE
_EVERY, _REFUSE, _BACKGROUND = Route.EVERY, Route.REFUSE, RecoveryMode.BACKGROUND
_OPERATES = (Route.START, Route.CONTINUE, Route.FINISH)

_FINALIZE_GRACE = 1.0
"""Seconds that C_Finalize waits for all members together to finalize, and for their helpers to be gone."""

_CANCELLED = {
    ck.CKF_ENCRYPT: Operation.ENCRYPT,
    ck.CKF_DECRYPT: Operation.DECRYPT,
    ck.CKF_DIGEST: Operation.DIGEST,
    ck.CKF_SIGN: Operation.SIGN,
    ck.CKF_SIGN_RECOVER: Operation.SIGN_RECOVER,
    ck.CKF_VERIFY: Operation.VERIFY,
    ck.CKF_VERIFY_RECOVER: Operation.VERIFY_RECOVER,
    ck.CKF_FIND_OBJECTS: Operation.SEARCH,
}
"""What each flag of C_SessionCancel ends (PKCS #11 3.0 section 5.6)."""


class Provider:
    """What an initialised module is. `groups`: one a slot, in the order of the slot list."""

    def __init__(self, groups: list[GroupRuntime], reload: Reload, guard: Guard, threads: bool = True) -> None:
        """`guard`: runs what has no caller to throw to. `threads`: the application allows us threads of our own."""
        if not threads:
            for group in groups:
                group.forbid_threads()
        self.ways: list[Way | None] = [None] * len(FUNCTIONS)
        self.mets: list[Met | None] = [None] * len(FUNCTIONS)
        self.run = 0  # of C's sessions
        self._reload = reload
        self._monitor = Monitor(groups, reload, guard)
        self._groups = {group.slot: group for group in groups}
        self._sessions: dict[int, VirtualSession] = {}
        self._lock = threading.Lock()
        self._next_session = 1
        self._finalized = threading.Event()
        self._local: dict[str, _Local] = {
            "C_GetInfo": self._get_info,
            "C_GetSlotList": self._get_slot_list,
            "C_GetSlotInfo": self._get_slot_info,
            "C_GetTokenInfo": self._get_token_info,
            "C_GetMechanismList": self._get_mechanism_list,
            "C_GetMechanismInfo": self._get_mechanism_info,
            "C_OpenSession": self._open_session,
            "C_CloseSession": self._close_session,
            "C_CloseAllSessions": self._close_all_sessions,
            "C_GetSessionInfo": self._get_session_info,
            "C_GetOperationState": lambda values: self._on_session(values, ck.CKR_STATE_UNSAVEABLE),
            "C_SetOperationState": lambda values: self._on_session(values, ck.CKR_SAVED_STATE_INVALID),
            "C_GetFunctionStatus": lambda values: self._on_session(values, ck.CKR_FUNCTION_NOT_PARALLEL),
            "C_CancelFunction": lambda values: self._on_session(values, ck.CKR_FUNCTION_NOT_PARALLEL),
            "C_FindObjects": self._find_objects,
            "C_FindObjectsFinal": self._find_objects_final,
            "C_SessionCancel": self._session_cancel,
            "C_WaitForSlotEvent": self._wait_for_slot_event,
            "C_InitToken": self._init_token,
        }
        self._every: dict[str, _Everywhere] = {
            "C_Login": self._login,
            "C_Logout": lambda group, session, function, values: everywhere.logout(group),
            "C_SeedRandom": lambda group, session, function, values: everywhere.seed_random(group, function, values),
            "C_InitPIN": everywhere.set_pin,
            "C_SetPIN": everywhere.set_pin,
        }

    # -- the one way in -----------------------------------------------------------------------------------------

    def call(self, function: Function, values: list[Any], tried: Tried | None = None) -> Answer:
        """Answer one decoded call: (CK_RV, results, one an argument; empty where there are none). `tried`: what the
        straight way has met, on one member."""
        route = function.route
        if route is _LOCAL:
            return self._local[function.name](values)
        session = self._sessions.get(values[0])
        if session is None:
            return ck.CKR_SESSION_HANDLE_INVALID, []
        if route is _REFUSE:
            return ck.CKR_FUNCTION_NOT_SUPPORTED, []
        group = self._groups[session.slot]
        if tried is None and group.recovery.mode is not _BACKGROUND:
            # Never for what was tried already, which comes with its session's lock.
            self._recover(group)
        try:
            if route is _EVERY:
                # Not under the session's lock: the login lock comes first, and logging out takes every session's.
                return self._every[function.name](group, session, function, values), []
            with session.lock:
                if session.closed:
                    return ck.CKR_SESSION_HANDLE_INVALID, []
                return self._routed(group, session, function, values, tried)
        except Unknown as unknown:
            return unknown.rv, []
        except NobodyLeft as nobody:
            return _nobody(nobody), []
        except (SearchFailed, SessionRefused):
            # One of our own steps beside the call was refused; why is nothing that the application could act on.
            return ck.CKR_DEVICE_ERROR, []

    def _recover(self, group: GroupRuntime) -> None:
        """The seed's rule: a call that needs members first tries the lost ones that are due, where no thread does."""
        self._reload.look()
        recovery.on_call(group)

    def go_straight(self, mechanisms: Mapping[int, MechanismRow], general: General) -> None:
        """From now on there is a straight way, for calls with these mechanisms. `general`: goes on with what it has
        met."""
        self.ways = ways(self._sessions, self._groups, self._recover, mechanisms, general)
        self.mets = mets(self._sessions, self._groups, general)
        self.run = begin_run()
        for group in self._groups.values():
            group.express.run = self.run

    def _routed(
        self,
        group: GroupRuntime,
        session: VirtualSession,
        function: Function,
        values: list[Any],
        tried: Tried | None,
    ) -> Answer:
        route = function.route
        for position in MECHANISMS_AT[function.index]:
            if group.mechanisms is not None and values[position].type not in group.mechanisms:
                return ck.CKR_MECHANISM_INVALID, []
        if route in _OPERATES:
            return operate(group, session, function, values, tried)
        if route is _ANY:
            return single(group, function, values, tried)
        if route is _READ:
            return reading.read(group, function, values)
        if route is _SEARCH:
            return searching.find(group, session, function, values), []
        # What is made or deleted now has to be so on a member that the operator has just added, too.
        self._reload.follow()
        if route is _CREATE:
            return creating.create(group, session, function, values)
        return changing.change(group, session, function, values), []

    @staticmethod
    def _login(group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any]) -> int:
        rv = everywhere.login(group, session, values)
        if rv == ck.CKR_OK:
            recovery.after_login(group)
        return rv

    def _init_token(self, values: list[Any]) -> Answer:
        return (ck.CKR_FUNCTION_NOT_SUPPORTED if values[0] in self._groups else ck.CKR_SLOT_ID_INVALID), []

    def finalize(self) -> None:
        """C_Finalize: whoever waits or works inside is let go, every helper is ended."""
        self._finalized.set()
        end_run(self.run)
        self._monitor.stop()
        deadline = time.monotonic() + _FINALIZE_GRACE
        for group in self._groups.values():
            group.close(deadline)

    # -- slots and tokens ---------------------------------------------------------------------------------------

    def _get_info(self, values: list[Any]) -> Answer:
        return ck.CKR_OK, [pack(Info((2, 40), "pyha", 0, "HA layer for PKCS#11", (0, 1)))]

    def _get_slot_list(self, values: list[Any]) -> Answer:
        slots = tuple(self._groups)
        room = values[1]
        fits = room is None or room >= len(slots)
        answer = (len(slots), None if room is None or not fits else slots)
        return (ck.CKR_OK if fits else ck.CKR_BUFFER_TOO_SMALL), [None, answer]

    def _slot(self, slot: int) -> GroupRuntime | None:
        return self._groups.get(slot)

    def _get_slot_info(self, values: list[Any]) -> Answer:
        group = self._slot(values[0])
        if group is None:
            return ck.CKR_SLOT_ID_INVALID, []
        description = "HA Virtual Card Slot" if not group.raw else group.settings.label
        return ck.CKR_OK, [None, pack(SlotInfo(description, "pyha", ck.CKF_TOKEN_PRESENT, (0, 1), (0, 1)))]

    def _get_token_info(self, values: list[Any]) -> Answer:
        group = self._slot(values[0])
        if group is None:
            return ck.CKR_SLOT_ID_INVALID, []
        sessions = self._sessions_of(group)
        return ck.CKR_OK, [None, pack(_token_info(group, len(sessions), sum(session.writable for session in sessions)))]

    def _mechanisms(self, group: GroupRuntime) -> dict[int, Any]:
        if group.mechanisms is None:
            try:
                group.contact()
            except NobodyLeft:
                return {}
        return group.mechanisms or {}

    def _get_mechanism_list(self, values: list[Any]) -> Answer:
        group = self._slot(values[0])
        if group is None:
            return ck.CKR_SLOT_ID_INVALID, []
        types = tuple(self._mechanisms(group))
        room = values[1]
        fits = room is None or room >= len(types)
        return (ck.CKR_OK if fits else ck.CKR_BUFFER_TOO_SMALL), [
            None,
            (len(types), None if room is None or not fits else types),
        ]

    def _get_mechanism_info(self, values: list[Any]) -> Answer:
        group = self._slot(values[0])
        if group is None:
            return ck.CKR_SLOT_ID_INVALID, []
        offer = self._mechanisms(group).get(values[1])
        if offer is None:
            return ck.CKR_MECHANISM_INVALID, []
        return ck.CKR_OK, [None, None, pack(MechanismInfo(offer.minimum, offer.maximum, offer.flags))]

    # -- sessions -----------------------------------------------------------------------------------------------

    def _open_session(self, values: list[Any]) -> Answer:
        slot, flags = values[0], values[1]
        group = self._slot(slot)
        if group is None:
            return ck.CKR_SLOT_ID_INVALID, []
        if not flags & ck.CKF_SERIAL_SESSION:
            return ck.CKR_SESSION_PARALLEL_NOT_SUPPORTED, []
        writable = bool(flags & ck.CKF_RW_SESSION)
        if group.recovery.mode is not _BACKGROUND:
            self._recover(group)
        try:
            group.contact()
            # The lock that the end of the last session takes too: it must not log out who is just coming.
            with group.login_lock:
                if group.user == ck.CKU_SO and not writable:
                    return ck.CKR_SESSION_READ_WRITE_SO_EXISTS, []
                refusal = everywhere.open_anchors(group)
                if refusal != ck.CKR_OK:
                    return refusal, []
                with self._lock:
                    handle = self._next_session
                    self._next_session += 1
                    session = VirtualSession(handle, slot, writable)
                    self._sessions[handle] = session
                    group.sessions[handle] = session
        except NobodyLeft as nobody:
            return _nobody(nobody), []
        return ck.CKR_OK, [None, None, None, handle]

    def _close_session(self, values: list[Any]) -> Answer:
        session = self._sessions.get(values[0])
        if session is None or not self._close(session):
            return ck.CKR_SESSION_HANDLE_INVALID, []
        return ck.CKR_OK, []

    def _close_all_sessions(self, values: list[Any]) -> Answer:
        group = self._slot(values[0])
        if group is None:
            return ck.CKR_SLOT_ID_INVALID, []
        for session in self._sessions_of(group):
            self._close(session)
        return ck.CKR_OK, []

    def _sessions_of(self, group: GroupRuntime) -> list[VirtualSession]:
        with self._lock:
            return list(group.sessions.values())

    def _close(self, session: VirtualSession) -> bool:
        """False: another thread was first."""
        group = self._groups[session.slot]
        with session.lock:
            if session.closed:
                return False
            session.closed = True
            with self._lock:
                del self._sessions[session.handle]
                del group.sessions[session.handle]
                last = not group.sessions
            drop(group, session)
            group.objects.remove_where(session=session.handle)
            with session.holding:  # who is just bringing an object of it has a deadline
                holders = dict(session.holders)
                session.holders.clear()
            for index, (generation, real) in holders.items():
                connection = group.connections[index]
                if connection is not None and connection.generation == generation:
                    connection.discard(real, group.deadline())
        if last:
            everywhere.release(group)
        return True

    def _get_session_info(self, values: list[Any]) -> Answer:
        session = self._sessions.get(values[0])
        if session is None:
            return ck.CKR_SESSION_HANDLE_INVALID, []
        user = self._groups[session.slot].user
        flags = ck.CKF_SERIAL_SESSION | (ck.CKF_RW_SESSION if session.writable else 0)
        return ck.CKR_OK, [None, pack(SessionInfo(session.slot, _state(session.writable, user), flags, 0))]

    def _on_session(self, values: list[Any], rv: int) -> Answer:
        return (rv if values[0] in self._sessions else ck.CKR_SESSION_HANDLE_INVALID), []

    # -- searches, drained when they were opened ----------------------------------------------------------------

    def _find_objects(self, values: list[Any]) -> Answer:
        session = self._sessions.get(values[0])
        if session is None:
            return ck.CKR_SESSION_HANDLE_INVALID, []
        with session.lock:
            if session.found is None:
                return ck.CKR_OPERATION_NOT_INITIALIZED, []
            handles = tuple(session.found[: values[1]])
            del session.found[: values[1]]
        return ck.CKR_OK, [None, handles]

    def _find_objects_final(self, values: list[Any]) -> Answer:
        session = self._sessions.get(values[0])
        if session is None:
            return ck.CKR_SESSION_HANDLE_INVALID, []
        with session.lock:
            if session.found is None:
                return ck.CKR_OPERATION_NOT_INITIALIZED, []
            session.found = None
        return ck.CKR_OK, []

    def _session_cancel(self, values: list[Any]) -> Answer:
        session = self._sessions.get(values[0])
        if session is None:
            return ck.CKR_SESSION_HANDLE_INVALID, []
        cancelled = {operation for flag, operation in _CANCELLED.items() if values[1] & flag}
        with session.lock:
            if Operation.SEARCH in cancelled:
                session.found = None
            cancel(self._groups[session.slot], session, cancelled)
        return ck.CKR_OK, []

    def _wait_for_slot_event(self, values: list[Any]) -> Answer:
        if values[0] & ck.CKF_DONT_BLOCK:
            return ck.CKR_NO_EVENT, []
        self._finalized.wait()
        return ck.CKR_CRYPTOKI_NOT_INITIALIZED, []


def _nobody(nobody: NobodyLeft) -> int:
    return ck.CKR_DEVICE_ERROR if nobody.first else ck.CKR_TOKEN_NOT_PRESENT


def _state(writable: bool, user: int | None) -> int:
    if user == ck.CKU_SO:
        return ck.CKS_RW_SO_FUNCTIONS
    if user is None:
        return ck.CKS_RW_PUBLIC_SESSION if writable else ck.CKS_RO_PUBLIC_SESSION
    return ck.CKS_RW_USER_FUNCTIONS if writable else ck.CKS_RO_USER_FUNCTIONS


def _token_info(group: GroupRuntime, sessions: int, writable: int) -> TokenInfo:
    known = group.snapshot()
    unavailable = ck.CK_UNAVAILABLE_INFORMATION
    return TokenInfo(
        label=group.settings.label,
        manufacturer=known.manufacturer,
        model=known.model,
        serial=group.settings.serial,
        flags=known.flags,
        max_sessions=ck.CK_EFFECTIVELY_INFINITE,
        sessions=sessions,
        max_rw_sessions=ck.CK_EFFECTIVELY_INFINITE,
        rw_sessions=writable,
        max_pin=known.pin_maximum,
        min_pin=known.pin_minimum,
        total_public_memory=unavailable,
        free_public_memory=unavailable,
        total_private_memory=unavailable,
        free_private_memory=unavailable,
        hardware_version=known.hardware_version,
        firmware_version=known.firmware_version,
        time="",
    )
