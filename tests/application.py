"""A small application: a PKCS #11 module through ctypes, in a process of its own, by remote control.

For our module and for a plain one, so that a test can look at a member directly; nothing of ours is in between.
"""

import ctypes
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from typing import Any, cast

from pyha.cryptoki import constants as ck
from pyha.cryptoki.names import rv_name

_Word = ctypes.c_ulong
_ROOM = 4096

Template = Mapping[int, Any]
"""CKA_ -> bool, int (CK_ULONG), bytes, or a template."""

Mechanism = Any
"""CKM_; or (CKM_, parameter): bytes, or a sequence that makes a structure: an int is a CK_ULONG, bytes are a CK_ULONG
length and a pointer, and ("pointer", bytes) is a pointer and then the length."""


class Answered(Exception):
    """A call answered something else than CKR_OK. Its text is the CK_RV's name."""


class _Described(ctypes.Structure):
    """CK_ATTRIBUTE and CK_MECHANISM, which are made alike."""

    _fields_ = (("type", _Word), ("value", ctypes.c_void_p), ("length", _Word))


def _plain(value: bool | int | bytes) -> bytes:
    if isinstance(value, bool):
        return bytes([value])
    return struct.pack("<Q", value) if isinstance(value, int) else value


def _template(values: Template) -> tuple[Any, list[Any]]:
    attributes, alive = (_Described * len(values))(), []
    for attribute, (kind, value) in zip(attributes, values.items(), strict=True):
        if isinstance(value, Mapping):
            content, inner = _template(value)
            alive.append(inner)
        else:
            plain = _plain(value)
            content = ctypes.create_string_buffer(plain, len(plain))
        alive.append(content)
        attribute.type, attribute.length = kind, ctypes.sizeof(content)
        attribute.value = ctypes.cast(content, ctypes.c_void_p)
    return attributes, alive


def _mechanism(mechanism: Mechanism) -> tuple[Any, list[Any]]:
    if isinstance(mechanism, int):
        return _Described(mechanism, None, 0), []
    kind, parameter = mechanism
    alive: list[Any] = []

    def at(content: bytes) -> int:
        alive.append(ctypes.create_string_buffer(content, len(content)))
        return ctypes.addressof(alive[-1]) if content else 0

    if isinstance(parameter, bytes):
        raw = parameter
    else:
        raw = b""
        for item in parameter:
            if isinstance(item, int):
                raw += struct.pack("<Q", item)
            elif isinstance(item, bytes):
                raw += struct.pack("<QQ", len(item), at(item))
            else:
                raw += struct.pack("<QQ", at(item[1]), len(item[1]))
    return _Described(kind, at(raw), len(raw)), alive


