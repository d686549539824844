"""The PIN of a command: asked for at a terminal without showing it, or taken from a source."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pyha.cli import pin
from pyha.cli.errors import Mistake

# The child makes the pseudo-terminal its controlling one, as a login shell's is.
PROGRAM = """
import os, sys
os.close(os.open(os.ttyname(0), os.O_RDWR))
from pyha.cli import pin
from pyha.cli.errors import Mistake
try:
    sys.stderr.write(repr(pin.read("prompt", "PIN of payments: ")))
except Mistake as mistake:
    sys.stderr.write(f"mistake: {mistake}")
"""


def _dialogue(answer: bytes) -> tuple[str, str]:
    """What the terminal showed, and what the program made of the answer."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=theirs, stderr=subprocess.PIPE, start_new_session=True
    ) as child:
        shown = b""
        while not shown.endswith(b": "):
            shown += os.read(ours, 1000)
        os.write(ours, answer)
        assert child.stderr is not None
        result = child.stderr.read().decode()
        child.wait(timeout=60)
        os.set_blocking(ours, False)
        shown += os.read(ours, 1000)
    os.close(ours)
    os.close(theirs)
    return shown.decode(), result


def test_the_terminal_does_not_show_the_pin() -> None:
    assert _dialogue(b"98761234\n") == ("PIN of payments: \r\n", "bytearray(b'98761234')")


def test_no_answer_is_a_mistake() -> None:
    assert _dialogue(b"\n")[1] == "mistake: no PIN was given"


def test_without_a_terminal() -> None:
    program = PROGRAM.replace("os.close(os.open(os.ttyname(0), os.O_RDWR))", "")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, start_new_session=True, timeout=60, check=False
    )
    assert done.stderr == "mistake: there is no terminal to ask for the PIN: use file:/absolute/path or env:NAME"


def test_the_sources_of_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pin"
    path.write_bytes(b"4711\n")
    path.chmod(0o600)
    monkeypatch.setenv("PIN_A", "4712")
    assert pin.read(f"file:{path}", "") == b"4711"
    assert pin.read("env:PIN_A", "") == b"4712"
    path.chmod(0o644)
    with pytest.raises(Mistake, match="is open to every user"):
        pin.read(f"file:{path}", "")


@pytest.mark.parametrize("source", ["", "1234", "file:pin", "Prompt"])
def test_what_is_no_source(source: str) -> None:
    with pytest.raises(Mistake, match="the PIN source is none of"):
        pin.read(source, "")
