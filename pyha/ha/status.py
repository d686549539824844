"""What one process publishes about one group: as a value, and as the bytes of its file.

Pure. Knows the layout and what a status says of a member; nothing of files and of who is alive (`pyha.runtime.status`).
The layout is fixed: a header, then one record of fixed length a member, in little-endian and without padding, so that
two versions of the module never misread each other: another layout has another magic. Nothing secret is in it.

Source: SEMANTICS.md section 4 (the lost member's status); docs/status.md has the layout.
"""

import binascii
import struct
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.plain import dataclass
from pyha.ha.group import Cause, State
from pyha.ha.settings import RecoveryMode, Role

MAGIC = b"PYHAST01"
LARGEST = 1 << 20
"""Bytes that no view exceeds: what a reader takes at most."""

ERRORS = 16
"""Different CK_RVs that are told apart for a member; all others are counted together, as `OTHERS`."""

OTHERS = (1 << 64) - 1

_HEADER = struct.Struct("<8sIId")  # magic, CRC-32 of the rest, its length, when it was written
_GROUP = struct.Struct("<q64sQQ32s16sBQI")
_MEMBER = struct.Struct(f"<64s16sBBBBQQQQIQd192s{2 * ERRORS}Q")

_ROLES = tuple(Role)
_STATES = tuple(State)
_CAUSES = (None, *Cause)
_MODES = tuple(RecoveryMode)


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member as a process sees it.

    `serial`: of its token, empty where it is not known. `attempts`: to bring it back, ever; `failed_attempts`: since it
    was last in. `in_flight`: calls of the application there now. `served`: operations completed. `since`: seconds since
    1970 at which its state became what it is. `errors`: (CK_RV, how many calls it answered with that), most frequent
    first.
    """

    name: str
    serial: str
    role: Role
    state: State
    cause: Cause | None
    reason: str
    unsynchronised: bool
    generation: int
    losses: int
    attempts: int
    failed_attempts: int
    in_flight: int
    served: int
    since: float
    errors: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class View:
    """One group as a process sees it. `device`, `inode`: of the process's executable, 0 where they are not known;
    `program`: its name. `failovers`: calls that went on to another member because theirs was lost."""

    pid: int
    program: str
    device: int
    inode: int
    label: str
    serial: str
    mode: RecoveryMode
    failovers: int
    members: tuple[MemberView, ...]


class NotAView(Exception):
    """These bytes are no view, or not a whole one: it may be just being written."""


def code(member: MemberView, shown: int) -> int:
    """The CK_RV that stands for a member's state in a status. `shown`: how many of its losses a status has shown
    before: the first one after a failure says that the device failed, later ones that it is not there."""
    if member.state is State.IN:
        return ck.CKR_OK
    return ck.CKR_DEVICE_ERROR if member.losses > shown else ck.CKR_TOKEN_NOT_PRESENT


def body(view: View) -> bytes:
    """The view without the time at which it is written: two that are equal say the same."""
    head = _GROUP.pack(
        view.pid,
        _text(view.program, 64),
        view.device,
        view.inode,
        _text(view.label, 32),
        _text(view.serial, 16),
        _MODES.index(view.mode),
        view.failovers,
        len(view.members),
    )
    return head + b"".join(map(_member, view.members))


def encode(content: bytes, written: float) -> bytes:
    """A file of this `body`, `written` at so many seconds after 1970."""
    return _HEADER.pack(MAGIC, binascii.crc32(content), len(content), written) + content


def decode(data: bytes) -> tuple[View, float]:
    """The view in a file, and when it was written. Raises NotAView."""
    try:
        magic, checksum, length, written = _HEADER.unpack_from(data)
        # What a longer view left behind it is not looked at.
        content = data[_HEADER.size : _HEADER.size + length]
        if magic != MAGIC or len(content) != length or binascii.crc32(content) != checksum:
            raise NotAView
        pid, program, device, inode, label, serial, mode, failovers, count = _GROUP.unpack_from(content)
        if length != _GROUP.size + count * _MEMBER.size:
            raise NotAView
        members = tuple(_read(fields) for fields in _MEMBER.iter_unpack(content[_GROUP.size :]))
        group = _string(label), _string(serial), _MODES[mode], failovers, members
        return View(pid, _string(program), device, inode, *group), written
    except (struct.error, IndexError, UnicodeDecodeError):
        raise NotAView from None


def _member(member: MemberView) -> bytes:
    errors = member.errors
    if len(errors) > ERRORS:
        errors = (*errors[: ERRORS - 1], (OTHERS, sum(count for _, count in errors[ERRORS - 1 :])))
    flat = [number for pair in errors for number in pair]
    return _MEMBER.pack(
        _text(member.name, 64),
        _text(member.serial, 16),
        _ROLES.index(member.role),
        _STATES.index(member.state),
        _CAUSES.index(member.cause),
        member.unsynchronised,
        member.generation,
        member.losses,
        member.attempts,
        member.failed_attempts,
        member.in_flight,
        member.served,
        member.since,
        _text(member.reason, 192),
        *flat,
        *([0] * (2 * ERRORS - len(flat))),
    )


def _read(fields: tuple[Any, ...]) -> MemberView:
    (name, serial, role, state, cause, unsynchronised, generation, losses, attempts, failed, in_flight, served, since,
     reason, *errors) = fields  # fmt: skip
    pairs = zip(errors[::2], errors[1::2], strict=True)
    return MemberView(
        _string(name),
        _string(serial),
        _ROLES[role],
        _STATES[state],
        _CAUSES[cause],
        _string(reason),
        bool(unsynchronised),
        generation,
        losses,
        attempts,
        failed,
        in_flight,
        served,
        since,
        tuple((rv, count) for rv, count in pairs if count),
    )


def _text(text: str, room: int) -> bytes:
    """UTF-8 that fits into a field; what is too long is cut between characters."""
    raw = text.encode(errors="replace")
    return raw if len(raw) <= room else raw[:room].decode(errors="ignore").encode()


def _string(field: bytes) -> str:
    return field.rstrip(b"\0").decode()
