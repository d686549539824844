"""The status file: what is written is what is read, and nothing else is believed."""

import os
import resource
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cli.status_reader import Reader
from pyha.cryptoki import constants as ck
from pyha.ha import status
from pyha.ha.group import Cause, Group, Member, State
from pyha.ha.settings import RecoveryMode, Role
from pyha.ha.status import MemberView, NotAView, View
from pyha.runtime import noticeboard, processes
from pyha.runtime.noticeboard import Name
from pyha.runtime.settings import GroupSettings, MemberSettings
from pyha.runtime.status import Publisher, count_error
from pyha.runtime.uri import TokenUri

MEMBER = MemberView(
    "hsm-a", "599447001", Role.STANDBY, State.FAILED, Cause.DIFFERS, "its objects differ", True, 3, 2, 7, 4, 5, 6,
    1.5, ((ck.CKR_DEVICE_ERROR, 9), (1 << 63, 2)),
)  # fmt: skip
VIEW = View(123, "nginx", 64, 42, "payments", "1599447001", RecoveryMode.ON_CALL, 8, (MEMBER,))


# -- the layout -----------------------------------------------------------------------------------------------------


def test_what_is_written_is_read() -> None:
    assert status.decode(status.encode(status.body(VIEW), 12.5)) == (VIEW, 12.5)


@pytest.mark.parametrize("count", [0, 1, 32])
def test_any_number_of_members(count: int) -> None:
    view = replace(VIEW, members=(MEMBER,) * count)
    data = status.encode(status.body(view), 0.0)
    assert status.decode(data)[0] == view
    assert len(data) <= status.LARGEST


def test_what_is_too_long_is_cut_between_characters() -> None:
    view = replace(VIEW, members=(replace(MEMBER, reason="é" * 200),))
    assert status.decode(status.encode(status.body(view), 0.0))[0].members[0].reason == "é" * 96


def test_more_errors_than_there_is_room_for_are_counted_together() -> None:
    errors = tuple((rv, 100 - rv) for rv in range(1, 31))
    view = replace(VIEW, members=(replace(MEMBER, errors=errors),))
    found = status.decode(status.encode(status.body(view), 0.0))[0].members[0].errors
    assert found[:-1] == errors[: status.ERRORS - 1]
    assert found[-1] == (status.OTHERS, sum(count for _, count in errors[status.ERRORS - 1 :]))


def test_a_module_that_invents_codes_does_not_fill_the_memory() -> None:
    counted: dict[int, int] = {}
    for rv in range(1, 10_000):
        count_error(counted, rv)
    assert len(counted) <= 4 * status.ERRORS + 1
    assert sum(counted.values()) == 9_999


def test_no_part_of_a_file_is_a_view() -> None:
    data = status.encode(status.body(VIEW), 12.5)
    for length in range(len(data)):
        with pytest.raises(NotAView):
            status.decode(data[:length])


def test_a_file_with_a_changed_byte_is_no_view() -> None:
    data = status.encode(status.body(VIEW), 12.5)
    for at in (*range(16), *range(24, len(data))):  # from 16 to 23: the time, which is any number
        with pytest.raises(NotAView):
            status.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_what_a_longer_view_left_behind_is_not_looked_at() -> None:
    assert status.decode(status.encode(status.body(VIEW), 12.5) + b"left")[0] == VIEW


def test_numbers_beyond_their_enumeration_are_no_view() -> None:
    body = bytearray(status.body(VIEW))
    body[body.index(b"599447001", body.index(b"hsm-a")) + 16] = 77  # the role
    with pytest.raises(NotAView):
        status.decode(status.encode(bytes(body), 0.0))


