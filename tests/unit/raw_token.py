"""A real SoftHSM token in a process of its own: SoftHSM reads its configuration once a process.

`Token` is the plain module through ctypes, nothing of ours in between; `start` gives one by remote control.
"""

import ctypes
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any, cast

from pyha.cryptoki.names import rv_name
from tests.softhsm import MODULE, SoftHSM

_Word = ctypes.c_ulong


class _Described(ctypes.Structure):
    """CK_ATTRIBUTE and CK_MECHANISM, which are made alike."""

    _fields_ = (("type", _Word), ("value", ctypes.c_void_p), ("length", _Word))


def _template(values: Mapping[int, Any]) -> tuple[Any, list[Any]]:
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


def _plain(value: bool | int | bytes) -> bytes:
    if isinstance(value, bool):
        return bytes([value])
    return struct.pack("<Q", value) if isinstance(value, int) else value


class Token:
    """One token, logged in as user. Templates: CKA_ -> bool, int (CK_ULONG), bytes or a template."""

    def __init__(self, configuration: str, pin: str) -> None:
        os.environ["SOFTHSM2_CONF"] = configuration
        self._module = ctypes.CDLL(MODULE)
        self._call("C_Initialize", None)
        count = _Word(64)
        slots = (_Word * count.value)()
        self._call("C_GetSlotList", ctypes.c_ubyte(1), slots, ctypes.byref(count))
        self._slot, self._session = _Word(slots[0]), _Word()
        self._call("C_OpenSession", self._slot, _Word(6), None, None, ctypes.byref(self._session))
        self._call("C_Login", self._session, _Word(1), pin.encode(), _Word(len(pin)))

    def _try(self, function: str, *arguments: Any) -> int:
        return cast(int, getattr(self._module, function)(*arguments)) & 0xFFFFFFFF

    def _call(self, function: str, *arguments: Any) -> None:
        rv = self._try(function, *arguments)
        if rv:
            raise RuntimeError(f"{function}: {rv_name(rv)}")

    def mechanisms(self) -> list[int]:
        """C_GetMechanismList."""
        count = _Word(512)
        types = (_Word * count.value)()
        self._call("C_GetMechanismList", self._slot, types, ctypes.byref(count))
        return list(types[: count.value])

    def create(self, template: Mapping[int, Any]) -> int:
        """C_CreateObject."""
        attributes, _alive = _template(template)
        handle = _Word()
        self._call("C_CreateObject", self._session, attributes, _Word(len(attributes)), ctypes.byref(handle))
        return handle.value

    def generate(self, mechanism: int, template: Mapping[int, Any]) -> int:
        """C_GenerateKey."""
        attributes, _alive = _template(template)
        handle, how = _Word(), _Described(mechanism, None, 0)
        self._call(
            "C_GenerateKey", self._session, ctypes.byref(how), attributes, _Word(len(attributes)), ctypes.byref(handle)
        )
        return handle.value

    def generate_pair(self, mechanism: int, public: Mapping[int, Any], private: Mapping[int, Any]) -> tuple[int, int]:
        """C_GenerateKeyPair: public and private key."""
        ours, _ours_alive = _template(public)
        theirs, _theirs_alive = _template(private)
        first, second, how = _Word(), _Word(), _Described(mechanism, None, 0)
        self._call(
            "C_GenerateKeyPair", self._session, ctypes.byref(how), ours, _Word(len(ours)), theirs,
            _Word(len(theirs)), ctypes.byref(first), ctypes.byref(second),
        )  # fmt: skip
        return first.value, second.value

    def read(self, handle: int, attribute: int) -> bytes | None:
        """C_GetAttributeValue of one attribute; None where the token will not give it."""
        room = ctypes.create_string_buffer(4096)
        query = _Described(attribute, ctypes.cast(room, ctypes.c_void_p), len(room))
        rv = self._try("C_GetAttributeValue", self._session, _Word(handle), ctypes.byref(query), _Word(1))
        return room.raw[: query.length] if rv == 0 else None

    def wrap(self, mechanism: int, wrapping_key: int, key: int) -> tuple[int, bytes]:
        """C_WrapKey without a parameter: CK_RV and the wrapped key."""
        room, length, how = ctypes.create_string_buffer(8192), _Word(8192), _Described(mechanism, None, 0)
        rv = self._try(
            "C_WrapKey", self._session, ctypes.byref(how), _Word(wrapping_key), _Word(key), room, ctypes.byref(length)
        )
        return rv, room.raw[: length.value] if rv == 0 else b""

    def unwrap(self, mechanism: int, key: int, wrapped: bytes, template: Mapping[int, Any]) -> tuple[int, int]:
        """C_UnwrapKey without a parameter: CK_RV and the new key's handle."""
        attributes, _alive = _template(template)
        handle, how = _Word(), _Described(mechanism, None, 0)
        rv = self._try(
            "C_UnwrapKey", self._session, ctypes.byref(how), _Word(key), wrapped, _Word(len(wrapped)), attributes,
            _Word(len(attributes)), ctypes.byref(handle),
        )  # fmt: skip
        return rv, handle.value


class _Manager(BaseManager):
    """Holds the process that has the token."""


_Manager.register("Token", Token)


@contextmanager
def start(directory: Path) -> Iterator[Token]:
    """Makes a token in `directory` and opens it in another process."""
    made = SoftHSM(directory).token("unit")
    with _Manager(ctx=get_context("spawn")) as manager:
        yield cast(Any, manager).Token(str(made.conf), made.pin)
