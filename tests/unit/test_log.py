"""Log lines: one write each to the chosen target, nothing unprintable, no harm to the process that they come from."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyha.runtime import log


@pytest.fixture(autouse=True)
def back_to_stderr() -> Iterator[None]:
    yield
    log.direct("stderr")


@pytest.mark.parametrize(("level", "lines"), [("error", 1), ("warning", 2), ("notice", 3)])
def test_less_important_lines_are_left_out(capfd: pytest.CaptureFixture[str], level: log.Level, lines: int) -> None:
    log.direct("stderr", level)
    levels: tuple[log.Level, ...] = ("error", "warning", "notice")
    for each in levels:
        log.log(each, each)
    assert [line.split()[-1] for line in capfd.readouterr().err.splitlines()] == ["error", "warning", "notice"][:lines]


def test_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    log.log("error", 'group "payments": member hsm-a lost')
    assert capfd.readouterr().err == f'pyha[{os.getpid()}]: error: group "payments": member hsm-a lost\n'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a\\nb"),
        ("\x1b[31m\0", "\\x1b[31m\\x00"),
        ("\x85\u2028\u202e", "\\x85\\u2028\\u202e"),
        ("bad \udcff", "bad \\udcff"),
        ("Schlüssel", "Schlüssel"),
    ],
)
def test_what_is_not_printable_is_escaped(capfd: pytest.CaptureFixture[str], text: str, shown: str) -> None:
    log.log("warning", text)
    assert capfd.readouterr().err == f"pyha[{os.getpid()}]: warning: {shown}\n"


def test_a_line_is_written_in_one_piece_however_long(capfd: pytest.CaptureFixture[str]) -> None:
    log.log("warning", "é" * 10_000)
    line = capfd.readouterr().err
    assert len(line.encode()) < 4096  # PIPE_BUF
    assert line.endswith("é\n")


def test_none(capfd: pytest.CaptureFixture[str]) -> None:
    log.direct("none")
    log.log("error", "unheard")
    assert capfd.readouterr().err == ""


def test_a_file_gets_dated_lines_and_survives_rotation(tmp_path: Path) -> None:
    path = tmp_path / "pyha.log"
    log.direct(f"file:{path}")
    log.log("warning", "one")
    log.log("warning", "two")
    path.rename(tmp_path / "pyha.log.1")
    log.log("error", "three")
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z pyha\[\d+\]: (\w+: \w+)"
    old = [re.fullmatch(pattern, line) for line in (tmp_path / "pyha.log.1").read_text().splitlines()]
    assert [match and match[1] for match in old] == ["warning: one", "warning: two"]
    new = re.fullmatch(pattern + "\n", path.read_text())
    assert new is not None
    assert new[1] == "error: three"
    assert path.stat().st_mode & 0o137 == 0


@pytest.mark.parametrize("place", ["absent/pyha.log", "link.log", "."])
def test_a_file_that_cannot_be_written_costs_the_line_only(tmp_path: Path, place: str) -> None:
    (tmp_path / "victim").write_text("")
    (tmp_path / "link.log").symlink_to(tmp_path / "victim")
    log.direct(f"file:{tmp_path}/{place}")
    log.log("error", "lost")
    assert (tmp_path / "victim").read_text() == ""


@pytest.mark.parametrize(("kind", "end"), [(socket.SOCK_DGRAM, b""), (socket.SOCK_STREAM, b"\0")])
def test_syslog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int, end: bytes) -> None:
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind(str(tmp_path / "log"))
        if kind == socket.SOCK_STREAM:
            server.listen()
        monkeypatch.setattr(log, "SYSLOG_SOCKET", str(tmp_path / "log"))
        log.direct("syslog")
        log.log("error", "member lost")
        if kind == socket.SOCK_STREAM:
            with server.accept()[0] as channel:
                message = channel.recv(4096)
        else:
            message = server.recv(4096)
    assert re.fullmatch(rb"<11>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d pyha\[\d+\]: error: member lost" + end, message)


def test_no_syslog_costs_the_line_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "SYSLOG_SOCKET", str(tmp_path / "absent"))
    log.direct("syslog")
    log.log("error", "lost")


def _run(program: str, stderr: int) -> subprocess.CompletedProcess[bytes]:
    # SIGPIPE as a C program has it: Python itself ignores it, an embedding application does not.
    start = "import signal, os; from pyha.runtime import log; signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
    return subprocess.run(
        [sys.executable, "-c", start + program], stdout=subprocess.PIPE, stderr=stderr, timeout=30, check=False
    )


def test_a_closed_pipe_raises_no_signal_in_the_application() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = _run(
            "log.log('error', 'x')\nassert not signal.sigpending()\nprint(signal.pthread_sigmask(0, []))", write_end
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stdout) == (0, b"set()\n")


def test_a_signal_that_was_pending_before_stays_so() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    program = (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE]); signal.raise_signal(signal.SIGPIPE)\n"
        "log.log('error', 'x')\nprint(signal.SIGPIPE in signal.sigpending())"
    )
    try:
        done = _run(program, write_end)
    finally:
        os.close(write_end)
    assert (done.returncode, done.stdout) == (0, b"True\n")


def test_a_pipe_that_nobody_reads_holds_nobody_up() -> None:
    read_end, write_end = os.pipe()
    program = "for _ in range(2000): log.log('error', 'x' * 100)\nprint('done')"
    try:
        done = _run(program, write_end)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_a_fifo_that_nobody_reads_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.log")
    program = f"log.direct('file:{tmp_path}/fifo.log')\nlog.log('error', 'x')\nprint('done')"
    done = _run(program, subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_no_stderr_at_all() -> None:
    done = _run("os.close(2)\nlog.log('error', 'x')\nprint('done')", subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, b"done\n")