# -- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def runtime(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return tmp_path / "pyha"


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the directory of the test."""
    monkeypatch.setattr(noticeboard, "places", lambda preferred: [f"{preferred.runtime}/pyha"])


@pytest.fixture
def publisher(runtime: str) -> Iterator[Publisher]:
    members = tuple(MemberSettings(TokenUri(serial=f"{index}"), f"m{index}") for index in range(2))
    made = Publisher(GroupSettings("group", bytes(16), "1599447001", members), time.monotonic)
    made.begin(7, noticeboard.Preferred(runtime=runtime))
    yield made
    made.withdraw()


GROUP = Group((Member("m0"), Member("m1"))).joined(0, 1).joined(1, 1)


def codes(reader: Reader) -> list[tuple[int, ...]]:
    return [seen.codes for seen in reader.look()]


def test_a_view_is_published_once_and_again_when_it_changes(publisher: Publisher, board: Path) -> None:
    assert publisher.publish(GROUP, RecoveryMode.BACKGROUND)
    assert not publisher.publish(GROUP, RecoveryMode.BACKGROUND)
    publisher.served[0] += 1
    assert publisher.publish(GROUP, RecoveryMode.BACKGROUND)
    (seen,) = Reader([str(board)]).look()
    assert [member.served for member in seen.view.members] == [1, 0]
    assert seen.view.pid == os.getpid()
    publisher.withdraw()
    assert not publisher.publish(GROUP.lost(0, 1, "gone"), RecoveryMode.BACKGROUND)
    assert list(board.iterdir()) == []


def test_a_reader_that_comes_anew_remembers_what_was_shown(publisher: Publisher, board: Path) -> None:
    publisher.publish(GROUP.lost(0, 1, "gone"), RecoveryMode.BACKGROUND)
    assert codes(Reader([str(board)])) == [(ck.CKR_DEVICE_ERROR, ck.CKR_OK)]
    assert codes(Reader([str(board)])) == [(ck.CKR_TOKEN_NOT_PRESENT, ck.CKR_OK)]
    publisher.withdraw()
    assert list(board.iterdir()) == []


def test_nobody_else_may_look_into_a_directory_that_is_made(publisher: Publisher, board: Path) -> None:
    publisher.publish(GROUP, RecoveryMode.BACKGROUND)
    assert stat.S_IMODE(board.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_directory_that_others_may_write_to_is_not_used(publisher: Publisher, board: Path, mode: int) -> None:
    board.mkdir()
    board.chmod(mode)
    publisher.publish(GROUP, RecoveryMode.BACKGROUND)
    assert list(board.iterdir()) == []
    assert codes(Reader([str(board)])) == []


def test_a_shared_directory_with_the_sticky_bit_is_used(publisher: Publisher, board: Path) -> None:
    board.mkdir()
    board.chmod(0o1777)
    publisher.publish(GROUP, RecoveryMode.BACKGROUND)
    assert codes(Reader([str(board)])) == [(ck.CKR_OK, ck.CKR_OK)]


def test_a_link_in_the_files_place_is_not_followed(publisher: Publisher, board: Path, tmp_path: Path) -> None:
    board.mkdir(0o700)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    name = board / str(Name(processes.ourselves(), 7))
    for link in (name.symlink_to, name.hardlink_to):
        link(victim)
        publisher.publish(GROUP, RecoveryMode.BACKGROUND)
        assert victim.read_text() == "precious"
        assert codes(Reader([str(board)])) == []
        name.unlink()


def test_a_directory_that_is_a_link_is_not_used(publisher: Publisher, board: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    board.symlink_to(tmp_path / "elsewhere")
    publisher.publish(GROUP, RecoveryMode.BACKGROUND)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_without_a_place_nothing_happens(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "pyha").write_text("a file")
    assert publisher.publish(GROUP, RecoveryMode.BACKGROUND)


def test_a_limit_of_file_sizes_does_not_end_the_application(publisher: Publisher, board: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        publisher.publish(GROUP, RecoveryMode.BACKGROUND)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not board.exists()


def test_a_file_that_is_half_written_is_read_again(
    publisher: Publisher, board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish(GROUP, RecoveryMode.BACKGROUND)
    whole = noticeboard.read
    cut = [b"", b"PYHAST01"]
    monkeypatch.setattr(noticeboard, "read", lambda *words: cut.pop() if cut else whole(*words))
    assert codes(Reader([str(board)])) == [(ck.CKR_OK, ck.CKR_OK)]


def test_readers_beside_a_writer_see_whole_views(publisher: Publisher, board: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            publisher.served[0] += 1
            publisher.publish(GROUP, RecoveryMode.BACKGROUND)

    publisher.publish(GROUP, RecoveryMode.BACKGROUND)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        reader = Reader([str(board)])
        for _ in range(200):
            assert len(reader.look()) == 1
    finally:
        stop.set()
        writer.join()


# -- the dead -------------------------------------------------------------------------------------------------------


def dead() -> processes.Incarnation:
    """A process that has been."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        start = processes._start(child.pid)
    return processes.Incarnation(child.pid, start, processes.ourselves().namespace)


def test_a_process_lives_until_it_ends() -> None:
    us = processes.ourselves()
    assert processes.lives(us) is True
    assert processes.lives(dead()) is False


def test_a_number_that_was_given_again_is_another_process() -> None:
    us = processes.ourselves()
    assert processes.lives(us._replace(start=us.start + 1)) is False


def test_of_another_namespace_nothing_is_known(board: Path) -> None:
    us = processes.ourselves()
    assert processes.lives(us._replace(namespace=1)) is None
    board.mkdir(0o700)
    file = board / str(Name(us._replace(namespace=1), 7))
    file.write_bytes(b"")
    assert noticeboard.living(str(board)) == []
    assert file.exists(), "whoever wrote it may live"


def test_what_the_dead_left_is_cleared_by_readers_and_by_the_next_process(publisher: Publisher, board: Path) -> None:
    board.mkdir(0o700)
    stale = board / str(Name(dead(), 7))
    mark = stale.with_name(stale.name + noticeboard.SHOWN)
    for clear in (
        lambda: noticeboard.living(str(board)),
        lambda: publisher.publish(GROUP, RecoveryMode.BACKGROUND),
    ):
        stale.write_bytes(b"")
        mark.write_bytes(b"")
        clear()
        assert not stale.exists()
        assert not mark.exists()


def test_files_that_are_not_ours_are_left_alone(board: Path) -> None:
    board.mkdir(0o700)
    others = [board / name for name in ("1.2.3", "notes.txt", "1.2.3.x", "1.2.3.4.5", "-1.2.3.4")]
    for other in others:
        other.touch()
    assert noticeboard.living(str(board)) == []
    assert all(other.exists() for other in others)


def test_a_process_that_became_another_program_is_not_believed(
    publisher: Publisher, board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish(GROUP, RecoveryMode.BACKGROUND)
    monkeypatch.setattr(processes, "executable", lambda pid: (0, 1))
    assert codes(Reader([str(board)])) == []


def test_the_configured_directory_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the directories as they are
    places = noticeboard.places(noticeboard.Preferred("/srv/status", "/run/user/1"))
    assert places == ["/srv/status", "/run/user/1/pyha", "/run/pyha", f"/tmp/pyha-{os.geteuid()}"]
    assert noticeboard.places(noticeboard.Preferred()) == places[2:]


def test_under_at_secure_the_callers_directory_is_not_believed() -> None:
    assert noticeboard.runtime_directory({"XDG_RUNTIME_DIR": "/run/user/1"}, secure=True) is None
    assert noticeboard.runtime_directory({"XDG_RUNTIME_DIR": "/run/user/1"}, secure=False) == "/run/user/1"
    assert noticeboard.runtime_directory({"XDG_RUNTIME_DIR": "here"}, secure=False) is None
