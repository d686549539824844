"""A running application follows its configuration: the file is looked at once a second at most, and what changed in it
is applied without a restart.

Knows the file and the groups; what a change means for a group is decided in `pyha.ha.administration`. Called by the
monitor's thread, or where there is none by the application's own calls before they take any lock; and by every call
that makes, changes or deletes an object, so that a member that was just added misses nothing. A file that cannot be
believed, or is wrong, changes nothing and is named once.

Source: docs/configuration.md ("While an application runs").
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyha.cryptoki.plain import replace
from pyha.ha.administration import TAKEN_OUT, WANTED, Change, Configured, Kind, applied, arrange
from pyha.ha.group import Group, State
from pyha.runtime import config, log, uri
from pyha.runtime.group import GroupRuntime
from pyha.runtime.recovery import asked
from pyha.runtime.settings import Configuration, GroupSettings, MemberSettings

INTERVAL = 1.0
"""Seconds between two looks."""

OLD = 2_000_000_000
"""Nanoseconds after which nobody is writing a file any more that was not changed since."""

Rewire = Callable[[GroupRuntime, GroupSettings], None]
"""From now on the group connects to its members as these settings say."""


class Signature(NamedTuple):
    """What tells one version of a file from another, without reading it. `error`: why it cannot be looked at, 0 where
    it can. Times: nanoseconds since 1970."""

    error: int = 0
    device: int = 0
    inode: int = 0
    size: int = 0
    modified: int = 0
    changed: int = 0
    mode: int = 0
    owner: int = 0


def signature(path: str) -> Signature:
    """Of the file as it is now."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError as error:
        return Signature(error.errno or -1)
    times = found.st_mtime_ns, found.st_ctime_ns
    return Signature(0, found.st_dev, found.st_ino, found.st_size, *times, found.st_mode, found.st_uid)


