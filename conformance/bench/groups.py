"""SoftHSM stores and groups over their tokens, for measurements: in a directory of their own, with no user's settings.

Knows SoftHSM's and pyha's commands; nothing of what is measured.
"""

import io
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

from conformance import tree
from conformance.bench.driver import Driver
from pyha.cli import chaos_plan, config_write
from pyha.cli.main import main as pyha
from pyha.runtime import config
from pyha.runtime.settings import GroupSettings, LogLevel, MemberSettings

PIN, SO_PIN, TOKEN = "1234", "12345678", "bench"
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"

_FOREIGN = ("P11_KIT_", "PKCS11", "PYHA_", "PYTHON", "SOFTHSM2_")


@dataclass(frozen=True, slots=True)
class Target:
    """A module, a token, and the environment to reach it. `servers`: processes that serve beside the helpers."""

    name: str
    module: str
    environment: Mapping[str, str]
    servers: Sequence[int] = ()

    def driver(self, program: Path) -> Driver:
        """A new process that has loaded nothing yet."""
        return Driver([str(program), self.module, TOKEN, PIN], self.environment)


def make_store(directory: Path, tokens: Sequence[str], fill: Callable[[Path], None] | None = None) -> dict[str, str]:
    """A SoftHSM store with these tokens, if it is not there yet; the environment that shows it. `fill` is given the
    directory of each new token. Raises RuntimeError."""
    conf = directory / "softhsm2.conf"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    environment = {**kept, "HOME": str(directory), "SOFTHSM2_CONF": str(conf), "XDG_CONFIG_HOME": f"{directory}/xdg"}
    if conf.exists():
        return environment
    (directory / "tokens").mkdir(parents=True)
    conf.write_text(f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    for token in tokens:
        before = set((directory / "tokens").iterdir())
        command = ["softhsm2-util", "--init-token", "--free", "--label", token, "--pin", PIN, "--so-pin", SO_PIN]
        run(command, environment)
        (made,) = set((directory / "tokens").iterdir()) - before
        if fill is not None:
            fill(made)
    return environment


def member_names(count: int) -> list[str]:
    """Labels of a group's tokens, which are their members' names."""
    return [f"member-{index + 1}" for index in range(count)]


def make_group(directory: Path, count: int, environment: Mapping[str, str]) -> Path:
    """The configuration of a group over the tokens of `member_names`, if it is not there yet. Raises RuntimeError."""
    made = directory / "pyha.toml"
    if not made.exists():
        uris = [f"pkcs11:token={member}?module-path={SOFTHSM}" for member in member_names(count)]
        create = [*tree.PYHA, "group", "create", TOKEN, *uris, "--pin-source", "env:MEMBERS_PIN"]
        create += ["--environment", f"SOFTHSM2_CONF={environment['SOFTHSM2_CONF']}"]
        run(create, {**environment, "PYHA_CONF": str(made), "MEMBERS_PIN": PIN})
    return made


def rewrite(
    written: Path,
    conf: Path,
    change: Callable[[GroupSettings], GroupSettings],
    log: str = "stderr",
    level: LogLevel = LogLevel.WARNING,
) -> None:
    """A configuration with another group, in place of the file `conf`."""
    before = config.load(str(written))
    (group,) = before.groups
    conf.unlink(missing_ok=True)
    config_write.write(
        str(conf), config_write.render(replace(before, groups=(change(group),), log=log, log_level=level))
    )


class Rehearsal:
    """A group whose members each obey a plan of `pyha-chaos.so`, which has no entry yet."""

    def __init__(self, directory: Path, count: int) -> None:
        """Makes it all. Raises RuntimeError."""
        self.directory = directory
        self._environment = make_store(directory, member_names(count))
        self._made = make_group(directory, count, self._environment)
        for name in member_names(count):
            self.plan(name, "set", f"module {SOFTHSM}")

    def target(self, name: str, change: Callable[[GroupSettings], GroupSettings] = lambda group: group) -> Target:
        """The group with some settings changed; its log goes to a file. `name`: of the target, new for each."""
        conf = self.directory / f"{name}.toml"

        def rehearsed(group: GroupSettings) -> GroupSettings:
            return change(replace(group, members=tuple(self._behind(member) for member in group.members)))

        rewrite(self._made, conf, rehearsed, log=f"file:{self.directory}/pyha.log")
        return Target(name, tree.module(), {**self._environment, "PYHA_CONF": str(conf)})

    def plan(self, member: str, action: str, *words: str) -> None:
        """`pyha chaos ACTION` on a member's plan. Raises RuntimeError."""
        with redirect_stdout(io.StringIO()):
            if pyha(["chaos", action, str(self.directory / f"{member}.plan"), *words]) != 0:
                raise RuntimeError(f"pyha chaos {action} refused {words}")

    def _behind(self, member: MemberSettings) -> MemberSettings:
        environment = {**member.environment, "PYHA_CHAOS_PLAN": str(self.directory / f"{member.name}.plan")}
        uri = replace(member.uri, module_path=chaos_plan.chaos_module())
        return replace(member, uri=uri, environment=environment)


def run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What a command writes. Raises RuntimeError where it fails."""
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
