"""A plan of faults as a file: reading, numbering and replacing it, and what its journal says has fired.

Knows lines, numbers and files. What a line may say is known to `pyha-chaos.so` alone, which is asked: so the command
and the module cannot differ. The file is always replaced as a whole, because modules read it at any moment.
"""

import ctypes
import fcntl
import mmap
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyha
from pyha.cli import module_path
from pyha.cli.errors import Mistake

MODULE = "pyha-chaos.so"
_MODE = 0o644
_REASON = 2048
_CHANGE = 8
"""Bytes of PLAN.change: a number in the machine's byte order."""
_HOLDING = ("hang", "dead")
"""Actions that last until they are released."""

Key = tuple[int, str]
"""What an entry is known by in the journal: its number (0 without one), and its text."""


def chaos_module() -> str:
    """The absolute path of the module of faults. Raises Mistake where it is not built."""
    found = module_path.find(Path(pyha.__file__).resolve().parent)
    path = found and found.with_name(MODULE)
    if path is None or not path.is_file():
        raise Mistake(f"{MODULE} is not built: run `make build` in the source tree, or `pip install .`")
    return str(path)


def check(text: str, name: str) -> None:
    """Raises Mistake, with the line and its fault, where the module would refuse this plan."""
    library = ctypes.CDLL(chaos_module())
    reason = ctypes.create_string_buffer(_REASON)
    content = text.encode()
    if library.pyha_chaos_check(content, ctypes.c_size_t(len(content)), reason, ctypes.c_size_t(_REASON)) != 0:
        raise Mistake(f"{name}: {reason.value.decode(errors='replace')}")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plan. `number`: of an entry that has one; `text`: without it; `entry`: is it one at all."""

    number: int
    text: str
    entry: bool

    @staticmethod
    def read(line: str) -> "Line":
        """From the file's text. Takes what `check` has passed."""
        text = line.strip(" \t")
        if not text or text.startswith("#") or text.split()[0] == "module":
            return Line(0, text, False)
        number, colon, rest = text.partition(":")
        if colon and number.isascii() and (number.isdigit() or number.startswith("0x")):
            return Line(int(number, 0), rest.strip(" \t"), True)
        return Line(0, text, True)

    @property
    def key(self) -> Key:
        return self.number, self.text

    @property
    def holds(self) -> bool:
        """Whether what it does lasts until it is released."""
        return self.entry and self.text.partition(" -> ")[2].split()[:1] in [[action] for action in _HOLDING]

    def __str__(self) -> str:
        return f"{self.number}: {self.text}" if self.number else self.text


def load(plan: Path) -> list[Line]:
    """The lines of a plan that the module would obey. Raises Mistake."""
    try:
        text = plan.read_text(encoding="utf-8")
    except OSError as error:
        raise Mistake(f"{plan} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Mistake(f"{plan} is not text in UTF-8") from None
    check(text, str(plan))
    return [Line.read(line) for line in text.splitlines()]


def journal_of(plan: Path) -> Path:
    """The file beside a plan that says what fired."""
    return plan.with_name(plan.name + ".fired")


def read_journal(plan: Path) -> list[str]:
    """Its lines; none where nothing was written yet. Raises Mistake."""
    try:
        return journal_of(plan).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Mistake(f"{journal_of(plan)} cannot be read: {error.strerror}") from None


def fired(journal: Sequence[str]) -> dict[Key, int]:
    """How often each entry has fired, in all processes together. Of an entry that fires more than a thousand times in
    one process not every firing is written, so that this is the least it can be."""
    total: dict[Key, int] = {}
    last: dict[tuple[str, Key], int] = {}
    for line in journal:
        words = line.split(" ", 6)
        if len(words) < 7 or words[2] != "fired" or not words[4].isdigit():
            continue
        key = (int(words[3]) if words[3].isdigit() else 0, words[6])
        count, before = int(words[4]), last.get((words[1], key), 0)
        # A process number that came again begins anew.
        total[key] = total.get(key, 0) + (count - before if count > before else count)
        last[words[1], key] = count
    return total


def _numbers(lines: Sequence[Line], journal: Sequence[str]) -> Iterator[int]:
    yield 0
    yield from (line.number for line in lines)
    for line in journal:
        words = line.split(" ", 4)
        if len(words) > 3 and words[2] != "read" and words[3].rstrip(":").isdigit():
            yield int(words[3].rstrip(":"))


@contextmanager
def _alone(plan: Path) -> Iterator[int]:
    """One change at a time, and none while a module claims an entry that fires once. Gives the journal's
    descriptor."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        journal = os.open(journal_of(plan), flags, _MODE)
    except OSError as error:
        raise Mistake(f"{journal_of(plan)} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(journal, fcntl.LOCK_EX)
        yield journal
    finally:
        os.close(journal)


def tell(plan: Path) -> None:
    """Counts PLAN.change up, so that who obeys the plan looks at it before the next call. Raises Mistake."""
    path = plan.with_name(plan.name + ".change")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        try:
            if os.fstat(descriptor).st_size != _CHANGE:
                os.ftruncate(descriptor, _CHANGE)
            with mmap.mmap(descriptor, _CHANGE) as shared, memoryview(shared).cast("Q") as number:
                number[0] = (number[0] + 1) % (1 << 64)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Mistake(f"{path} cannot be written: {error.strerror}") from None


def _replace(plan: Path, text: str) -> None:
    fresh = plan.with_name(f"{plan.name}.{secrets.token_hex(4)}")
    try:
        # Whoever may write to the plan may run code in every process that uses it: not a matter of the umask.
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            os.fchmod(descriptor, _MODE)
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
        fresh.replace(plan)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise Mistake(f"{plan} cannot be written: {error.strerror}") from None


def change(plan: Path, what: str, edit: Callable[[list[Line], list[str]], list[Line]]) -> list[Line]:
    """Replaces a plan by what `edit` makes of its lines and its journal, and writes into the journal which entries came
    or went (`what`: add, clear ...). New entries have number 0 and get one that was never used. Returns the lines.

    Raises Mistake; the plan is then as it was.
    """
    if not plan.parent.is_dir():
        raise Mistake(f"there is no directory {plan.parent}")
    with _alone(plan) as journal:
        before = load(plan) if plan.exists() else []
        history = read_journal(plan)
        after, number = [], max(_numbers(before, history)) + 1
        for line in edit(before, history):
            if line.entry and not line.number and line not in before:
                line, number = Line(number, line.text, True), number + 1
            after.append(line)
        text = "".join(f"{line}\n" for line in after)
        check(text, str(plan))
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        gone = [line for line in before if line.entry and line not in after]
        come = [line for line in after if line.entry and line not in before]
        # First: a number that is written here is never given again, whatever happens next.
        for sign, lines in (("-", gone), ("+", come)):
            for line in lines:
                number_of = f"{line.number}:" if line.number else "-"
                os.write(journal, f"{now} {os.getpid()} {what}{sign} {number_of} {line.text}\n".encode())
        _replace(plan, text)
        tell(plan)
    return after