class Application:
    """One process's use of a module: it sees one slot, has one open session, and is logged in as user."""

    def __init__(self, module: str, environment: Mapping[str, str], token: str, pin: str | None) -> None:
        """`token`: label of the token to use. `pin` None: no login."""
        os.environ.update(environment)
        self._module = ctypes.CDLL(module)
        self._do("C_Initialize", None)
        self._slot = _Word(self._find(token))
        self._session = self._open(6)
        if pin is not None:
            self._do("C_Login", self._session, _Word(1), pin.encode(), _Word(len(pin)))

    def _find(self, label: str) -> int:
        count = _Word(64)
        slots = (_Word * count.value)()
        self._do("C_GetSlotList", ctypes.c_ubyte(1), slots, ctypes.byref(count))
        for slot in slots[: count.value]:
            info = ctypes.create_string_buffer(512)
            self._do("C_GetTokenInfo", _Word(slot), info)
            if info.raw[:32].decode().rstrip() == label:
                return slot
        raise Answered(f"no token {label}")

    def _do(self, function: str, *arguments: Any) -> None:
        rv = cast(int, getattr(self._module, function)(*arguments)) & 0xFFFFFFFF
        if rv:
            raise Answered(f"{rv_name(rv)} from {function}")

    def _open(self, flags: int) -> Any:
        session = _Word()
        self._do("C_OpenSession", self._slot, _Word(flags), None, None, ctypes.byref(session))
        return session

    # -- sessions -----------------------------------------------------------------------------------------------

    def open(self, read_only: bool = False) -> int:
        """C_OpenSession; `use` makes it the session of the calls that follow."""
        return int(self._open(4 if read_only else 6).value)

    def use(self, session: int) -> int:
        """Calls go to this session from now on; the one they went to before."""
        before, self._session = self._session, _Word(session)
        return int(before.value)

    def close(self, session: int) -> None:
        """C_CloseSession."""
        self._do("C_CloseSession", _Word(session))

    def login(self, pin: str, user: int = 1) -> None:
        """C_Login."""
        self._do("C_Login", self._session, _Word(user), pin.encode(), _Word(len(pin)))

    def logout(self) -> None:
        """C_Logout."""
        self._do("C_Logout", self._session)

    def finalize(self) -> None:
        """C_Finalize."""
        self._do("C_Finalize", None)

    def mechanisms(self) -> list[int]:
        """C_GetMechanismList."""
        count = _Word(512)
        types = (_Word * count.value)()
        self._do("C_GetMechanismList", self._slot, types, ctypes.byref(count))
        return list(types[: count.value])

    def generate_random(self, size: int) -> bytes:
        """C_GenerateRandom."""
        room = ctypes.create_string_buffer(size)
        self._do("C_GenerateRandom", self._session, room, _Word(size))
        return room.raw

    def sessions_of(self, module: str) -> list[int]:
        """How many sessions of this process a module, which is loaded in it, counts on each of its tokens."""
        library = ctypes.CDLL(module)
        count = _Word(64)
        slots = (_Word * count.value)()
        library.C_GetSlotList(ctypes.c_ubyte(1), slots, ctypes.byref(count))
        found = []
        for slot in slots[: count.value]:
            info = ctypes.create_string_buffer(512)
            library.C_GetTokenInfo(_Word(slot), info)
            # CK_TOKEN_INFO: 32 + 32 + 16 + 16 bytes of names, flags, ulMaxSessionCount, ulSessionCount.
            found.append(struct.unpack_from("<Q", info.raw, 112)[0])
        return found

    # -- objects ------------------------------------------------------------------------------------------------

    def create(self, template: Template) -> int:
        """C_CreateObject."""
        attributes, _alive = _template(template)
        handle = _Word()
        self._do("C_CreateObject", self._session, attributes, _Word(len(attributes)), ctypes.byref(handle))
        return handle.value

    def copy(self, key: int, template: Template) -> int:
        """C_CopyObject."""
        attributes, _alive = _template(template)
        handle, count = _Word(), _Word(len(attributes))
        self._do("C_CopyObject", self._session, _Word(key), attributes, count, ctypes.byref(handle))
        return handle.value

    def destroy(self, key: int) -> None:
        """C_DestroyObject."""
        self._do("C_DestroyObject", self._session, _Word(key))

    def set(self, key: int, template: Template) -> None:
        """C_SetAttributeValue."""
        attributes, _alive = _template(template)
        self._do("C_SetAttributeValue", self._session, _Word(key), attributes, _Word(len(attributes)))

    def read(self, key: int, *wanted: int) -> dict[int, bytes | None]:
        """C_GetAttributeValue, one call an attribute; None where the token will not give it."""
        return {attribute: self._read(key, attribute) for attribute in wanted}

    def value(self, key: int, attribute: int) -> bytes | None:
        """C_GetAttributeValue of one attribute; None where the token will not give it."""
        return self._read(key, attribute)

    def _read(self, key: int, attribute: int) -> bytes | None:
        query = _Described(attribute, None, 0)
        try:
            self._do("C_GetAttributeValue", self._session, _Word(key), ctypes.byref(query), _Word(1))
        except Answered as answered:
            if str(answered).split()[0] in ("CKR_ATTRIBUTE_TYPE_INVALID", "CKR_ATTRIBUTE_SENSITIVE"):
                return None
            raise
        room = ctypes.create_string_buffer(max(query.length, 1))
        query = _Described(attribute, ctypes.cast(room, ctypes.c_void_p), query.length)
        self._do("C_GetAttributeValue", self._session, _Word(key), ctypes.byref(query), _Word(1))
        return room.raw[: query.length]

    def array(self, key: int, attribute: int) -> dict[int, bytes] | None:
        """C_GetAttributeValue of an attribute array; None where the token will not give it."""
        raw = self._read(key, attribute)
        if not raw:
            return None if raw is None else {}
        entries = (_Described * (len(raw) // ctypes.sizeof(_Described))).from_buffer_copy(raw)
        rooms = [ctypes.create_string_buffer(max(entry.length, 1)) for entry in entries]
        for entry, room in zip(entries, rooms, strict=True):
            entry.value = ctypes.cast(room, ctypes.c_void_p)
        query = _Described(attribute, ctypes.cast(entries, ctypes.c_void_p), ctypes.sizeof(entries))
        self._do("C_GetAttributeValue", self._session, _Word(key), ctypes.byref(query), _Word(1))
        return {each.type: room.raw[: each.length] for each, room in zip(entries, rooms, strict=True)}

    def find(self, template: Template) -> list[int]:
        """C_FindObjectsInit, C_FindObjects, C_FindObjectsFinal."""
        attributes, _alive = _template(template)
        self._do("C_FindObjectsInit", self._session, attributes, _Word(len(attributes)))
        found: list[int] = []
        handles, count = (_Word * 100)(), _Word(100)
        while count.value:
            self._do("C_FindObjects", self._session, handles, _Word(100), ctypes.byref(count))
            found += handles[: count.value]
        self._do("C_FindObjectsFinal", self._session)
        return found

    # -- keys ---------------------------------------------------------------------------------------------------

    def generate(self, mechanism: Mechanism, template: Template) -> int:
        """C_GenerateKey."""
        (how, _used), (attributes, _alive) = _mechanism(mechanism), _template(template)
        handle, count = _Word(), _Word(len(attributes))
        self._do("C_GenerateKey", self._session, ctypes.byref(how), attributes, count, ctypes.byref(handle))
        return handle.value

    def pair(self, mechanism: Mechanism, public: Template, private: Template) -> tuple[int, int]:
        """C_GenerateKeyPair: public and private key."""
        how, _used = _mechanism(mechanism)
        (ours, _ours), (theirs, _theirs) = _template(public), _template(private)
        first, second = _Word(), _Word()
        self._do(
            "C_GenerateKeyPair", self._session, ctypes.byref(how), ours, _Word(len(ours)), theirs,
            _Word(len(theirs)), ctypes.byref(first), ctypes.byref(second),
        )  # fmt: skip
        return first.value, second.value

    def wrap(self, mechanism: Mechanism, wrapping_key: int, key: int) -> bytes:
        """C_WrapKey."""
        how, _used = _mechanism(mechanism)
        room, length = ctypes.create_string_buffer(_ROOM), _Word(_ROOM)
        keys = (_Word(wrapping_key), _Word(key))
        self._do("C_WrapKey", self._session, ctypes.byref(how), *keys, room, ctypes.byref(length))
        return room.raw[: length.value]

    def unwrap(self, mechanism: Mechanism, key: int, wrapped: bytes, template: Template) -> int:
        """C_UnwrapKey."""
        (how, _used), (attributes, _alive) = _mechanism(mechanism), _template(template)
        handle = _Word()
        self._do(
            "C_UnwrapKey", self._session, ctypes.byref(how), _Word(key), wrapped, _Word(len(wrapped)), attributes,
            _Word(len(attributes)), ctypes.byref(handle),
        )  # fmt: skip
        return handle.value

    def derive(self, mechanism: Mechanism, key: int, template: Template) -> int:
        """C_DeriveKey."""
        (how, _used), (attributes, _alive) = _mechanism(mechanism), _template(template)
        handle, count = _Word(), _Word(len(attributes))
        self._do("C_DeriveKey", self._session, ctypes.byref(how), _Word(key), attributes, count, ctypes.byref(handle))
        return handle.value

    # -- operations ---------------------------------------------------------------------------------------------

    def _single(self, name: str, mechanism: Mechanism, key: int, data: bytes) -> bytes:
        how, _used = _mechanism(mechanism)
        self._do(f"C_{name}Init", self._session, ctypes.byref(how), _Word(key))
        room, length = ctypes.create_string_buffer(_ROOM), _Word(_ROOM)
        self._do(f"C_{name}", self._session, data, _Word(len(data)), room, ctypes.byref(length))
        return room.raw[: length.value]

    def sign(self, mechanism: Mechanism, key: int, data: bytes) -> bytes:
        """C_SignInit, C_Sign."""
        return self._single("Sign", mechanism, key, data)

    def encrypt(self, mechanism: Mechanism, key: int, data: bytes) -> bytes:
        """C_EncryptInit, C_Encrypt."""
        return self._single("Encrypt", mechanism, key, data)

    def decrypt(self, mechanism: Mechanism, key: int, data: bytes) -> bytes:
        """C_DecryptInit, C_Decrypt."""
        return self._single("Decrypt", mechanism, key, data)

    def verify(self, mechanism: Mechanism, key: int, data: bytes, signature: bytes) -> bool:
        """C_VerifyInit, C_Verify; False for CKR_SIGNATURE_INVALID."""
        how, _used = _mechanism(mechanism)
        self._do("C_VerifyInit", self._session, ctypes.byref(how), _Word(key))
        try:
            self._do("C_Verify", self._session, data, _Word(len(data)), signature, _Word(len(signature)))
        except Answered as answered:
            if str(answered).startswith("CKR_SIGNATURE_INVALID"):
                return False
            raise
        return True

    def time(self, repeats: int, name: str, *arguments: Any) -> float:
        """Seconds that one call of a method takes, in the mean, without remote control."""
        from time import perf_counter

        start = perf_counter()
        for _ in range(repeats):
            getattr(self, name)(*arguments)
        return (perf_counter() - start) / repeats


class _Manager(BaseManager):
    """Holds the process of an application."""


_Manager.register("Application", Application)


@contextmanager
def application(
    module: str, environment: Mapping[str, str], token: str, pin: str | None = "1234"
) -> Iterator[Application]:
    """An application in a new process that ends with the block."""
    with _Manager(ctx=get_context("spawn")) as manager:
        yield cast(Any, manager).Application(module, dict(environment), token, pin)


def number(value: bytes | None) -> int | None:
    """A CK_ULONG that was read."""
    return struct.unpack("<Q", value)[0] if value else None


def kind_of(application: Application, handles: Sequence[int]) -> list[int | None]:
    """CKA_CLASS of each object."""
    return [number(application.read(handle, ck.CKA_CLASS)[ck.CKA_CLASS]) for handle in handles]
