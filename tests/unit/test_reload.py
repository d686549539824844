"""Following the configuration file: when it is looked at, when it is believed, and what never changes. With a group
that nobody has asked for anything yet, so that no member is needed."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cli import config_write
from pyha.ha.group import State
from pyha.ha.settings import Isolation, ParameterForm, RecoveryMode, RecoverySettings, Role
from pyha.runtime import log
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from pyha.runtime.reload import INTERVAL, OLD, Reload, Signature, signature
from pyha.runtime.settings import Configuration, GroupSettings, LogLevel, MemberSettings
from pyha.runtime.uri import TokenUri


def member(name: str, role: Role = Role.ACTIVE) -> MemberSettings:
    return MemberSettings(TokenUri(serial=name, module_path="/usr/lib/vendor.so"), name, role)


GROUP = GroupSettings("payments", bytes(16), "1serial", (member("a"), member("b")))
MORE = replace(GROUP, members=(*GROUP.members, member("c")))


class Followed:
    """A group that follows a file, and the time."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "pyha.toml"
        self.log = directory / "log"
        self.now = 100.0
        self.wall = 0
        self.write(GROUP)
        self.rewired: list[GroupSettings] = []
        self.group = GroupRuntime(GROUP, 1, _nobody, clock=lambda: self.now)
        self.reload = Reload(
            str(self.path),
            signature(str(self.path)),
            [self.group],
            lambda group, settings: self.rewired.append(settings),
            clock=lambda: self.now,
            wall=lambda: self.wall,
        )

    def write(self, *groups: GroupSettings) -> None:
        configuration = Configuration(groups, log=f"file:{self.log}", log_level=LogLevel.NOTICE)
        config_write.write(str(self.path), config_write.render(configuration))

    def look(self, seconds: float = INTERVAL) -> None:
        self.now += seconds
        self.reload.look()

    @property
    def members(self) -> list[str]:
        return [f"{each.name} {each.state.value}" for each in self.group.value.members]

    @property
    def logged(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def _nobody(index: int, generation: int) -> Connection:
    raise AssertionError("no member is to be connected")


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Followed:
    monkeypatch.setattr(log, "_target", f"file:{tmp_path / 'log'}")
    monkeypatch.setattr(log, "_least", 5)
    return Followed(tmp_path)


def test_the_file_is_looked_at_once_a_second_at_most(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def looked(path: str) -> Signature:
        looks.append(path)
        return Signature()

    monkeypatch.setattr("pyha.runtime.reload.signature", looked)
    for _ in range(40):
        followed.look(INTERVAL / 4)
    assert len(looks) == 10


def test_a_change_counts_once_it_has_stayed(followed: Followed) -> None:
    followed.write(MORE)
    followed.look()
    assert followed.members == ["a recovering", "b recovering"], "somebody may be writing still"
    followed.look()
    assert followed.members == ["a recovering", "b recovering", "c recovering"]
    assert followed.rewired == [MORE]
    assert followed.group.settings == MORE


def test_an_older_change_counts_at_once(followed: Followed) -> None:
    """An application that did nothing for long must not delete an object without knowing of a member."""
    followed.write(MORE)
    followed.wall = time.time_ns() + OLD
    followed.look()
    assert followed.members[-1] == "c recovering"


def test_a_file_that_changes_all_the_time_waits(followed: Followed) -> None:
    for number in range(5):
        followed.write(replace(MORE, deadline=1.0 + number))
        followed.look()
    assert followed.group.settings == GROUP
    followed.look()
    assert followed.group.settings.deadline == 5.0


def test_a_file_that_is_touched_changes_nothing(followed: Followed) -> None:
    followed.path.touch()
    followed.look()
    followed.look()
    assert followed.rewired == []


def test_a_broken_file_is_named_once_and_the_mended_one_counts(followed: Followed) -> None:
    followed.path.write_text("group = 7")
    for _ in range(4):
        followed.look()
    assert followed.logged.count("the running configuration goes on") == 1
    assert followed.members == ["a recovering", "b recovering"]
    followed.path.write_text("group = 8.0")
    followed.look()
    followed.look()
    assert followed.logged.count("the running configuration goes on") == 2, "it is wrong in a new way"
    followed.write(MORE)
    followed.look()
    followed.look()
    assert followed.members[-1] == "c recovering"


def test_a_file_that_is_gone_is_named_once(followed: Followed) -> None:
    followed.path.unlink()
    for _ in range(4):
        followed.look()
    assert followed.logged.count("the running configuration goes on") == 1
    followed.write(GROUP)
    followed.look()
    followed.look()
    assert followed.rewired == []


def test_a_member_keeps_its_index_whatever_the_file_says_of_the_order(followed: Followed) -> None:
    followed.write(replace(GROUP, members=(member("c"), member("b"))))
    followed.look()
    followed.look()
    assert followed.members == ["a removed", "b recovering", "c recovering"]
    assert [each.name for each in followed.group.settings.members] == ["a", "b", "c"]
    assert followed.group.value.configured() == (2, 1)
    followed.write(GROUP)
    followed.look()
    followed.look()
    assert followed.members == ["a recovering", "b recovering", "c removed"]
    lists = (followed.group.connections, followed.group.loads, followed.group.status.served)
    assert [len(each) for each in lists] == [3, 3, 3]


def test_another_order_alone_is_followed(followed: Followed) -> None:
    followed.write(replace(GROUP, members=GROUP.members[::-1]))
    followed.look()
    followed.look()
    assert followed.group.value.configured() == (1, 0)
    assert [each.name for each in followed.group.settings.members] == ["a", "b"]


def test_what_an_application_has_seen_of_the_token_stays(followed: Followed) -> None:
    followed.write(
        replace(
            GROUP,
            label="other",
            serial="1other",
            isolation=Isolation.NONE,
            mechanisms={1 << 31: ParameterForm.FLAT},
            deadline=3.0,
            slow_deadline=4.0,
            journal_limit=5,
        )
    )
    followed.look()
    followed.look()
    assert followed.group.settings == replace(GROUP, deadline=3.0, slow_deadline=4.0, journal_limit=5)


@pytest.mark.parametrize(("threads", "mode"), [(True, RecoveryMode.BACKGROUND), (False, RecoveryMode.ON_CALL)])
def test_the_recovery_mode_follows_as_far_as_the_application_allows(
    followed: Followed, threads: bool, mode: RecoveryMode
) -> None:
    if not threads:
        followed.group.forbid_threads()
    followed.write(replace(GROUP, recovery=RecoverySettings(RecoveryMode.MANUAL, 5.0, 3)))
    followed.look()
    followed.look()
    assert followed.group.recovery == RecoverySettings(RecoveryMode.MANUAL, 5.0, 3)
    followed.write(GROUP)
    followed.look()
    followed.look()
    assert followed.group.recovery.mode is mode


def test_a_group_that_is_gone_serves_on_and_is_followed_when_it_is_back(followed: Followed) -> None:
    followed.write()
    for _ in range(4):
        followed.look()
    assert followed.logged.count("is configured no more") == 1
    assert followed.members == ["a recovering", "b recovering"]
    followed.write(MORE)
    followed.look()
    followed.look()
    assert followed.members[-1] == "c recovering"


def test_one_look_at_a_time(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()
    real = signature

    def slow(path: str) -> Signature:
        inside.set()
        assert go_on.wait(30)
        return real(path)

    monkeypatch.setattr("pyha.runtime.reload.signature", slow)
    first = threading.Thread(target=followed.look)
    first.start()
    assert inside.wait(30)
    followed.now += INTERVAL
    followed.reload.look()  # returns at once: the other one is still inside
    go_on.set()
    first.join()


def test_a_removed_member_that_is_added_again_is_what_it_was_at_first(followed: Followed) -> None:
    for groups in ((replace(GROUP, members=(member("b"),)),), (GROUP,)):
        followed.write(*groups)
        followed.look()
        followed.look()
    assert [each.state for each in followed.group.value.members] == [State.RECOVERING] * 2


def test_a_call_that_makes_objects_follows_without_trying_anybody(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[set[int]] = []
    monkeypatch.setattr("pyha.runtime.reload.asked", lambda group, indices: tried.append(indices))
    followed.write(MORE)
    for _ in range(2):
        followed.now += INTERVAL
        followed.reload.follow()
    assert followed.members[-1] == "c recovering"
    assert tried == []
    followed.reload.look()
    followed.reload.look()
    assert tried == [{2}]


def test_of_a_whole_new_group_the_old_members_go_last(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[list[str]] = []
    monkeypatch.setattr("pyha.runtime.reload.asked", lambda group, indices: states.append(followed.members))
    for index in range(2):
        followed.group.value = followed.group.value.joined(index, 1)
    followed.write(replace(GROUP, members=(member("c"),)))
    followed.look()
    followed.look()
    assert states == [["a in", "b in", "c recovering"]], "there is somebody to compare it with"
    assert followed.members == ["a removed", "b removed", "c recovering"]
