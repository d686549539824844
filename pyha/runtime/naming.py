"""Numbers and serials that the application sees, made so that they never move.

Pure. Source: SEMANTICS.md section 1.
"""

import zlib


def slot_id(serial: str, taken: set[int]) -> int:
    """A slot id that depends on the token's serial alone, so that it stays while the configuration names the token. A
    rare collision moves the later one by one."""
    slot = zlib.crc32(serial.encode()) & 0x7FFFFFFF
    while slot in taken:
        slot += 1
    return slot


def group_serial(member_serial: str, taken: set[str]) -> str:
    """The digit 1 in front of the first member's serial, of which the last 15 characters are kept (16 in all); the
    next digit where a visible token has that serial already, as one in sixteen of SoftHSM's own is made so."""
    serials = (f"{digit}{member_serial[-15:]}" for digit in "123456789")
    return next(serial for serial in serials if serial not in taken)
