"""A configured group over real SoftHSM tokens, for tests of the built module."""

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pyha.abi.native import module_path
from pyha.cli import config_write
from pyha.cli.main import main
from pyha.ha.settings import Isolation, RecoveryMode, RecoverySettings, Unreplicable
from pyha.runtime import config
from tests.application import Application, application
from tests.softhsm import SoftHSM, SoftHSMToken

DEMO = f"demo-{os.getpid()}"
"""Of this process alone: tests find the helpers of a group by its label, and others may run at the same time."""
NO_RECOVERY = RecoverySettings(RecoveryMode.MANUAL, attempts=0)
"""A lost member stays lost: what a test sees after a loss is then its doing."""


@dataclass(frozen=True)
class TestGroup:
    """A group. `conf`: its configuration file. `module`: ours. `log`: the file that the module logs to."""

    __test__ = False

    conf: Path
    module: str
    label: str
    pin: str
    tokens: tuple[SoftHSMToken, ...]
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be set to use the group."""
        return {"PYHA_CONF": str(self.conf)}

    def application(self, pin: str | None = "") -> AbstractContextManager[Application]:
        """A logged-in application of the group. `pin` None: without login."""
        return application(self.module, self.environment, self.label, self.pin if pin == "" else pin)

    def member(self, index: int) -> AbstractContextManager[Application]:
        """A logged-in application of one member's plain module, without anything of ours."""
        token = self.tokens[index]
        return application(token.module, token.environment, token.label, token.pin)

    def reconfigure(self, change: Callable[[Any], Any]) -> None:
        """Write the configuration anew with the GroupSettings that `change` makes of the old."""
        before = config.load(str(self.conf))
        groups = tuple(change(group) for group in before.groups)
        config_write.write(str(self.conf), config_write.render(replace(before, groups=groups)))

    def only(self, *indices: int) -> None:
        """From now on only these members are enabled."""

        def change(group: Any) -> Any:
            members = tuple(replace(each, enabled=at in indices) for at, each in enumerate(group.members))
            return replace(group, members=members)

        self.reconfigure(change)

    def put_module(self, index: int, module: str, environment: Mapping[str, str]) -> None:
        """Another module for one member, with this added to its helper's environment."""

        def change(group: Any) -> Any:
            members = list(group.members)
            old = members[index]
            members[index] = replace(
                old, uri=replace(old.uri, module_path=module), environment={**old.environment, **environment}
            )
            return replace(group, members=tuple(members))

        self.reconfigure(change)

    def logged(self) -> str:
        """All that the module has logged."""
        return self.log.read_text() if self.log.exists() else ""


@dataclass(frozen=True)
class _Kept:
    """A group that was made once, to be copied: its RSA domain keys take seconds."""

    directory: Path
    tokens: tuple[SoftHSMToken, ...]


def _create(directory: Path, members: int, standby: int, label: str, arguments: tuple[str, ...] = ()) -> _Kept:
    hsm = SoftHSM(directory / "softhsm")
    tokens = tuple(hsm.token(f"{label}-{index}") for index in range(members + standby))
    uris = [f"pkcs11:token={token.label}?module-path={token.module}" for token in tokens]
    conf = directory / "pyha.toml"
    environment = [f"{name}={value}" for name, value in tokens[0].environment.items()]
    words = ["group", "create", label, *uris[:members], "--pin-source", "env:TEST_PIN", "--config", str(conf)]
    words += [word for uri in uris[members:] for word in ("--standby", uri)]
    words += [word for setting in environment for word in ("--environment", setting)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TEST_PIN", tokens[0].pin)
        assert main([*words, *arguments]) == 0
    return _Kept(directory, tokens)


def _copy(kept: _Kept, directory: Path) -> _Kept:
    shutil.copytree(kept.directory, directory)
    for path in (directory / "pyha.toml", *directory.glob("softhsm/*/softhsm2.conf")):
        path.write_text(path.read_text().replace(str(kept.directory), str(directory)))
    tokens = tuple(replace(token, conf=directory / token.conf.relative_to(kept.directory)) for token in kept.tokens)
    return _Kept(directory, tokens)


_kept_groups: dict[tuple[int, int, str], _Kept] = {}


@pytest.fixture
def group(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TestGroup]:
    """A factory: `group(members=3, standby=0, isolation="process", unreplicable="refuse")` -> TestGroup."""
    return _factory(tmp_path, tmp_path_factory)


@pytest.fixture(scope="module")
def group_of_module(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TestGroup]:
    """The same for tests that can share one."""
    return _factory(tmp_path_factory.mktemp("groups"), tmp_path_factory)


def _factory(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TestGroup]:
    made = 0

    def make(
        members: int = 3,
        standby: int = 0,
        isolation: str = "process",
        unreplicable: str = "refuse",
        label: str = DEMO,
        arguments: tuple[str, ...] = (),
        recovery: RecoverySettings = NO_RECOVERY,
    ) -> TestGroup:
        nonlocal made
        made += 1
        directory = tmp_path / f"group-{made}"
        if arguments:
            directory.mkdir(mode=0o700)
            own = _create(directory, members, standby, label, arguments)
        else:
            key = (members, standby, label)
            if key not in _kept_groups:
                _kept_groups[key] = _create(tmp_path_factory.mktemp("kept"), members, standby, label)
            own = _copy(_kept_groups[key], directory)
        log = directory / "log"
        result = TestGroup(directory / "pyha.toml", module_path(), label, own.tokens[0].pin, own.tokens, log)
        written = replace(config.load(str(result.conf)), log=f"file:{log}")
        config_write.write(str(result.conf), config_write.render(written))
        result.reconfigure(
            lambda settings: replace(
                settings,
                isolation=Isolation(isolation),
                unreplicable=Unreplicable(unreplicable),
                recovery=recovery,
            )
        )
        return result

    return make
