"""A PKCS #11 client that asks exactly one C call at a time and tells the CK_RV: ctypes, and nothing of ours in between.

The same for our module and for a plain one, so that the two can be compared call by call. `client` runs it in a process
of its own, by remote control; `Client` itself may also be used where a script has threads to spare.
"""

import ctypes
import os
import select
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any, cast

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, COUNT_2_40
from tests.application import Mechanism, Template, _mechanism, _template

Word = ctypes.c_ulong
NULL = None
RW, RO = 6, 4
"""C_OpenSession's flags: CKF_SERIAL_SESSION, and CKF_RW_SESSION."""

ROOM = 8192


class _FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 8), ("functions", ctypes.c_void_p * COUNT_2_40))


class Client:
    """A loaded module. Every method answers a CK_RV, those with a result (CK_RV, result)."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        os.environ.update(environment or {})
        self._library = ctypes.CDLL(module, mode=os.RTLD_LOCAL)
        found = ctypes.POINTER(_FunctionList)()
        assert self._library.C_GetFunctionList(ctypes.byref(found)) == ck.CKR_OK
        self._list = found.contents

    def call(self, name: str, *arguments: Any) -> int:
        """One function through the function list. Integers travel as CK_ULONG, None as NULL, the rest as ctypes has
        it."""
        function = ctypes.CFUNCTYPE(Word, *[Word if type(each) is int else ctypes.c_void_p for each in arguments])(
            self._list.functions[BY_NAME[name].index]
        )
        passed = [
            ctypes.cast(each, ctypes.c_void_p) if not isinstance(each, int | type(None)) else each for each in arguments
        ]
        return int(function(*passed))

    def raw(self, name: str, *words: int) -> int:
        """One exported function of any version with these words as arguments."""
        function = getattr(self._library, name)
        function.restype = Word
        return int(function(*map(Word, words)))

    # -- general ------------------------------------------------------------------------------------------------

    def initialize(self, flags: int | None = None, mutexes: int = 0, reserved: int = 0) -> int:
        """C_Initialize. `flags` None: with a NULL pointer. `mutexes`: how many callbacks are given."""
        if flags is None:
            return self.call("C_Initialize", NULL)
        callbacks = [1 if at < mutexes else 0 for at in range(4)]
        return self.call("C_Initialize", (Word * 6)(*callbacks, flags, reserved))

    def finalize(self) -> int:
        """C_Finalize."""
        return self.call("C_Finalize", NULL)

    def slots(self, present: bool = True) -> tuple[int, list[int]]:
        """C_GetSlotList."""
        count = Word(64)
        slots = (Word * 64)()
        rv = self.raw_slots(present, slots, count)
        return rv, list(slots[: count.value])

    def raw_slots(self, present: bool, slots: Any, count: Any) -> int:
        """C_GetSlotList with the caller's memory."""
        return self.call("C_GetSlotList", int(present), slots, ctypes.byref(count))

    def slot_info(self, slot: int) -> tuple[int, bytes]:
        """C_GetSlotInfo."""
        room = ctypes.create_string_buffer(104)
        return self.call("C_GetSlotInfo", slot, room), room.raw

    def token_info(self, slot: int) -> tuple[int, bytes]:
        """C_GetTokenInfo."""
        room = ctypes.create_string_buffer(208)
        return self.call("C_GetTokenInfo", slot, room), room.raw

    def slot_of(self, label: str) -> int:
        """The slot whose token has this label."""
        for slot in self.slots()[1]:
            if self.token_info(slot)[1][:32].decode().rstrip() == label:
                return slot
        raise AssertionError(f"no token {label}")

    def mechanisms(self, slot: int) -> tuple[int, list[int]]:
        """C_GetMechanismList."""
        count = Word(512)
        types = (Word * 512)()
        rv = self.call("C_GetMechanismList", slot, types, ctypes.byref(count))
        return rv, list(types[: count.value])

    def mechanism_info(self, slot: int, mechanism: int) -> tuple[int, list[int]]:
        """C_GetMechanismInfo: smallest and largest key, flags."""
        info = (Word * 3)()
        return self.call("C_GetMechanismInfo", slot, mechanism, info), list(info)

    # -- sessions -----------------------------------------------------------------------------------------------

    def open(self, slot: int, flags: int = RW) -> tuple[int, int]:
        """C_OpenSession."""
        session = Word()
        return self.call("C_OpenSession", slot, flags, NULL, NULL, ctypes.byref(session)), session.value

    def close(self, session: int) -> int:
        """C_CloseSession."""
        return self.call("C_CloseSession", session)

    def close_all(self, slot: int) -> int:
        """C_CloseAllSessions."""
        return self.call("C_CloseAllSessions", slot)

    def state(self, session: int) -> tuple[int, int]:
        """C_GetSessionInfo: the state."""
        info = (Word * 4)()
        return self.call("C_GetSessionInfo", session, info), info[1]

    def login(self, session: int, pin: str | None, user: int = ck.CKU_USER) -> int:
        """C_Login."""
        if pin is None:
            return self.call("C_Login", session, user, NULL, 0)
        return self.call("C_Login", session, user, pin.encode(), len(pin))

    def logout(self, session: int) -> int:
        """C_Logout."""
        return self.call("C_Logout", session)

    def set_pin(self, session: int, old: str, new: str) -> int:
        """C_SetPIN."""
        return self.call("C_SetPIN", session, old.encode(), len(old), new.encode(), len(new))

    def init_pin(self, session: int, pin: str) -> int:
        """C_InitPIN."""
        return self.call("C_InitPIN", session, pin.encode(), len(pin))

    def logged_in(self, slot: int, pin: str = "1234") -> int:
        """A new session, logged in."""
        rv, session = self.open(slot)
        assert rv == ck.CKR_OK
        assert self.login(session, pin) in (ck.CKR_OK, ck.CKR_USER_ALREADY_LOGGED_IN)
        return session

    # -- objects ------------------------------------------------------------------------------------------------

    def create(self, session: int, template: Template) -> tuple[int, int]:
        """C_CreateObject."""
        attributes, _alive = _template(template)
        handle = Word()
        return self.call("C_CreateObject", session, attributes, len(attributes), ctypes.byref(handle)), handle.value

    def copy(self, session: int, key: int, template: Template) -> tuple[int, int]:
        """C_CopyObject."""
        attributes, _alive = _template(template)
        handle = Word()
        rv = self.call("C_CopyObject", session, key, attributes, len(attributes), ctypes.byref(handle))
        return rv, handle.value

    def destroy(self, session: int, key: int) -> int:
        """C_DestroyObject."""
        return self.call("C_DestroyObject", session, key)

    def set(self, session: int, key: int, template: Template) -> int:
        """C_SetAttributeValue."""
        attributes, _alive = _template(template)
        return self.call("C_SetAttributeValue", session, key, attributes, len(attributes))

    def get(self, session: int, key: int, attribute: int) -> tuple[int, bytes]:
        """C_GetAttributeValue of one attribute."""
        room = ctypes.create_string_buffer(ROOM)
        query = (Word * 3)(attribute, ctypes.addressof(room), ROOM)
        rv = self.call("C_GetAttributeValue", session, key, query, 1)
        return rv, room.raw[: query[2]] if rv == ck.CKR_OK else b""

    def find_init(self, session: int, template: Template) -> int:
        """C_FindObjectsInit."""
        attributes, _alive = _template(template)
        return self.call("C_FindObjectsInit", session, attributes, len(attributes))

    def find_next(self, session: int, most: int = 100) -> tuple[int, list[int]]:
        """C_FindObjects."""
        handles, count = (Word * max(most, 1))(), Word()
        rv = self.call("C_FindObjects", session, handles, most, ctypes.byref(count))
        return rv, list(handles[: count.value]) if rv == ck.CKR_OK else []

    def find_final(self, session: int) -> int:
        """C_FindObjectsFinal."""
        return self.call("C_FindObjectsFinal", session)

    def find(self, session: int, template: Template) -> tuple[int, list[int]]:
        """A whole search; the first CK_RV that is not CKR_OK."""
        rv = self.find_init(session, template)
        if rv != ck.CKR_OK:
            return rv, []
        rv, found = self.find_next(session)
        return rv or self.find_final(session), found

    # -- keys ---------------------------------------------------------------------------------------------------

    def generate(self, session: int, mechanism: Mechanism, template: Template) -> tuple[int, int]:
        """C_GenerateKey."""
        (how, _used), (attributes, _alive) = _mechanism(mechanism), _template(template)
        handle = Word()
        rv = self.call("C_GenerateKey", session, ctypes.byref(how), attributes, len(attributes), ctypes.byref(handle))
        return rv, handle.value

    def pair(self, session: int, mechanism: Mechanism, public: Template, private: Template) -> tuple[int, int, int]:
        """C_GenerateKeyPair: CK_RV, public and private key."""
        how, _used = _mechanism(mechanism)
        (ours, _ours), (theirs, _theirs) = _template(public), _template(private)
        first, second = Word(), Word()
        rv = self.call(
            "C_GenerateKeyPair", session, ctypes.byref(how), ours, len(ours), theirs, len(theirs),
            ctypes.byref(first), ctypes.byref(second),
        )  # fmt: skip
        return rv, first.value, second.value

    def wrap(self, session: int, mechanism: Mechanism, wrapping: int, key: int) -> tuple[int, bytes]:
        """C_WrapKey."""
        how, _used = _mechanism(mechanism)
        room, length = ctypes.create_string_buffer(ROOM), Word(ROOM)
        rv = self.call("C_WrapKey", session, ctypes.byref(how), wrapping, key, room, ctypes.byref(length))
        return rv, room.raw[: length.value] if rv == ck.CKR_OK else b""

    def unwrap(
        self, session: int, mechanism: Mechanism, unwrapping: int, wrapped: bytes, template: Template
    ) -> tuple[int, int]:
        """C_UnwrapKey."""
        (how, _used), (attributes, _alive) = _mechanism(mechanism), _template(template)
        handle = Word()
        rv = self.call(
            "C_UnwrapKey", session, ctypes.byref(how), unwrapping, wrapped, len(wrapped), attributes, len(attributes),
            ctypes.byref(handle),
        )  # fmt: skip
        return rv, handle.value

    def derive(self, session: int, mechanism: Mechanism, base: int, template: Template) -> tuple[int, int]:
        """C_DeriveKey."""
        (how, _used), (attributes, _alive) = _mechanism(mechanism), _template(template)
        handle, count = Word(), len(attributes)
        rv = self.call("C_DeriveKey", session, ctypes.byref(how), base, attributes, count, ctypes.byref(handle))
        return rv, handle.value

    def object_size(self, session: int, key: int) -> tuple[int, int]:
        """C_GetObjectSize."""
        size = Word()
        return self.call("C_GetObjectSize", session, key, ctypes.byref(size)), size.value

    # -- operations ---------------------------------------------------------------------------------------------

    def start(self, name: str, session: int, mechanism: Mechanism, key: int | None = None) -> int:
        """C_<name>Init; C_DigestInit has no key."""
        how, _used = _mechanism(mechanism)
        return self.call(f"C_{name}Init", session, ctypes.byref(how), *([] if key is None else [key]))

    def feed(self, name: str, session: int, data: bytes) -> int:
        """A call that takes bytes and gives none: C_SignUpdate, C_DigestUpdate, C_SeedRandom ..."""
        return self.call(f"C_{name}", session, data, len(data))

    def out(
        self, name: str, session: int, data: bytes | None = None, room: int | None = ROOM
    ) -> tuple[int, int, bytes]:
        """A call that gives bytes, with `data` or without: CK_RV, the length told, the bytes. `room` None: with a NULL
        pointer, to ask for the length."""
        memory = ctypes.create_string_buffer(max(room or 0, 1))
        length = Word(room or 0)
        given = [] if data is None else [data, len(data)]
        rv = self.call(f"C_{name}", session, *given, None if room is None else memory, ctypes.byref(length))
        content = memory.raw[: length.value] if rv == ck.CKR_OK and room is not None else b""
        return rv, length.value, content

    def in_place(self, name: str, session: int, data: bytes, room: int = ROOM) -> tuple[int, bytes]:
        """A call whose output goes where its input is: CK_RV, the bytes."""
        memory = ctypes.create_string_buffer(data, max(room, len(data)))
        length = Word(room)
        rv = self.call(f"C_{name}", session, memory, len(data), memory, ctypes.byref(length))
        return rv, memory.raw[: length.value] if rv == ck.CKR_OK else b""

    def verify(self, session: int, data: bytes, signature: bytes) -> int:
        """C_Verify."""
        return self.call("C_Verify", session, data, len(data), signature, len(signature))

    def random(self, session: int, length: int = 16) -> tuple[int, bytes]:
        """C_GenerateRandom."""
        room = ctypes.create_string_buffer(length)
        return self.call("C_GenerateRandom", session, room, length), room.raw

    def sign(self, session: int, mechanism: Mechanism, key: int, data: bytes) -> tuple[int, bytes]:
        """C_SignInit and C_Sign; the first CK_RV that is not CKR_OK."""
        rv = self.start("Sign", session, mechanism, key)
        if rv != ck.CKR_OK:
            return rv, b""
        rv, _, signature = self.out("Sign", session, data)
        return rv, signature

    def wait_for_slot_event(self, flags: int) -> int:
        """C_WaitForSlotEvent."""
        return self.call("C_WaitForSlotEvent", flags, ctypes.byref(Word()), NULL)

    def pid(self) -> int:
        """The process that this runs in."""
        return os.getpid()


