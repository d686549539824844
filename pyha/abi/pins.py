"""PINs that are kept for members that return: in C's locked page, seen here as a ticket only.

Knows sizes and tickets; no byte of a PIN ever becomes a Python object. Source: SEMANTICS.md section 2; shim/pins.h.
"""

from typing import Any

from pyha.abi.native import ffi, lib


class PinLost(Exception):
    """The PIN was wiped, or belongs to the process that this one was forked from."""


class Pin:
    """One kept PIN. `size`: bytes."""

    __slots__ = ("_ticket", "size")

    def __init__(self, ticket: int, size: int) -> None:
        self._ticket = ticket
        self.size = size

    def copy_to(self, memory: Any) -> None:
        """Copies the PIN to `memory` (a pointer to at least `size` bytes). Raises PinLost."""
        if not lib.pyha_pin_copy(self._ticket, memory):
            raise PinLost

    def wipe(self) -> None:
        """Forgets the PIN, at once and for good."""
        lib.pyha_pin_wipe(self._ticket)

    __del__ = wipe


def keep(memory: Any, size: int) -> Pin:
    """Copies the `size` bytes at `memory` (a pointer) into the page. Raises MemoryError where it has no room."""
    ticket = lib.pyha_pin_keep(memory, size)
    if not ticket:
        raise MemoryError("the page for PINs is full")
    return Pin(ticket, size)


def keep_buffer(pin: Any) -> Pin:
    """`keep` of a Buffer: a view of the application's memory, or bytes of our own. Raises MemoryError."""
    return keep(ffi.from_buffer(pin), len(pin))
