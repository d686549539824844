"""`pyha group remove | standby | unstandby | enable | disable | recover`: what they make of the file, and what they
refuse; and that no edit of it is lost."""

import multiprocessing
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cli import config_edit, config_write
from pyha.cli.errors import Mistake
from pyha.cli.main import main
from pyha.ha.settings import Role
from pyha.runtime import config
from pyha.runtime.settings import Configuration, GroupSettings, MemberSettings
from pyha.runtime.uri import TokenUri


def member(name: str, role: Role = Role.ACTIVE, enabled: bool = True) -> MemberSettings:
    address = TokenUri(token=f"hsm-{name}", serial=f"serial-{name}", module_path="/usr/lib/vendor.so")
    return MemberSettings(address, f"hsm-{name}", role, enabled)


GROUP = GroupSettings("payments", bytes(16), "1serial", (member("a"), member("b"), member("c", Role.STANDBY)))
OTHER = GroupSettings("other", bytes(15) + b"\1", "1other", (member("d"),))


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "pyha.toml"
    config_write.write(str(path), config_write.render(Configuration((GROUP, OTHER))))
    return path


def group(conf: Path) -> GroupSettings:
    return config.load(str(conf)).groups[0]


def pyha(conf: Path, *words: str) -> int:
    return main(["group", *words, "--config", str(conf)])


def members(conf: Path) -> list[str]:
    return [
        f"{each.name} {each.role.value}"
        + ("" if each.enabled else " disabled")
        + (f" {each.recover}" * (each.recover > 0))
        for each in group(conf).members
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("remove", "payments", "hsm-b"), ["hsm-a active", "hsm-c standby"]),
        (("remove", "payments", "serial-a"), ["hsm-b active", "hsm-c standby"]),
        (("standby", "payments", "hsm-a"), ["hsm-a standby", "hsm-b active", "hsm-c standby"]),
        (("unstandby", "payments", "hsm-c"), ["hsm-a active", "hsm-b active", "hsm-c active"]),
        (("disable", "payments", "hsm-b"), ["hsm-a active", "hsm-b active disabled", "hsm-c standby"]),
        (("enable", "payments", "hsm-b"), ["hsm-a active", "hsm-b active", "hsm-c standby"]),
        (("recover", "payments", "hsm-b"), ["hsm-a active", "hsm-b active 1", "hsm-c standby"]),
        (("recover", "payments"), ["hsm-a active 1", "hsm-b active 1", "hsm-c standby 1"]),
        (("removemember", "payments", "hsm-b"), ["hsm-a active", "hsm-c standby"]),
        (("addstandby", "payments", "hsm-b"), ["hsm-a active", "hsm-b standby", "hsm-c standby"]),
        (("removestandby", "payments", "hsm-c"), ["hsm-a active", "hsm-b active", "hsm-c active"]),
    ],
    ids=" ".join,
)
def test_what_becomes_of_the_members(conf: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert pyha(conf, *words) == 0
    assert members(conf) == expected
    assert replace(group(conf), members=GROUP.members) == GROUP, "nothing else changes, the serial least of all"
    assert config.load(str(conf)).groups[1] == OTHER


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("remove", "nobody", "hsm-a"), 'there is no group "nobody"'),
        (("remove", "payments", "hsm-x"), '"payments" has no member "hsm-x": it has hsm-a, hsm-b, hsm-c'),
        (("remove", "other", "hsm-d"), 'hsm-d is the only member of "other"'),
        (("standby", "other", "hsm-d"), '"other" would have no active member that is enabled'),
        (("disable", "other", "hsm-d"), '"other" would have no active member that is enabled'),
    ],
    ids=" ".join,
)
def test_what_cannot_be(conf: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str) -> None:
    before = conf.read_text()
    assert pyha(conf, *words) == 2
    assert capsys.readouterr().err == f"pyha: {sentence}\n"
    assert conf.read_text() == before


def test_the_last_active_members_go_one_by_one(conf: Path) -> None:
    assert pyha(conf, "remove", "payments", "hsm-a") == 0
    assert pyha(conf, "remove", "payments", "hsm-b") == 2
    assert pyha(conf, "unstandby", "payments", "hsm-c") == 0
    assert pyha(conf, "remove", "payments", "hsm-b") == 0
    assert members(conf) == ["hsm-c active"]


def test_a_disabled_member_is_not_tried(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pyha(conf, "disable", "payments", "hsm-b") == 0
    assert pyha(conf, "recover", "payments", "hsm-b") == 2
    assert "hsm-b is disabled" in capsys.readouterr().err
    assert pyha(conf, "recover", "payments") == 0
    assert members(conf) == ["hsm-a active 1", "hsm-b active disabled", "hsm-c standby 1"]


def test_a_name_that_is_anothers_serial_names_nobody(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    confused = replace(GROUP, members=(replace(GROUP.members[0], name="serial-b"), GROUP.members[1]))
    conf.write_text(config_write.render(Configuration((confused,))))
    assert pyha(conf, "remove", "payments", "serial-b") == 2
    assert "is the name of one member" in capsys.readouterr().err


# -- the file -------------------------------------------------------------------------------------------------------


def test_a_broken_file_is_not_touched(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = conf.read_text() + "\n[[group]]\nlabel = 7\n"
    conf.write_text(broken)
    assert pyha(conf, "standby", "payments", "hsm-a") == 2
    assert "nothing is written" in capsys.readouterr().err
    assert conf.read_text() == broken


def test_a_file_without_anything_to_change_is_not_written(conf: Path) -> None:
    before = conf.stat()
    assert pyha(conf, "enable", "payments", "hsm-a") == 0
    assert (conf.stat().st_ino, conf.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_comments_are_not_lost_for_good(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commented = "# the rack in the cellar\n" + conf.read_text()
    conf.write_text(commented)
    assert pyha(conf, "standby", "payments", "hsm-a") == 0
    kept = conf.with_name("pyha.toml.before")
    assert kept.read_text() == commented
    assert str(kept) in capsys.readouterr().err
    # The next edit has no comments to keep, and leaves that copy alone.
    assert pyha(conf, "unstandby", "payments", "hsm-a") == 0
    assert kept.read_text() == commented


def test_an_edit_by_hand_that_comes_between_is_not_lost(conf: Path) -> None:
    by_hand = conf.read_text() + "\n[log]\nlevel = 'notice'\n"

    def change(configuration: Configuration) -> Configuration:
        conf.write_text(by_hand)
        return replace(configuration, ha_only=False)

    with pytest.raises(Mistake, match="changed by somebody else"):
        config_edit.edit(str(conf), change)
    assert conf.read_text() == by_hand


def _recover(conf: Path, times: int) -> None:
    for _ in range(times):
        assert pyha(conf, "recover", "payments", "hsm-a") == 0


def test_of_many_edits_at_once_none_is_lost(conf: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_recover, args=(conf, 25)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert group(conf).members[0].recover == 100


def test_nobody_else_can_hold_the_lock(conf: Path) -> None:
    assert pyha(conf, "recover", "payments") == 0
    lock = conf.with_name(".pyha.toml.lock")
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600


def test_a_file_that_others_may_write_to_is_refused(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf.chmod(0o666)
    assert pyha(conf, "recover", "payments") == 2
    assert "writable by others" in capsys.readouterr().err
