"""One line for each event an operator should see, written from inside other people's processes.

Knows the four targets of the configuration and how to reach them without harm to the process: nothing is kept open
between lines, nothing blocks, no signal is raised, no state of the process (libc's syslog identity, say) is changed,
and a line that cannot be written is dropped. What may be said is the caller's business: no secrets.
"""

import os
import time
from typing import Literal

Level = Literal["error", "warning", "notice"]

_SEVERITY = {"error": 3, "warning": 4, "notice": 5}  # RFC 5424, section 6.2.1
_USER = 1 << 3
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LIMIT = 2000
"""Bytes of text: a whole line stays below PIPE_BUF (written in one piece) and below the smallest syslog message."""

SYSLOG_SOCKET = "/dev/log"

_target = "stderr"
_least = _SEVERITY["warning"]


def direct(target: str, level: Level = "warning") -> None:
    """Sends all further lines to `target`: "stderr", "syslog", "none" or "file:/absolute/path". `level`: the least
    important ones that are written."""
    global _target, _least
    _target, _least = target, _SEVERITY[level]


def says(level: Level) -> bool:
    """Whether a line of this level is written: to be asked where its text costs more than that."""
    return _SEVERITY[level] <= _least


def log(level: Level, text: str) -> None:
    """Writes one line. Characters that are not printable are escaped. Raises nothing."""
    if not says(level):
        return
    line = f"pyha[{os.getpid()}]: {level}: {_printable(text)}".encode()
    try:
        if _target == "stderr":
            _to_stderr(line + b"\n")
        elif _target == "syslog":
            _to_syslog(_SEVERITY[level], line)
        elif _target != "none":
            _to_file(_target.removeprefix("file:"), line + b"\n")
    except (OSError, ImportError):
        pass  # there is nobody left to tell, or no Python left that could import


def _printable(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text.encode()[:_LIMIT].decode(errors="ignore")


def _to_stderr(line: bytes) -> None:
    import select  # here, because most processes never log
    import signal

    if not select.select([], [2], [], 0)[1]:
        return  # a full pipe: a call must not wait for whoever reads the log
    # A pipe whose reader is gone raises SIGPIPE, which would end the application.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    try:
        earlier = signal.SIGPIPE in signal.sigpending()
        try:
            os.write(2, line)
        except BrokenPipeError:
            if not earlier:
                signal.sigtimedwait([signal.SIGPIPE], 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _to_file(path: str, line: bytes) -> None:
    # Opened anew for each line: log rotation needs no signal, and no descriptor can be closed or inherited by the
    # application.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags, 0o640)
    try:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        os.write(descriptor, f"{stamp}.{int(now % 1 * 1000):03}Z ".encode() + line)
    finally:
        os.close(descriptor)


def _to_syslog(severity: int, line: bytes) -> None:
    # Not the syslog module: its openlog() sets the identity that the application's own messages go out under.
    import errno
    import socket

    now = time.localtime()
    # Months by name, not %b: the application's locale must not change them (RFC 3164, section 4.1.2).
    stamp = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
    message = f"<{_USER | severity}>{stamp} ".encode() + line
    for kind, end in ((socket.SOCK_DGRAM, b""), (socket.SOCK_STREAM, b"\0")):
        with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as channel:
            try:
                channel.connect(SYSLOG_SOCKET)
            except OSError as error:
                if error.errno == errno.EPROTOTYPE:
                    continue
                raise
            channel.send(message + end, socket.MSG_NOSIGNAL)
            return
