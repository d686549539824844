"""`pyha group add` on real tokens: what it takes for a token to become a member, and what running applications make of
it."""

import os
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
from pyha.cli import config_write, group_add, introducing
from pyha.cli.main import main
from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings, Role
from pyha.runtime import config
from pyha.runtime.domain_keys import NotServable
from pyha.runtime.settings import GroupSettings, LogLevel
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
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_mistakes_are_named(added: Added, more: tuple[str, ...], sentence: str) -> None:
    status, error = added.add(added.token, *more)
    assert (status, sentence in error) == (2, True), error


def test_a_member_cannot_be_added_twice(added: Added) -> None:
    status, error = added.add(added.place.tokens[0], *added.opening)
    assert (status, f'its token is the member {LABEL}-0 of "{LABEL}" already' in error) == (2, True), error


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

        def introduce(*arguments: Any) -> int:
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

    def introduce(*arguments: Any) -> int:
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

        def introduce(*arguments: Any) -> int:
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


def test_disabled_only_writes_the_configuration(added: Added) -> None:
    status, error = added.add(added.token, "--disabled", *added.opening)
    assert (status, "--disabled only writes the member into the configuration" in error) == (2, True), error
    assert len(added.group.members) == 2
    for _ in range(2):
        assert added.add(added.token, "--disabled") == (0, "")
    assert [each.enabled for each in added.group.members] == [True, True, False]


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