class Reload:
    """The configuration of one initialised module. `groups`: one a slot; members' own slots are left as they are.
    `seen`: the `signature` of the file from right before it was read."""

    def __init__(
        self,
        path: str,
        seen: Signature,
        groups: list[GroupRuntime],
        rewire: Rewire,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._path = path
        self._groups = {group.settings.id: group for group in groups if not group.raw}
        self._rewire = rewire
        self._clock = clock
        self._wall = wall
        self._due = clock() + INTERVAL
        self._applied = self._last = seen
        self._refused: tuple[Signature, str] | None = None
        self._missing: set[bytes] = set()
        self._taken_out: dict[tuple[bytes, int], float] = {}
        self._wanted: list[tuple[GroupRuntime, set[int], Callable[[], None]]] = []
        self._lock = threading.Lock()

    def pause(self) -> float:
        """Seconds until the next look."""
        return max(0.0, self._due - self._clock())

    def look(self) -> None:
        """Follow the file, and try the members that the operator wants tried. Raises nothing. The caller holds no
        lock."""
        self.follow()
        while self._wanted:
            try:
                group, indices, afterwards = self._wanted.pop(0)
            except IndexError:
                return  # another thread tries them
            asked(group, indices)
            afterwards()

    def follow(self) -> None:
        """Look at the file, if it is time and nobody else does, and apply what changed in it; who is to be tried is
        left to `look`. Raises nothing. Takes no lock that comes before a session's."""
        if self._clock() < self._due or not self._lock.acquire(blocking=False):
            return
        try:
            self._due = self._clock() + INTERVAL
            self._let_go()
            now = signature(self._path)
            settled, self._last = now == self._last or self._is_old(now), now
            # Somebody may be writing it: half a file can be good TOML with half of the members. And a file that was
            # refused may be believed later without having changed, once its directory is mended.
            if settled and (now != self._applied or self._refused is not None):
                self._read(now)
        finally:
            self._lock.release()

    def _is_old(self, now: Signature) -> bool:
        """So that an application that did nothing for long knows the file before it does something."""
        return not now.error and self._wall() - max(now.modified, now.changed) > OLD

    def _read(self, now: Signature) -> None:
        try:
            configuration = config.load(self._path)
        except config.ConfigurationError as error:
            if self._refused != (now, str(error)):
                self._refused = now, str(error)
                log.log("error", f"{error}: the running configuration goes on")
            return
        self._applied, self._refused = now, None
        log.direct(configuration.log, configuration.log_level.value)
        self._apply(configuration)

    def _apply(self, configuration: Configuration) -> None:
        found = {settings.id: settings for settings in configuration.groups}
        for identity, group in self._groups.items():
            settings = found.get(identity)
            if settings is not None:
                self._missing.discard(identity)
                self._follow(group, settings)
            elif identity not in self._missing:
                self._missing.add(identity)
                label = group.settings.label
                log.log("warning", f'group "{label}" is configured no more: it serves on until C_Finalize')

    def _follow(self, group: GroupRuntime, settings: GroupSettings) -> None:
        before = group.settings
        removed = [index for index, member in enumerate(group.value.members) if member.state is State.REMOVED]
        wanted = tuple(map(_configured, settings.members))
        order, changes = arrange(tuple(map(_configured, before.members)), removed, wanted)
        members = list(before.members)
        for index, member in sorted(zip(order, settings.members, strict=True), key=lambda pair: pair[0]):
            members[index : index + 1] = [member]  # at the end: one more
        # What an application has seen of the token, and what calls are read by, stays until C_Finalize.
        after = replace(
            settings,
            members=tuple(members),
            label=before.label,
            serial=before.serial,
            isolation=before.isolation,
            mechanisms=before.mechanisms,
            token=before.token,
        )
        if after == before and not changes and order == group.value.configured():
            return
        for change in changes:
            out = change.index < len(group.value.members) and group.value.members[change.index].state is State.FAILED
            if change.kind is not Kind.RECOVER or out:
                name = members[change.index].name
                log.log("notice", f'group "{before.label}": configuration: member {name} is {change.kind.value}')
        self._carry_out(group, after, order, wanted, changes)

    def _carry_out(
        self,
        group: GroupRuntime,
        settings: GroupSettings,
        order: tuple[int, ...],
        wanted: tuple[Configured, ...],
        changes: tuple[Change, ...],
    ) -> None:
        come = {change.index for change in changes if change.kind in WANTED}
        go = [change for change in changes if change.kind in TAKEN_OUT]
        for index in come & set(group.leaving()):
            group.retire(index, now=True)
        self._rewire(group, settings)

        def step(some: Sequence[Change]) -> Callable[[Group, bool], Group]:
            return lambda value, contacted: applied(value, order, wanted, some, contacted)

        def part() -> None:
            if group.settings is settings:  # else a newer file has said it again, or taken it back
                group.administer(settings, step(changes))
                until = self._clock() + settings.slow_deadline
                self._taken_out.update(((settings.id, change.index), until) for change in go)
                self._let_go()

        group.administer(settings, step([change for change in changes if change.kind not in TAKEN_OUT]))
        asked_for = come | {change.index for change in changes if change.kind is Kind.RECOVER}
        if come and not set(group.value.present()) - {change.index for change in go}:
            # Who comes has to be compared with those that were there, all of which are on their way out.
            self._wanted.append((group, asked_for, part))
        else:
            part()
            self._wanted.append((group, asked_for, lambda: None))

    def _let_go(self) -> None:
        """End the connections of members that were taken out: at once where nothing is left there, else when their
        time is over."""
        for (identity, index), until in list(self._taken_out.items()):
            if self._groups[identity].retire(index, now=self._clock() >= until):
                self._taken_out.pop((identity, index), None)


def _configured(member: MemberSettings) -> Configured:
    key = member.uri.serial or uri.format(member.uri)
    return Configured(key, member.name, member.role, member.enabled, member.recover)
