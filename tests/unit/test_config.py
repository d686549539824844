"""The configuration: which file, whether it is believed, what it may say, and that all of its errors are told at
once."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from pyha.ha.settings import (
    Isolation,
    MechanismSnapshot,
    ParameterForm,
    RecoveryMode,
    RecoverySettings,
    Role,
    TokenSnapshot,
    Unreplicable,
)
from pyha.runtime import config, schema
from pyha.runtime.config import ConfigurationError
from pyha.runtime.settings import Configuration, GroupSettings, LogLevel, MemberSettings
from pyha.runtime.uri import TokenUri

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user takes root")

FULL = """
ha-only = false
[log]
to = "file:/var/log/pyha.log"
level = "notice"
[[group]]
label = "payments"
id = "00112233445566778899aabbccddeeff"
serial = "1599447001"
isolation = "none"
deadline = 5
slow-deadline = 30.5
max-in-flight = 8
unreplicable = "pin"
[group.recovery]
mode = "on-call"
interval = 0.5
attempts = 3
[group.mechanisms]
0x80000001 = "flat"
0x80000002 = "none"
[[group.member]]
uri = "pkcs11:token=hsm-a;serial=599447001?module-path=/usr/lib/a.so&pin-source=file:/etc/pyha/pin"
[[group.member]]
uri = "pkcs11:token=hsm-b;serial=599447002?module-path=/usr/lib/b.so&pin-source=env:PIN_B"
name = "second"
role = "standby"
enabled = false
reserved = "configdir='/x'"
[group.member.environment]
SOFTHSM2_CONF = "/etc/softhsm-b.conf"
[group.token]
manufacturer = "SoftHSM project"
model = "SoftHSM v2"
flags = 0x42d
pin-minimum = 4
pin-maximum = 255
hardware-version = "2.6"
firmware-version = "2.10"
mechanisms = [[0x250, 0, 0, 0x400], [0x80000001, 1024, 4096, 0x2800]]
"""

MINIMAL = """
[[group]]
label = "payments"
id = "00112233445566778899aabbccddeeff"
serial = "1599447001"
[[group.member]]
uri = "pkcs11:token=hsm-a?module-path=/usr/lib/a.so"
"""


def errors_of(text: str) -> tuple[str, ...]:
    return schema.read(tomllib.loads(text))[1]


def with_member(lines: str) -> str:
    return MINIMAL + "[[group.member]]\n" + lines


def test_everything_a_file_can_say() -> None:
    group = GroupSettings(
        label="payments",
        id=bytes.fromhex("00112233445566778899aabbccddeeff"),
        serial="1599447001",
        isolation=Isolation.NONE,
        deadline=5.0,
        slow_deadline=30.5,
        max_in_flight=8,
        unreplicable=Unreplicable.PIN,
        recovery=RecoverySettings(RecoveryMode.ON_CALL, 0.5, 3),
        mechanisms={0x80000001: ParameterForm.FLAT, 0x80000002: ParameterForm.NONE},
        members=(
            MemberSettings(
                TokenUri(
                    token="hsm-a", serial="599447001", module_path="/usr/lib/a.so", pin_source="file:/etc/pyha/pin"
                ),
                name="hsm-a",
            ),
            MemberSettings(
                TokenUri(token="hsm-b", serial="599447002", module_path="/usr/lib/b.so", pin_source="env:PIN_B"),
                name="second",
                role=Role.STANDBY,
                enabled=False,
                reserved="configdir='/x'",
                environment={"SOFTHSM2_CONF": "/etc/softhsm-b.conf"},
            ),
        ),
        token=TokenSnapshot(
            manufacturer="SoftHSM project",
            model="SoftHSM v2",
            flags=0x42D,
            pin_minimum=4,
            pin_maximum=255,
            hardware_version=(2, 6),
            firmware_version=(2, 10),
            mechanisms=(MechanismSnapshot(0x250, 0, 0, 0x400), MechanismSnapshot(0x80000001, 1024, 4096, 0x2800)),
        ),
    )
    expected = Configuration(groups=(group,), ha_only=False, log="file:/var/log/pyha.log", log_level=LogLevel.NOTICE)
    assert schema.read(tomllib.loads(FULL)) == (expected, ())


def test_defaults_are_the_promised_ones() -> None:
    configuration, errors = schema.read(tomllib.loads(MINIMAL))
    group = configuration.groups[0]
    assert not errors
    assert (configuration.ha_only, configuration.log) == (True, "stderr")
    assert (group.deadline, group.isolation, group.unreplicable) == (20.0, "process", "refuse")
    assert group.recovery == RecoverySettings(RecoveryMode.BACKGROUND, 60.0, -1)
    assert group.token is None
    assert (group.members[0].role, group.members[0].enabled) == ("active", True)


def test_a_long_deadline_lengthens_the_slow_one_that_is_not_stated() -> None:
    configuration, errors = schema.read(
        tomllib.loads(MINIMAL.replace("[[group.member]]", "deadline = 300\n[[group.member]]"))
    )
    assert not errors
    assert configuration.groups[0].slow_deadline == 300.0


def test_all_errors_are_told_each_with_its_key() -> None:
    errors = errors_of(
        """
        ha-only = "yes"
        lgo = 1
        [log]
        to = "file:relative"
        [[group]]
        label = "payments"
        serial = 5
        deadline = nan
        max_in_flight = 3
        [group.recovery]
        mode = "sometimes"
        attempts = true
        [[group.member]]
        uri = "pkcs11:tokn=hsm-a"
        [[group.member]]
        uri = "pkcs11:object=k?module-path=a.so&pin-value=98761234&pin-source=prompt"
        rol = "standby"
        """
    )
    keys = {error.partition(": ")[0] for error in errors}
    assert keys == {
        "ha-only", "lgo", "log.to", "group[0].id", "group[0].serial", "group[0].deadline", "group[0].max_in_flight",
        "group[0].recovery.mode", "group[0].recovery.attempts", "group[0].member[0].uri", "group[0].member[1].uri",
        "group[0].member[1].rol",
    }  # fmt: skip
    assert sum(error.startswith("group[0].member[1].uri: ") for error in errors) == 5
    assert not any("98761234" in error for error in errors)
    assert "group[0].max_in_flight: unknown key, is max-in-flight meant?" in errors
    assert "lgo: unknown key, is log meant?" in errors


GROUP = "[[group.member]]"
A, B = "pkcs11:token=hsm-a?module-path=/usr/lib/a.so", "pkcs11:token=hsm-b?module-path=/usr/lib/a.so"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("group = 3", "group: must be an array of tables"),
        ("group = [3]", "group[0]: must be a table"),
        ("[[group]]", "group[0].label: is missing"),
        ("[[group]]", "group[0].id: is missing: `pyha group create` writes it"),
        ("[[group]]", "group[0].member: is missing"),
        ("[log]\nto = 3", "log.to: must be a string"),
        ('[log]\nlevel = "debug"', 'log.level: must be "error" or "warning" or "notice"'),
        ("log = 3", "log: must be a table"),
        (MINIMAL.replace('"payments"', '"' + "ä" * 17 + '"'), "group[0].label: is longer than 32 bytes"),
        (MINIMAL.replace('"payments"', '"a "'), "group[0].label: begins or ends with a blank"),
        (MINIMAL.replace('"payments"', '"a\\nb"'), "group[0].label: has a character that cannot be printed"),
        (MINIMAL.replace("00112233", "0011223g"), "group[0].id: is not 32 hexadecimal digits"),
        (MINIMAL.replace("1599447001", "15994470011599447"), "group[0].serial: is longer than 16 bytes"),
        (MINIMAL.replace("1599447001", "ä"), "group[0].serial: is not ASCII"),
        (MINIMAL.replace(GROUP, "deadline = 0\n" + GROUP), "group[0].deadline: must be more than 0"),
        (MINIMAL.replace(GROUP, "deadline = -1\n" + GROUP), "group[0].deadline: must be more than 0"),
        (MINIMAL.replace(GROUP, "slow-deadline = 0\n" + GROUP), "group[0].slow-deadline: must be more than 0"),
        (MINIMAL.replace(GROUP, "journal-limit = -1\n" + GROUP), "group[0].journal-limit: must be from 0 to"),
        (MINIMAL.replace(GROUP, GROUP + "\nrecover = -1"), "group[0].member[0].recover: must be from 0 to"),
        ("status-directory = 'run'\n" + MINIMAL, "status-directory: is not an absolute path"),
        (MINIMAL.replace(GROUP, "deadline = inf\n" + GROUP), "group[0].deadline: must be more than 0"),
        (MINIMAL.replace(GROUP, "deadline = true\n" + GROUP), "group[0].deadline: must be a number of seconds"),
        (MINIMAL.replace(GROUP, "slow-deadline = 19\n" + GROUP), "group[0].slow-deadline: is shorter than"),
        (MINIMAL.replace(GROUP, "max-in-flight = 0\n" + GROUP), "group[0].max-in-flight: must be from 1 to 4096"),
        (MINIMAL.replace(GROUP, 'isolation = "thread"\n' + GROUP), 'group[0].isolation: must be "process" or "none"'),
        (MINIMAL + "[group.recovery]\nattempts = -2", "group[0].recovery.attempts: must be from -1"),
        (MINIMAL + "[group.recovery]\ninterval = 0", "group[0].recovery.interval: must be more than 0"),
        (MINIMAL + '[group.mechanisms]\n0x1087 = "flat"', "group[0].mechanisms.0x1087: is not a vendor's mechanism"),
        (MINIMAL + '[group.mechanisms]\nCKM_X = "flat"', "group[0].mechanisms.CKM_X: is no mechanism"),
        (
            MINIMAL + '[group.mechanisms]\n0x80000001 = "deep"',
            'group[0].mechanisms.0x80000001: must be "none" or "flat"',
        ),
        (MINIMAL + '[group.mechanisms]\n0x80000001 = "flat"\n0x080000001 = "flat"', "0x80000001 is there twice"),
        (MINIMAL + "[group.token]\nmechanisms = [[1, 2, 3]]", "group[0].token.mechanisms[0]: must be an array of 4"),
        (
            MINIMAL + "[group.token]\nmechanisms = [[1, 0, 0, -1]]",
            "group[0].token.mechanisms[0]: must be an array of 4",
        ),
        (
            MINIMAL + "[group.token]\nmechanisms = [[1, 0, 0, 0], [1, 0, 0, 0]]",
            "mechanisms[1]: the mechanism 0x1 is there twice",
        ),
        (MINIMAL + '[group.domain]\nsealed = "a1b2c3"', "group[0].domain.open: is missing"),
        (MINIMAL + '[group.domain]\nsealed = "a1b2"', "group[0].domain.sealed: is not 6 hexadecimal digits"),
        (MINIMAL + '[group.domain]\nopen-proof = "00"', "group[0].domain.open-proof: is not 32 hexadecimal digits"),
        (MINIMAL + '[group.domain]\nopen-rsa-proof = "00"', "group[0].domain.open-rsa-proof: unknown key"),
        (MINIMAL + '[group.token]\nfirmware-version = "2"', "group[0].token.firmware-version: is no version"),
        (MINIMAL + '[group.token]\nfirmware-version = "2.256"', "group[0].token.firmware-version: is no version"),
        (MINIMAL + 'role = "standby"', "group[0].member: no member has the role active"),
        (MINIMAL + '[group.member.environment]\n"A=B" = "c"', "is no name of an environment variable"),
        (MINIMAL + "[group.member.environment]\nA = 3", "group[0].member[0].environment.A: must be a string"),
        (MINIMAL + '[group.member.environment]\nA = "\\u0000"', "group[0].member[0].environment.A: has a zero byte"),
        (MINIMAL + '"a b" = 1', 'group[0].member[0]."a b": unknown key'),
        (MINIMAL.replace("?module-path=/usr/lib/a.so", ""), "the attribute module-path is missing"),
        (MINIMAL.replace("module-path=/usr/lib/a.so", "module-path=a.so"), "module-path is not an absolute path"),
        (MINIMAL.replace("module-path=/usr/lib/a.so", "module-name=a"), "module-name is not used here"),
        (MINIMAL.replace("token=hsm-a", "model=x"), "it names no token"),
        (MINIMAL.replace("token=hsm-a", "token=a;id=%01"), "the attribute id has no place"),
        (
            MINIMAL.replace("a.so", "a.so&pin-source=|/bin/true"),
            "pin-source is neither file:/absolute/path nor env:NAME",
        ),
        (MINIMAL.replace("a.so", "a.so&pin-source=file:pin"), "pin-source is neither file:/absolute/path nor env:NAME"),
        (MINIMAL.replace("a.so", "a.so&pin-value=1"), "pin-value is refused, because this file is not secret"),
        (MINIMAL.replace("token=hsm-a", "serial=1599447001"), "group[0].serial: is the serial of member[0]"),
        (with_member(f'uri = "{A}"'), "group[0].member[1].uri: may name the token of member[0]"),
        (with_member(f'uri = "{B}"\nname = "hsm-a"'), "group[0].member[1].name: member[0] has the same"),
        (MINIMAL + MINIMAL, "group[1].label: group[0] has the same"),
        (MINIMAL + MINIMAL, "group[1].id: group[0] has the same"),
        (MINIMAL + MINIMAL, "group[1].serial: group[0] has the same"),
    ],
)
def test_one_error_and_its_key(text: str, error: str) -> None:
    assert [found for found in errors_of(text) if error in found], errors_of(text)


def test_an_empty_token_label_is_a_label() -> None:
    assert errors_of(MINIMAL.replace("hsm-a?", "?")) == ()


def _member(uri: TokenUri, **environment: str) -> MemberSettings:
    return MemberSettings(uri, "m", environment=environment)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (_member(TokenUri(serial="1", module_path="/a")), _member(TokenUri(serial="1", module_path="/b")), True),
        (_member(TokenUri(token="t", serial="1")), _member(TokenUri(token="t", serial="2")), False),
        (_member(TokenUri(serial="1", manufacturer="x")), _member(TokenUri(serial="1", manufacturer="y")), False),
        (_member(TokenUri(token="t", module_path="/a")), _member(TokenUri(token="t", module_path="/b")), False),
        (_member(TokenUri(token="t"), CONF="1"), _member(TokenUri(token="t"), CONF="2"), False),
        (_member(TokenUri(token="t")), _member(TokenUri(serial="1")), True),
        (_member(TokenUri(token="t", slot_id=1)), _member(TokenUri(token="t", slot_id=2)), False),
        (_member(TokenUri(serial="1", slot_id=1), A="1"), _member(TokenUri(serial="1", slot_id=2)), True),
    ],
)
def test_two_uris_for_one_token(one: MemberSettings, other: MemberSettings, expected: bool) -> None:
    assert schema.one_token(one, other) is expected
    assert schema.one_token(other, one) is expected


def test_members_and_groups_keep_their_place_beside_errors() -> None:
    configuration, errors = schema.read(tomllib.loads("[[group]]\nmember = [3]\n" + MINIMAL))
    assert errors
    assert [len(group.members) for group in configuration.groups] == [1, 1]
    assert configuration.groups[1].label == "payments"


# The file and the right to be believed.

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(content: str | bytes = MINIMAL, name: str = "pyha.toml", mode: int = 0o644) -> Path:
        path = tmp_path / "conf" / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    return write


def refusal(path: Path | str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        config.load(str(path))
    assert caught.value.path == str(path)
    assert len(caught.value.errors) == 1
    assert str(caught.value) == f"{path}: {caught.value.errors[0]}"
    return caught.value.errors[0]


def test_a_good_file_loads(put: Put) -> None:
    assert config.load(str(put())).groups[0].label == "payments"


def test_an_error_in_the_content_names_file_and_key(put: Put) -> None:
    path = put("ha-only = 1\nx = 2\n")
    with pytest.raises(ConfigurationError) as caught:
        config.load(str(path))
    assert caught.value.errors == ("ha-only: must be true or false", "x: unknown key")
    assert str(caught.value) == f"{path}: ha-only: must be true or false; x: unknown key"


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_may_write_is_refused(put: Put, mode: int) -> None:
    assert "is writable by others than its owner" in refusal(put(mode=mode))


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_directory_that_others_may_write_is_refused(put: Put, mode: int) -> None:
    path = put()
    path.parent.chmod(mode)
    assert "lies in a directory that is writable by others" in refusal(path)


@as_root
def test_a_file_of_another_user_is_refused(put: Put) -> None:
    path = put()
    os.chown(path, NOBODY, 0)
    assert refusal(path) == f"belongs to user {NOBODY}: it must belong to root or to user 0"


@as_root
def test_a_directory_of_another_user_is_refused(put: Put) -> None:
    path = put()
    os.chown(path.parent, NOBODY, 0)
    assert f"lies in a directory that belongs to user {NOBODY}" in refusal(path)


@as_root
def test_the_effective_user_counts(put: Put, tmp_path: Path) -> None:
    path = put()
    for ancestor in (path, path.parent):
        os.chown(ancestor, NOBODY, 0)
    # Both: the group of the process stays root's.
    opened = [parent for parent in tmp_path.parents if parent.stat().st_mode & 0o011 != 0o011]
    modes = {directory: directory.stat().st_mode for directory in (tmp_path, *opened)}
    try:
        for directory in modes:
            directory.chmod(0o711)
        os.seteuid(NOBODY)
        assert config.load(str(path)).groups
        os.seteuid(0)
        os.chown(path, 0, 0)
        os.seteuid(NOBODY)
        assert config.load(str(path)).groups
        os.seteuid(0)
        os.chown(path, 1, 0)
        os.seteuid(NOBODY)
        assert refusal(path) == f"belongs to user 1: it must belong to root or to user {NOBODY}"
    finally:
        os.seteuid(0)
        for directory, mode in modes.items():
            directory.chmod(mode)


def test_a_symbolic_link_is_refused_as_its_targets_directory_is_unchecked(put: Put) -> None:
    path = put()
    link = path.with_name("link.toml")
    link.symlink_to(path)
    assert "is a symbolic link" in refusal(link)


def test_what_is_no_file_is_refused_without_waiting(put: Put) -> None:
    fifo = put().with_name("fifo.toml")
    os.mkfifo(fifo, 0o600)
    program = f"from pyha.runtime import config\nconfig.load({str(fifo)!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr.endswith(f"{fifo}: is not a regular file\n")
    assert refusal(fifo.parent) == "is not a regular file"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"\xff", "is not UTF-8"),
        (b"a = ", "is not TOML: "),
        (b"a = 1\na = 2", "is not TOML: "),
        (b"a = " + b"[" * 100_000, "is not TOML: "),
        (b"a = " + b"9" * 5_000, "is not TOML: "),
        (b"#" * (1 << 20) + b"\n", "is longer than 1048576 bytes"),
    ],
)
def test_content_that_is_no_configuration(put: Put, content: bytes, error: str) -> None:
    assert refusal(put(content)).startswith(error)


def test_missing_and_relative_paths(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.toml") == "cannot be read: No such file or directory"
    assert refusal(tmp_path / "none" / "none.toml") == "cannot be read: No such file or directory"
    assert refusal("pyha.toml") == "is not an absolute path"


def test_which_file_is_used(put: Put, tmp_path: Path) -> None:
    system = str(put(name="system.toml"))
    home = tmp_path / "home"
    own = home / ".config" / "pyha" / "pyha.toml"
    environ = {"HOME": str(home)}
    assert config.find(environ, False, system) == system
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert config.find(environ, False, system) == str(own)
    assert config.find(environ | {"PYHA_CONF": "/else/where"}, False, system) == "/else/where"
    assert config.find(environ | {"PYHA_CONF": ""}, False, system) == str(own)
    assert config.find({}, False, system) == system
    assert config.find({}, False, str(tmp_path / "absent")) is None


def test_with_more_rights_than_the_user_the_environment_is_not_looked_at(put: Put, tmp_path: Path) -> None:
    own = tmp_path / ".config" / "pyha" / "pyha.toml"
    own.parent.mkdir(parents=True)
    own.write_text("")
    environ = {"HOME": str(tmp_path), "PYHA_CONF": str(put())}
    system = str(put(name="system.toml"))
    assert config.find(environ, True, system) == system
    assert config.find(environ, True, str(tmp_path / "absent")) is None