class _Manager(BaseManager):
    """Holds the process of a client."""


_Manager.register("Client", Client)


@contextmanager
def client(module: str, environment: Mapping[str, str], initialize: bool = True) -> Iterator[Client]:
    """A client in a new process that ends with the block. Threads may call it at the same time."""
    with _Manager(ctx=get_context("spawn")) as manager:
        made = cast(Client, cast(Any, manager).Client(module, dict(environment)))
        if initialize:
            assert made.initialize() == ck.CKR_OK
        yield made


EC = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
"""CKA_EC_PARAMS of P-256."""


def ec_pair(of: Client, session: int, label: bytes = b"ec", token: bool = True) -> tuple[int, int]:
    """A P-256 key pair: public and private key."""
    named = {ck.CKA_TOKEN: token, ck.CKA_LABEL: label, ck.CKA_ID: label}
    public = {**named, ck.CKA_EC_PARAMS: EC, ck.CKA_VERIFY: True}
    rv, ours, theirs = of.pair(session, ck.CKM_EC_KEY_PAIR_GEN, public, {**named, ck.CKA_SIGN: True})
    assert rv == ck.CKR_OK, hex(rv)
    return ours, theirs


def aes_key(of: Client, session: int, label: bytes = b"aes", token: bool = True) -> int:
    """An AES-256 key that may do everything."""
    every = (ck.CKA_ENCRYPT, ck.CKA_DECRYPT, ck.CKA_SIGN, ck.CKA_VERIFY, ck.CKA_EXTRACTABLE)
    template = {ck.CKA_TOKEN: token, ck.CKA_LABEL: label, ck.CKA_ID: label, ck.CKA_VALUE_LEN: 32}
    rv, key = of.generate(session, ck.CKM_AES_KEY_GEN, {**template, **dict.fromkeys(every, True)})
    assert rv == ck.CKR_OK, hex(rv)
    return key


