"""`pyha group add` on real tokens: what it takes for a token to become a member, and what running applications make of
it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pyha.abi.native import module_path
from pyha.cli import config_edit, config_write, group_add, introducing
from pyha.cli.main import main
from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings, Role
from pyha.runtime import config
from pyha.runtime.domain_keys import NotServable
from pyha.runtime.settings import Configuration, GroupSettings, LogLevel
from tests.application import Template, application
from tests.client import aes_key, client, ec_pair, helpers
from tests.domain_tools import Place, delete_domain_objects, domain_objects, places
from tests.softhsm import MODULE, SoftHSM, SoftHSMToken

LABEL = f"added-{os.getpid()}"
"""Of this run alone: helpers are found by it."""

LONGEST = 60.0
"""Seconds after which a test stops waiting for what does not happen."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Place]]:
    yield from places(tmp_path_factory, LABEL, 2)


@dataclass
class Added:
    """A group of two, and a third token that is none of its members."""

    place: Place
    token: SoftHSMToken
    capsys: pytest.CaptureFixture[str]

    @property
    def group(self) -> GroupSettings:
        return config.load(str(self.place.conf)).groups[0]

    @property
    def log(self) -> Path:
        return self.place.directory / "log"

    @property
    def opening(self) -> tuple[str, ...]:
        """The options that restore the domain keys."""
        return "--backup", str(self.place.backup), "--key", str(self.place.private)

    def __call__(self, action: str, *words: str) -> tuple[int, str]:
        """`pyha group`: exit status and what it said on stderr."""
        self.capsys.readouterr()
        status = main(["group", action, LABEL, *words, "--config", str(self.place.conf)])
        return status, self.capsys.readouterr().err

    def add(self, token: SoftHSMToken, *more: str) -> tuple[int, str]:
        address = f"pkcs11:token={token.label}?module-path={token.module}"
        environment = f"SOFTHSM2_CONF={token.conf}"
        pin = f"file:{self.place.pin}"
        return self("add", address, "--pin-source", pin, "--environment", environment, *more)

    def follow(self, recovery: RecoverySettings = RecoverySettings(interval=0.2)) -> None:  # noqa: B008
        """The group recovers often, and says what happens."""
        before = config.load(str(self.place.conf))
        groups = (replace(before.groups[0], recovery=recovery),)
        after = replace(before, groups=groups, log=f"file:{self.log}", log_level=LogLevel.NOTICE)
        config_write.write(str(self.place.conf), config_write.render(after))

    def logged(self, text: str) -> None:
        limit = time.monotonic() + LONGEST
        while text not in (self.log.read_text() if self.log.exists() else ""):
            assert time.monotonic() < limit, self.log.read_text()
            time.sleep(0.02)  # another process's log: there is no event to wait for


