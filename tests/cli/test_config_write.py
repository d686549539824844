"""Writing a configuration: what is written is read again as the same values, and the file is replaced in one step."""

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyha.cli import config_write
from pyha.cli.errors import Mistake
from pyha.ha.domain import AES_KEYS, RSA_KEYS, DomainKey
from pyha.ha.fingerprints import Fingerprint
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
from pyha.runtime.settings import Configuration, GroupSettings, MemberSettings
from pyha.runtime.uri import TokenUri

NOBODY = 65534
ULONG = st.integers(0, (1 << 64) - 1)
VERSION = st.tuples(st.integers(0, 255), st.integers(0, 255))
SECONDS = st.floats(0.001, 86_400, allow_nan=False)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def field(limit: int, least: int = 1) -> st.SearchStrategy[str]:
    """Text that a blank-padded field of PKCS #11 can hold."""
    text = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp", "Zs", "Co", "Cn"]), max_size=limit)
    return text.map(str.strip).filter(lambda value: least <= len(value.encode()) <= limit and value.isprintable())


@st.composite
def members(draw: st.DrawFn) -> tuple[MemberSettings, ...]:
    serials = draw(st.lists(st.text("0123456789abcdef", min_size=1, max_size=15), min_size=1, max_size=4, unique=True))
    names = draw(st.lists(field(64), min_size=len(serials), max_size=len(serials), unique=True))
    roles = [Role.ACTIVE, *(draw(st.sampled_from(Role)) for _ in serials[1:])]
    return tuple(
        MemberSettings(
            uri=TokenUri(
                token=draw(st.none() | field(32)),
                serial=serial,
                model=draw(st.none() | field(16)),
                slot_id=draw(st.none() | ULONG),
                module_path="/" + draw(ANY_TEXT),
                pin_source=draw(st.none() | st.builds("file:/{}".format, ANY_TEXT)),
            ),
            name=name,
            role=role,
            enabled=draw(st.booleans()),
            recover=draw(st.integers(0, 1 << 62)),
            reserved=draw(st.none() | ANY_TEXT),
            environment=draw(
                st.dictionaries(ANY_TEXT.filter(lambda key: key and "=" not in key), ANY_TEXT, max_size=3)
            ),
        )
        for serial, name, role in zip(serials, names, roles, strict=True)
    )


CHECKS = st.builds(Fingerprint, st.binary(min_size=3, max_size=3), st.just(b"") | st.binary(min_size=16, max_size=16))
PAIRS = st.builds(Fingerprint, st.binary(min_size=16, max_size=16))
DOMAINS: st.SearchStrategy[dict[DomainKey, Fingerprint]] = st.just({}) | st.fixed_dictionaries(
    dict.fromkeys(AES_KEYS, CHECKS), optional=dict.fromkeys(RSA_KEYS, PAIRS)
)  # fmt: skip
TOKENS = st.builds(
    TokenSnapshot,
    manufacturer=field(32, 0),
    model=field(16, 0),
    flags=ULONG,
    pin_minimum=ULONG,
    pin_maximum=ULONG,
    hardware_version=VERSION,
    firmware_version=VERSION,
    mechanisms=st.lists(
        st.builds(MechanismSnapshot, ULONG, ULONG, ULONG, ULONG), max_size=4, unique_by=lambda offer: offer.type
    ).map(tuple),
)


@st.composite
def groups(draw: st.DrawFn, at: int) -> GroupSettings:
    short, long = sorted((draw(SECONDS), draw(SECONDS)))
    return GroupSettings(
        label=draw(field(30)) + str(at),
        id=draw(st.binary(min_size=15, max_size=15)) + bytes([at]),
        serial=f"G{at}" + draw(st.text("0123456789", max_size=14)),
        members=draw(members()),
        isolation=draw(st.sampled_from(Isolation)),
        deadline=short,
        slow_deadline=long,
        max_in_flight=draw(st.integers(1, 4096)),
        journal_limit=draw(st.integers(0, 1 << 40)),
        unreplicable=draw(st.sampled_from(Unreplicable)),
        recovery=draw(st.builds(RecoverySettings, st.sampled_from(RecoveryMode), SECONDS, st.integers(-1, 1 << 31))),
        mechanisms=draw(
            st.dictionaries(st.integers(1 << 31, (1 << 64) - 1), st.sampled_from(ParameterForm), max_size=3)
        ),
        token=draw(st.none() | TOKENS),
        domain=draw(DOMAINS),
    )


