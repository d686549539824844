"""The monitor: a thread that recovers lost members, compares those that are in, probes idle ones and publishes the
status, while the application may be doing nothing.

One thread a process, started when a group is first used, and only where the application allows threads
(CKF_LIBRARY_CANT_CREATE_OS_THREADS) and some group recovers in the background. It sleeps until something is due or a
member is lost; while the application calls, it wakes once an interval for the status.

Source: SEMANTICS.md section 4.
"""

import threading
from collections.abc import Callable, Sequence

from pyha.abi.threads import start_thread
from pyha.ha.group import Occasion
from pyha.ha.settings import RecoveryMode
from pyha.runtime import log
from pyha.runtime.comparing import compare_if_asked, comparison_due
from pyha.runtime.group import GroupRuntime
from pyha.runtime.recovery import due, recover
from pyha.runtime.reload import Reload
from pyha.runtime.status import INTERVAL

PROBE_INTERVAL = 10.0
"""Seconds without a call after which a member is probed."""


Guard = Callable[[Callable[[], None]], bool]
"""Does it, and says whether it came to its end: what it throws goes no further, but into the log."""


class Monitor:
    """Watches the groups that recover in the background. `guard`: a fault met in one round must not end the thread, and
    with it every recovery to come."""

    def __init__(self, groups: Sequence[GroupRuntime], reload: Reload, guard: Guard) -> None:
        self._guard = guard
        self._all = groups
        self._reload = reload
        self._news = threading.Event()
        self._stopped = False
        self._started = False
        self._lock = threading.Lock()
        for group in groups:
            group.news.on_news = self._wake

    def _groups(self) -> list[GroupRuntime]:
        """Those to watch: the operator may change a group's mode."""
        watched = []
        for group in self._all:
            group.news.watched = group.recovery.mode is RecoveryMode.BACKGROUND
            if group.news.watched:
                watched.append(group)
        return watched

    def ensure(self) -> None:
        """Start the thread if there is none yet and something to watch. Where the system gives none, recovery is on
        call."""
        if self._started or not any(group.recovery.mode is RecoveryMode.BACKGROUND for group in self._all):
            return
        with self._lock:
            if self._started or self._stopped:
                return
            self._started = True
            try:
                start_thread(self._run, "pyha-monitor")
            except (RuntimeError, OSError) as reason:
                log.log(
                    "warning", f"no thread for the monitor ({reason}): members recover within the application's calls"
                )
                for group in self._all:
                    group.forbid_threads()

    def stop(self) -> None:
        """C_Finalize: the thread ends by itself; nobody waits for it."""
        self._stopped = True
        self._news.set()

    def _wake(self) -> None:
        if self._started:
            self._news.set()
        else:
            self.ensure()

    def _run(self) -> None:
        while not self._stopped:
            if not self._guard(self._round):
                self._news.wait(PROBE_INTERVAL)
                self._news.clear()

    def _round(self) -> None:
        """What is due now, and then the time until something is."""
        busy = False
        groups = self._groups()
        if groups:
            self._reload.look()
        for group in groups:
            for index in due(group, Occasion.TIME):
                if self._stopped:
                    return
                recover(group, index)
            compare_if_asked(group)
            group.probe_idle(PROBE_INTERVAL)
            busy |= group.news.refresh()
        pause = self._pause(groups)
        self._news.wait(min(pause, INTERVAL) if busy else pause)
        self._news.clear()

    def _pause(self, groups: Sequence[GroupRuntime]) -> float:
        """Seconds until the next thing is due."""
        pause = self._reload.pause() if groups else PROBE_INTERVAL
        for group in groups:
            for at in (group.value.next_due(group.recovery), comparison_due(group)):
                if at is not None:
                    pause = min(pause, max(0.0, at - group.clock()))
        return pause