@pytest.fixture
def nobody_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No application uses the group, and none has to be waited for."""
    monkeypatch.setattr(group_add, "FOLLOWED", 0.0)


@pytest.fixture
def added(kept: Callable[[Path], Place], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Added:
    place = kept(tmp_path / "place")
    return Added(place, SoftHSM(place.directory / "softhsm").token(f"{LABEL}-2"), capsys)


def tool(token: SoftHSMToken, *words: str) -> None:
    """pkcs11-tool on the plain token."""
    command = ["pkcs11-tool", "--module", MODULE, "--token-label", token.label, "--login", "--pin", token.pin, *words]
    subprocess.run(command, env={**os.environ, **token.environment}, check=True, capture_output=True)


def put_foreign_key(token: SoftHSMToken) -> None:
    tool(token, "--keygen", "--key-type", "aes:32", "--extractable", "--label", "foreign", "--id", "01")


def objects(token: SoftHSMToken) -> str:
    """What the plain module shows of it."""
    command = ["pkcs11-tool", "--module", MODULE, "--token-label", token.label, "--login", "--pin", token.pin, "-O"]
    shown = subprocess.run(command, env={**os.environ, **token.environment}, check=True, capture_output=True, text=True)
    return shown.stdout


def holds_foreign_key(token: SoftHSMToken) -> bool:
    return "foreign" in objects(token)


@pytest.mark.usefixtures("nobody_runs")
def test_a_new_token_gets_the_domain_keys_from_the_backup(added: Added) -> None:
    before = added.group
    assert added.add(added.token, "--standby", *added.opening) == (0, "")
    after = added.group
    assert replace(after, members=before.members) == before, "serial, id and mechanisms stay"
    *others, new = after.members
    assert tuple(others) == before.members
    assert (new.name, new.uri.serial, new.role) == (added.token.label, added.token.serial, Role.STANDBY)
    assert domain_objects(added.token) == domain_objects(added.place.tokens[0])


@pytest.mark.usefixtures("nobody_runs")
def test_without_a_backup_it_says_what_is_missing_and_changes_nothing(added: Added) -> None:
    text = added.place.conf.read_text()
    status, error = added.add(added.token)
    assert (status, added.place.conf.read_text()) == (2, text)
    assert "domain key is missing (--backup FILE --key PEM restores the domain keys)" in error
    assert domain_objects(added.token) == []


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--backup", "x"), "--backup needs --key"),
        (("--name", f"{LABEL}-1"), f'"{LABEL}" has a member "{LABEL}-1" already'),
        (("--name", "two\nlines"), "member[2].name: has a character that cannot be printed"),
        (("--environment", "HOME"), "--environment HOME is not NAME=VALUE"),
        (("--reserved", "/x=1"), "--reserved is for /x, which is the module-path of no member"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_mistakes_are_named(added: Added, more: tuple[str, ...], sentence: str) -> None:
    status, error = added.add(added.token, *more)
    assert (status, sentence in error, domain_objects(added.token)) == (2, True, []), error


def test_a_member_cannot_be_added_twice(added: Added) -> None:
    status, error = added.add(added.place.tokens[0], *added.opening)
    assert (status, f'its token is the member {LABEL}-0 of "{LABEL}" already' in error) == (2, True), error


ADDRESSES = {
    "softhsm": "softhsm is no PKCS #11 URI of a token: it does not begin with pkcs11:",
    "pkcs11:token=a": "pkcs11:token=a: the attribute module-path is missing",
    "pkcs11:token=a?module-path=libsofthsm2.so": "the attribute module-path is not an absolute path",
    f"pkcs11:token=a?module-path={MODULE}&pin-value=98761234": "a URI with pin-value is refused",
    f"pkcs11:token=a?pin-value=98761234&pin-value=98761234&module-path={MODULE}": "pin-value is there twice",
}


@pytest.mark.parametrize("more", [(), ("--disabled",)], ids=["add", "disabled"])
def test_an_address_that_is_none_is_named_without_its_pin(added: Added, more: tuple[str, ...]) -> None:
    for address, sentence in ADDRESSES.items():
        status, error = added("add", address, *more)
        assert (status, sentence in error, "98761234" in error, error.count("\n")) == (2, True, False, 1), error


def test_a_token_that_is_not_initialised_becomes_no_member(added: Added) -> None:
    text = added.place.conf.read_text()
    store = re.findall(r"Slot (\d+)\n(?:(?!Slot ).*\n)*?.*Initialized: +no", _slots(added.token))
    address = f"pkcs11:slot-id={store[0]}?module-path={MODULE}"
    environment = f"SOFTHSM2_CONF={added.token.conf}"
    for more in ((), ("--disabled",)):
        pin = f"file:{added.place.pin}"
        status, error = added("add", address, "--environment", environment, "--pin-source", pin, *more)
        assert (status, error) == (2, f"pyha: slot {store[0]}: the token is not initialised\n")
    assert added.place.conf.read_text() == text


def _slots(token: SoftHSMToken) -> str:
    command = ["softhsm2-util", "--show-slots"]
    shown = subprocess.run(command, env={**os.environ, **token.environment}, check=True, capture_output=True, text=True)
    return shown.stdout


@pytest.mark.usefixtures("nobody_runs")
def test_what_is_kept_stands_beside_what_is_called_the_same(added: Added) -> None:
    """The token held other objects under the names that objects of the group have, one equal to one of the group, and a
    key that must not leave it."""
    key: Template = {
        ck.CKA_CLASS: ck.CKO_SECRET_KEY,
        ck.CKA_KEY_TYPE: ck.CKK_AES,
        ck.CKA_TOKEN: True,
        ck.CKA_ID: b"1",
        ck.CKA_EXTRACTABLE: True,
        ck.CKA_SENSITIVE: False,
    }
    data: Template = {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_TOKEN: True, ck.CKA_LABEL: b"data", ck.CKA_APPLICATION: b"app"}

    def held(token: SoftHSMToken) -> list[tuple[bytes | None, bytes | None]]:
        with application(MODULE, token.environment, token.label, token.pin) as app:
            found = [each for names in ({ck.CKA_ID: b"1"}, {ck.CKA_LABEL: b"data"}) for each in app.find(names)]
            shown = [app.read(each, ck.CKA_LABEL, ck.CKA_VALUE) for each in found]
            return sorted((each[ck.CKA_LABEL], each[ck.CKA_VALUE]) for each in shown)

    with application(module_path(), {"PYHA_CONF": str(added.place.conf)}, LABEL, "1234") as app:
        for label, value in ((b"same", b"G"), (b"equal", b"E")):
            app.create({**key, ck.CKA_LABEL: label, ck.CKA_VALUE: 32 * value})
        app.create({**data, ck.CKA_VALUE: b"group"})
    with application(MODULE, added.token.environment, added.token.label, "1234") as app:
        for label, value in ((b"same", b"F"), (b"equal", b"E")):
            app.create({**key, ck.CKA_LABEL: label, ck.CKA_VALUE: 32 * value})
        app.create({**data, ck.CKA_VALUE: b"foreign"})
        stays = {**key, ck.CKA_LABEL: b"stays", ck.CKA_ID: b"2", ck.CKA_EXTRACTABLE: False, ck.CKA_VALUE: bytes(32)}
        app.create(stays)
    status, error = added.add(added.token, "--existing", "keep", *added.opening)
    assert status == 0, error
    lines = [
        f'pyha: warning: conflict secret key "stays" id 32 on {LABEL}-{index}: it must not leave' for index in (0, 1)
    ]
    assert all(line in error for line in lines), error
    expected = sorted(
        [(b"same", 32 * b"G"), (b"same", 32 * b"F"), (b"equal", 32 * b"E"), (b"data", b"group"), (b"data", b"foreign")]
    )
    assert [held(each) for each in (added.token, *added.place.tokens)] == [expected] * 3
    words = ["--pin-source", f"file:{added.place.pin}", "--dry-run"]
    assert added("sync", *words)[0] == 1, "the key that stays where it is, and nothing else, is left"


@pytest.mark.usefixtures("nobody_runs")
def test_foreign_objects_are_refused_kept_or_destroyed_as_the_operator_says(added: Added) -> None:
    put_foreign_key(added.token)
    status, error = added.add(added.token, *added.opening)
    assert (status, 'holds what the group does not, or otherwise: secret key "foreign" id 01 (' in error) == (
        2,
        True,
    ), error
    assert len(added.group.members) == 2
    assert holds_foreign_key(added.token)
    # The domain keys are there now, and it needs no backup any more.
    status, error = added.add(added.token, "--existing", "remove")
    assert (status, "1 objects were destroyed" in error) == (0, True), error
    assert not holds_foreign_key(added.token)
    assert domain_objects(added.token) == domain_objects(added.place.tokens[0])
    assert added("remove", added.token.label)[0] == 0
    put_foreign_key(added.token)
    assert added.add(added.token, "--existing", "keep")[0] == 0
    assert all(holds_foreign_key(each) for each in (added.token, *added.place.tokens))


@pytest.mark.usefixtures("nobody_runs")
def test_a_member_with_fewer_mechanisms_narrows_the_group_only_where_that_is_allowed(added: Added) -> None:
    before = config.load(str(added.place.conf))
    token = before.groups[0].token
    assert token is not None
    # As if the others offered one mechanism more than SoftHSM does.
    more = replace(token, mechanisms=(*token.mechanisms, replace(token.mechanisms[0], type=0x80000001)))
    wide = replace(before.groups[0], token=more)
    config_write.write(str(added.place.conf), config_write.render(replace(before, groups=(wide,))))
    status, error = added.add(added.token, *added.opening)
    assert (status, "such as 0x80000001" in error) == (2, True), error
    assert added.add(added.token, *added.opening, "--allow-fewer-mechanisms")[0] == 0
    assert added.group.token == token


def test_running_applications_take_a_new_member_in_and_nothing_deleted_comes_back(
    added: Added, monkeypatch: pytest.MonkeyPatch
) -> None:
    added.follow()
    real = introducing.introduce
    with client(module_path(), {"PYHA_CONF": str(added.place.conf)}) as app:
        session = app.logged_in(app.slot_of(LABEL))
        gone = aes_key(app, session, b"gone")
        _, before = ec_pair(app, session, b"before")

        def introduce(*arguments: Any) -> Any:
            """The application deletes what was copied to the new member already, of which it knows nothing yet."""
            steps = real(*arguments)
            assert app.destroy(session, gone) == ck.CKR_OK
            return steps

        monkeypatch.setattr(group_add, "introduce", introduce)
        assert added.add(added.token, *added.opening)[0] == 0
        added.logged(f"member {LABEL}-2 returned")
        _, after = ec_pair(app, session, b"after")
        # The two that founded the group go: the new one has what was made before it came, and after.
        for index in range(2):
            assert added("remove", f"{LABEL}-{index}")[0] == 0
        limit = time.monotonic() + LONGEST
        while helpers(LABEL).keys() != {f"{LABEL}-2"}:
            assert time.monotonic() < limit
            time.sleep(0.02)  # a process that ends elsewhere: there is no event to wait for
        for private in (before, after):
            assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == ck.CKR_OK
        assert app.find(session, {ck.CKA_LABEL: b"gone"}) == (ck.CKR_OK, [])


def test_a_member_that_lost_its_domain_keys_comes_back_when_the_operator_says_so(added: Added) -> None:
    added.follow(RecoverySettings(RecoveryMode.BACKGROUND, interval=0.2))
    broken = added.place.tokens[1]
    delete_domain_objects(broken, "secrkey")
    with client(module_path(), {"PYHA_CONF": str(added.place.conf)}) as app:
        app.logged_in(app.slot_of(LABEL))
        added.logged(f"member {LABEL}-1 lost: not a member any more")
        words = ["--pin-source", f"file:{added.place.pin}", "--config", str(added.place.conf)]
        assert main(["domain", "restore", LABEL, broken.label, *added.opening, *words]) == 0
        assert "recovery attempt" not in added.log.read_text(), "never by itself"
        assert added("recover", broken.label)[0] == 0
        added.logged(f"member {LABEL}-1 returned")


@pytest.mark.usefixtures("nobody_runs")
def test_a_member_that_was_away_is_added_again_and_brings_nothing_back(added: Added) -> None:
    """What was deleted since it went is not to be seen again, unless the operator wants that."""
    assert added.add(added.token, *added.opening)[0] == 0
    environment = {"PYHA_CONF": str(added.place.conf)}
    with client(module_path(), environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        kept, gone = aes_key(app, session, b"kept"), aes_key(app, session, b"gone")
        assert (kept, gone) != (0, 0)
    assert added("remove", added.token.label)[0] == 0
    with client(module_path(), environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        _, (found,) = app.find(session, {ck.CKA_LABEL: b"gone"})
        assert app.destroy(session, found) == ck.CKR_OK
    status, error = added.add(added.token)
    assert (status, 'secret key "gone"' in error) == (2, True), error
    assert added.add(added.token, "--existing", "remove")[0] == 0
    for index in range(2):
        assert added("remove", f"{LABEL}-{index}")[0] == 0
    with client(module_path(), environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        assert len(app.find(session, {ck.CKA_LABEL: b"kept"})[1]) == 1
        assert app.find(session, {ck.CKA_LABEL: b"gone"})[1] == []


@pytest.mark.usefixtures("nobody_runs")
def test_a_resync_that_fails_leaves_the_configuration_as_it_was(added: Added, monkeypatch: pytest.MonkeyPatch) -> None:
    before = added.group

    def introduce(*arguments: Any) -> Any:
        raise NotServable("a member was lost")

    monkeypatch.setattr(group_add, "introduce", introduce)
    assert added.add(added.token, *added.opening) == (2, "pyha: a member was lost\n")
    assert added.group == before


@pytest.mark.usefixtures("nobody_runs")
def test_a_host_knows_of_a_member_that_another_host_fills(added: Added, tmp_path: Path) -> None:
    """What an application of that host deletes meanwhile does not come back with the new member."""
    there = tmp_path / "other-host" / "pyha.toml"
    there.parent.mkdir(mode=0o700)
    there.write_text(added.place.conf.read_text())
    there.chmod(0o600)
    address = f"pkcs11:token={added.token.label}?module-path={added.token.module}"
    words = ["group", "add", LABEL, address, "--environment", f"SOFTHSM2_CONF={added.token.conf}"]
    assert main([*words, "--disabled", "--config", str(there)]) == 0
    (group,) = config.load(str(there)).groups
    new = group.members[-1]
    assert (new.uri.serial, new.enabled) == (added.token.serial, False)
    assert (len(added.group.members), domain_objects(added.token)) == (2, []), "nothing else is touched"
    with client(module_path(), {"PYHA_CONF": str(there)}) as app:
        session = app.logged_in(app.slot_of(LABEL))
        assert aes_key(app, session, b"stays")
        gone = aes_key(app, session, b"gone")
        real = introducing.introduce

        def introduce(*arguments: Any) -> Any:
            steps = real(*arguments)
            assert app.destroy(session, gone) == ck.CKR_OK
            return steps

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(group_add, "introduce", introduce)
            assert added.add(added.token, *added.opening)[0] == 0
    assert main(["group", "enable", LABEL, new.name, "--config", str(there)]) == 0
    assert "gone" in objects(added.token), "it was copied before it was deleted"
    sync = ["group", "sync", LABEL, "--pin-source", f"file:{added.place.pin}", "--config"]
    for conf in (added.place.conf, there):
        assert main([*sync, str(conf)]) == 0
    assert ["gone" in objects(each) for each in (added.token, *added.place.tokens)] == [False] * 3
    assert ["stays" in objects(each) for each in (added.token, *added.place.tokens)] == [True] * 3


@pytest.mark.usefixtures("nobody_runs")
def test_disabled_only_writes_the_configuration(added: Added) -> None:
    status, error = added.add(added.token, "--disabled", *added.opening)
    assert (status, "--disabled only writes the member into the configuration" in error) == (2, True), error
    assert len(added.group.members) == 2
    for _ in range(2):
        assert added.add(added.token, "--disabled", "--standby") == (0, "")
    assert [each.enabled for each in added.group.members] == [True, True, False]
    # What it was meant to be it stays.
    assert added.add(added.token, *added.opening) == (0, "")
    assert [each.enabled for each in added.group.members] == [True] * 3
    assert [each.role for each in added.group.members] == [Role.ACTIVE, Role.ACTIVE, Role.STANDBY]


def between(monkeypatch: pytest.MonkeyPatch, what: Callable[[], None]) -> None:
    """Another administrator does something right before the next command writes the configuration."""
    real = config_edit.edit

    def edit(path: str, change: config_edit.Change) -> Configuration:
        monkeypatch.setattr(config_edit, "edit", real)
        what()
        return real(path, change)

    monkeypatch.setattr(config_edit, "edit", edit)


def test_of_two_that_make_members_known_at_once_none_is_lost(added: Added, monkeypatch: pytest.MonkeyPatch) -> None:
    namesake = SoftHSM(added.place.directory / "other").token(added.token.label)
    between(monkeypatch, lambda: _done(added.add(namesake, "--disabled")))
    assert added.add(added.token, "--disabled") == (0, "")
    serials = [each.uri.serial for each in added.group.members[2:]]
    assert serials == [namesake.serial, added.token.serial]
    names = [each.name for each in added.group.members[2:]]
    assert names == [added.token.label, f"{added.token.label}-{added.token.serial}"]
    # The same token twice is one member.
    assert added("remove", namesake.serial)[0] == added("remove", added.token.serial)[0] == 0
    between(monkeypatch, lambda: _done(added.add(added.token, "--disabled")))
    assert added.add(added.token, "--disabled") == (0, "")
    assert [each.uri.serial for each in added.group.members[2:]] == [added.token.serial]


def _done(outcome: tuple[int, str]) -> None:
    assert outcome == (0, "")


@pytest.mark.usefixtures("nobody_runs")
def test_what_others_change_while_a_token_is_filled_stays(added: Added, monkeypatch: pytest.MonkeyPatch) -> None:
    namesake = SoftHSM(added.place.directory / "other").token(f"{LABEL}-other")
    real = introducing.introduce
    meanwhile: list[Callable[[], None]] = []

    def introduce(*arguments: Any) -> Any:
        outcome = real(*arguments)
        meanwhile.pop()()
        return outcome

    def changed() -> None:
        status, error = added.add(namesake, *added.opening)
        assert (status, "another command makes tokens members in" in error) == (2, True), error
        _done(added.add(namesake, "--disabled"))
        _done(added("standby", f"{LABEL}-1"))
        _done(added("standby", added.token.label))

    monkeypatch.setattr(group_add, "introduce", introduce)
    meanwhile.append(changed)
    assert added.add(added.token, *added.opening)[0] == 0
    members = [(each.name, each.role, each.enabled) for each in added.group.members]
    assert members == [
        (f"{LABEL}-0", Role.ACTIVE, True),
        (f"{LABEL}-1", Role.STANDBY, True),
        (f"{LABEL}-2", Role.STANDBY, True),
        (f"{LABEL}-other", Role.ACTIVE, False),
    ]
    # Who takes the member out again meanwhile has the last word.
    _done(added("remove", added.token.label))
    meanwhile.append(lambda: _done(added("remove", added.token.label)))
    expected = f'pyha: {added.token.label} was taken out of "{LABEL}" by somebody else meanwhile\n'
    assert added.add(added.token) == (2, expected)
    assert [each.name for each in added.group.members] == [f"{LABEL}-0", f"{LABEL}-1", f"{LABEL}-other"]


KILLED = """
import os, signal, sys
from pyha.cli import config_edit, domain_restore, group_add
from pyha.runtime import restoring
group_add.FOLLOWED = 0.0
module, name, count, when = sys.argv[1:5]
where = {"group_add": group_add, "config_edit": config_edit, "restoring": restoring}[module]
real, calls = getattr(where, name), 0
def killed(*arguments, **more):
    global calls
    calls += 1
    if when == "before" and calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*arguments, **more)
    if when == "after" and calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(where, name, killed)
