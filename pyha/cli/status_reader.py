"""What living processes have published, read for `pyha status`.

Finds and checks files; knows nothing of how they are shown. What a status says of a lost member depends on whether one
has said it before (SEMANTICS.md section 4): that is remembered beside the file, or at least here.
"""

import glob
import os
from contextlib import suppress
from dataclasses import dataclass, replace

from pyha.ha import status
from pyha.ha.group import State
from pyha.ha.status import NotAView, View
from pyha.runtime import noticeboard, processes

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Seen:
    """One process's view of a group as it is shown. `codes`: a CK_RV a member; `written`: seconds since 1970."""

    view: View
    codes: tuple[int, ...]
    written: float


def places(configured: str | None = None) -> list[str]:
    """The directories to look in: the `configured` one, the user's own, for root everybody's."""
    preferred = noticeboard.Preferred(configured, noticeboard.runtime_directory(os.environ, secure=False))
    own = noticeboard.places(preferred)
    if os.geteuid() == 0:
        own += sorted(glob.glob("/run/user/*/pyha") + glob.glob("/tmp/pyha-*"))
    return list(dict.fromkeys(own))


class Reader:
    """Looks again and again."""

    def __init__(self, directories: list[str]) -> None:
        self._directories = directories
        self._shown: dict[noticeboard.Name, list[int]] = {}

    def look(self) -> list[Seen]:
        """What every living process says now, by process number."""
        newest: dict[noticeboard.Name, Seen] = {}
        for directory in self._directories:
            for name in noticeboard.living(directory):
                read = self._read(directory, name)
                # A process that changed its user has published in two places.
                if read is not None and (name not in newest or newest[name].written < read[1]):
                    newest[name] = self._seen(directory, name, *read)
        return [newest[name] for name in sorted(newest)]

    def _read(self, directory: str, name: noticeboard.Name) -> tuple[View, float] | None:
        for _ in range(_TRIES):
            try:
                view, written = status.decode(noticeboard.read(directory, name, status.LARGEST))
            except NotAView:
                continue  # it was just being written
            except OSError:
                return None
            with suppress(OSError):
                if view.inode and processes.executable(view.pid) != (view.device, view.inode):
                    return None  # the process has become another program meanwhile
            return (view, written) if view.pid == name.process.pid else None
        return None

    def _seen(self, directory: str, name: noticeboard.Name, view: View, written: float) -> Seen:
        before = self._shown.get(name) or noticeboard.remembered(directory, name)
        before = [*before, *[0] * len(view.members)][: len(view.members)]
        codes = tuple(status.code(member, shown) for member, shown in zip(view.members, before, strict=True))
        now = [member.losses for member in view.members]
        if now != before:
            noticeboard.remember(directory, name, now)
        self._shown[name] = now
        # A process keeps a removed member's place; an operator has done with it.
        shown = [pair for pair in zip(view.members, codes, strict=True) if pair[0].state is not State.REMOVED]
        members, codes = tuple(member for member, _ in shown), tuple(rv for _, rv in shown)
        return Seen(replace(view, members=members), codes, written)
