"""A PIN for a command: from one of the sources a configuration may name, or asked for at the terminal.

The PIN is handed over in a bytearray that the caller wipes, and is never a str on its way from the terminal: those
cannot be wiped.
"""

import os
import termios

from pyha.cli.errors import Mistake
from pyha.runtime import pinsource

_LONGEST_LINE = 4096


def complaint(source: str) -> str | None:
    """What is wrong with the text of `--pin-source`, None where it is file:/absolute/path, env:NAME or prompt."""
    if source == "prompt" or pinsource.complaint(source) is None:
        return None
    return "is none of file:/absolute/path, env:NAME, prompt"


def read(source: str, question: str) -> bytearray:
    """The PIN; `question` is shown where it has to be asked for. The caller wipes it. Raises Mistake."""
    if wrong := complaint(source):
        raise Mistake(f"the PIN source {wrong}")
    if source == "prompt":
        return _ask(question)
    try:
        return pinsource.read(source, os.environ)
    except pinsource.PinUnavailable as error:
        raise Mistake(str(error)) from None


def _ask(question: str) -> bytearray:
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        raise Mistake("there is no terminal to ask for the PIN: use file:/absolute/path or env:NAME") from None
    line = bytearray(_LONGEST_LINE)
    try:
        before = termios.tcgetattr(terminal)
        silent = list(before)
        silent[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
        try:
            os.write(terminal, question.encode())
            used = os.readv(terminal, [line])
        finally:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
            os.write(terminal, b"\n")
        pin = line[: used - line.endswith(b"\n", 0, used)]
    finally:
        line[:] = bytes(len(line))
        os.close(terminal)
    if not pin:
        raise Mistake("no PIN was given")
    return pin