from pyha.cli.main import main
sys.exit(main(sys.argv[5:]))
"""


@pytest.mark.usefixtures("nobody_runs")
@pytest.mark.parametrize(
    ("module", "name", "count", "when"),
    [
        ("group_add", "_domain_keys", 1, "after"),
        ("config_edit", "edit", 1, "after"),
        ("group_add", "introduce", 1, "after"),
        ("config_edit", "edit", 2, "before"),
    ],
)
def test_killed_at_any_step_it_is_run_again(added: Added, module: str, name: str, count: int, when: str) -> None:
    with client(module_path(), {"PYHA_CONF": str(added.place.conf)}) as app:
        session = app.logged_in(app.slot_of(LABEL))
        aes_key(app, session, b"key")
    address = f"pkcs11:token={added.token.label}?module-path={added.token.module}"
    words = ["group", "add", LABEL, address, "--pin-source", f"file:{added.place.pin}", *added.opening]
    words += ["--environment", f"SOFTHSM2_CONF={added.token.conf}", "--config", str(added.place.conf)]
    killed = subprocess.run([sys.executable, "-c", KILLED, module, name, str(count), when, *words], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert all(each.enabled for each in added.group.members[:2])
    assert [each.enabled for each in added.group.members[2:]] in ([], [False]), "it does not serve"
    assert added.add(added.token, *added.opening)[0] == 0
    assert [each.enabled for each in added.group.members] == [True] * 3
    assert domain_objects(added.token) == domain_objects(added.place.tokens[0])
    assert objects(added.token).count("key") == objects(added.place.tokens[0]).count("key")
