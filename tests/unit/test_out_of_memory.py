"""A comparison or a probe for which this process has no memory or descriptor: the monitor, which asked, lives on."""

from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

from pyha.abi.codec import Codecs
from pyha.cryptoki import constants as ck
from pyha.entry import guarded
from pyha.ha.group import State
from pyha.runtime import comparing, log
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from pyha.runtime.recovery import recover
from pyha.runtime.settings import GroupSettings, MemberSettings
from pyha.runtime.uri import TokenUri

SETTINGS = GroupSettings(
    "payments", bytes(16), "1serial", tuple(MemberSettings(TokenUri(serial=name), name) for name in "ab")
)


def no_memory(*arguments: object, **named: object) -> NoReturn:
    raise MemoryError


def test_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    group = GroupRuntime(SETTINGS, 1, no_memory, clock=lambda: 0.0)
    group.value = group.value.joined(0, 1).joined(1, 1)
    group.connections[:] = [cast(Any, object()), cast(Any, object())]
    group.user, group.news.suspect = ck.CKU_USER, True
    monkeypatch.setattr(comparing, "_seem_alike", lambda group: False)
    monkeypatch.setattr(comparing, "resynchronise", no_memory)
    comparing.compare_if_asked(group)
    assert comparing.comparison_due(group) == group.recovery.interval, "not at once again"


def test_a_probe_says_nothing_of_the_member(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection("a", 1, no_memory, TokenUri(), Codecs())
    monkeypatch.setattr(connection, "call", no_memory)
    assert connection.alive(0.0)


def test_a_fault_in_one_round_ends_neither_the_monitor_nor_a_members_recovery(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log.direct(str(tmp_path / "log"), "error")
    group = GroupRuntime(SETTINGS, 1, lambda index, generation: cast(Any, Unlucky()))
    group.value = group.value.lost(0, 0, "gone")
    with pytest.raises(ZeroDivisionError):
        recover(group, 0)
    assert group.value.members[0].state is State.FAILED
    assert not guarded(lambda: cast(None, recover(group, 0)))
    assert "a fault in the background: ZeroDivisionError at " in (tmp_path / "log").read_text()
    assert guarded(lambda: None)


class Unlucky:
    """A connection that meets a fault of ours."""

    def connect(self, deadline: float) -> None:
        raise ZeroDivisionError

    def close(self) -> None:
        pass