CONFIGURATIONS = st.builds(
    Configuration,
    groups=st.integers(0, 2).flatmap(lambda count: st.tuples(*(groups(at) for at in range(count)))),
    ha_only=st.booleans(),
    log=st.sampled_from(["stderr", "syslog", "none"]) | st.builds("file:/{}".format, ANY_TEXT),
    status_directory=st.none() | st.builds("/{}".format, ANY_TEXT),
)


@settings(max_examples=150, deadline=None)
@given(CONFIGURATIONS)
def test_what_is_written_is_read_again(configuration: Configuration) -> None:
    assert schema.read(tomllib.loads(config_write.render(configuration))) == (configuration, ())


def some(**changes: Any) -> Configuration:
    member = MemberSettings(TokenUri(token="hsm-a", serial="1", module_path="/usr/lib/a.so"), "hsm-a")
    return Configuration((GroupSettings("payments", bytes(16), "11", (member,), **changes),))


def test_defaults_are_left_out() -> None:
    assert config_write.render(some()) == (
        'ha-only = true\n\n[[group]]\nlabel = "payments"\nid = "00000000000000000000000000000000"\nserial = "11"\n'
        '\n[[group.member]]\nuri = "pkcs11:token=hsm-a;serial=1?module-path=/usr/lib/a.so"\n'
    )


def test_a_pin_is_never_written() -> None:
    member = MemberSettings(TokenUri(token="a", module_path="/a", pin_value="98761234"), "a")
    with pytest.raises(ValueError, match="a PIN is not written"):
        config_write.render(Configuration((GroupSettings("payments", bytes(16), "11", (member,)),)))


def test_a_new_file_is_one_that_will_be_believed_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".config" / "pyha" / "pyha.toml"
    before = os.umask(0o002)
    try:
        config_write.write(str(path), config_write.render(some()))
    finally:
        os.umask(before)
    assert config.load(str(path)) == some()
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o755


def test_a_replaced_file_hands_on_its_mode_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "pyha.toml"
    path.write_text("ha-only = false\n")
    path.chmod(0o600)
    with path.open() as old:
        config_write.write(str(path), "ha-only = true\n")
        assert old.read() == "ha-only = false\n"  # replaced, not rewritten
    assert path.read_text() == "ha-only = true\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["pyha.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user takes root")
def test_a_replaced_file_hands_on_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "pyha.toml"
    path.write_text("")
    os.chown(path, NOBODY, NOBODY)
    config_write.write(str(path), "ha-only = true\n")
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)


def test_places_where_no_configuration_would_be_believed(tmp_path: Path) -> None:
    target = tmp_path / "target.toml"
    target.write_text("ha-only = false\n")
    (tmp_path / "link.toml").symlink_to(target)
    open_directory = tmp_path / "open"
    open_directory.mkdir()
    open_directory.chmod(0o777)
    for place, words in [
        ("link.toml", "is not a regular file"),
        ("open", "is not a regular file"),
        ("open/pyha.toml", "lies in a directory that is writable by others"),
        ("target.toml/pyha.toml", "cannot be written: "),
    ]:
        with pytest.raises(Mistake) as mistake:
            config_write.write(str(tmp_path / place), "")
        assert f"{tmp_path}/{place} " in str(mistake.value)
        assert words in str(mistake.value)
    with pytest.raises(Mistake, match="is not an absolute path"):
        config_write.prepare("pyha.toml")
    assert target.read_text() == "ha-only = false\n"
    assert os.listdir(open_directory) == []


def test_a_write_that_fails_leaves_the_old_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pyha.toml"
    path.write_text("ha-only = false\n")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Mistake, match="cannot be written: No space left on device"):
        config_write.write(str(path), "ha-only = true\n")
    assert path.read_text() == "ha-only = false\n"
    assert os.listdir(tmp_path) == ["pyha.toml"]