def helpers(label: str, members: Sequence[str] | None = None) -> dict[str, int]:
    """The helper processes of a group: member name -> pid, found by the title that they show; of two the younger one,
    because a helper that a test stopped outlives its application."""
    found: dict[str, tuple[int, int]] = {}
    for member, pid in _titles(label):
        if members is None or member in members:
            found[member] = max(found.get(member, (0, 0)), (_started(Path("/proc") / str(pid)), pid))
    return {member: pid for member, (_, pid) in found.items()}


def all_helpers(label: str) -> list[int]:
    """Every helper process of a group, those on their way out as well."""
    return [pid for _, pid in _titles(label)]


def wait_for_end(processes: Sequence[int], limit: float = 30.0) -> None:
    """Until they are gone. Raises AssertionError where one is still there after so many seconds."""
    for pid in processes:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([descriptor], [], [], limit)[0], f"helper {pid} is still there"
        finally:
            os.close(descriptor)


def _titles(label: str) -> Iterator[tuple[str, int]]:
    """(member name, pid) of each helper of a group."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if not words[0].endswith(b"pyha-host"):
            continue
        for word in words:
            group, _, member = word.decode(errors="replace").partition("/")
            if group == label:
                yield member, int(entry.name)


def _started(process: Path) -> int:
    """When a process started, in clock ticks since boot; 0 where it is gone."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0
