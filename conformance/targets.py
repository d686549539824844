"""What clients are shown: a plain token, a group of three, and a group of three of which one is about to die.

Knows SoftHSM's and pyha's commands; nothing of clients.
"""

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from conformance import tree
from pyha.cli import config_write
from pyha.ha.settings import Unreplicable
from pyha.runtime import config
from pyha.runtime.settings import GroupSettings, MemberSettings

SOFTHSM = next(
    (
        path
        for path in (
            "/usr/lib/softhsm/libsofthsm2.so",
            "/usr/lib64/pkcs11/libsofthsm2.so",
            "/usr/local/lib/softhsm/libsofthsm2.so",
        )
        if os.path.exists(path)
    ),
    "",
)
LABEL, PIN, SO_PIN = "conformance", "1234", "12345678"
MEMBERS = ("hsm-a", "hsm-b", "hsm-c")
PLAIN, AGAIN, GROUP, LOSS = "softhsm", "again", "group", "loss"
"""AGAIN: plain SoftHSM a second time, to know which outcomes are its own chance."""
TARGETS = (PLAIN, AGAIN, GROUP, LOSS)

_FOREIGN = (
    "GNUTLS_",
    "OPENSSL_",
    "P11_KIT_",
    "PKCS11",
    "PYHA_",
    "PYTHON",
    "SOFTHSM2_",
    "JAVA_",
    "JDK_",
    "NODE_",
    "NSS_",
)
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
"""Where clients are looked for: servers are not in a user's."""

_SPREAD = 12
"""A member dies at one of its first so many calls with a session: logins, searches, copies and operations."""


@dataclass(frozen=True, slots=True)
class Target:
    """A token for a client. `slot`: its id. `environment`: what a process needs to reach it, whole. `directory`: where
    its store and configuration are."""

    name: str
    module: str
    label: str
    pin: str
    so_pin: str
    serial: str
    slot: int
    directory: Path
    environment: Mapping[str, str]

    def variables(self) -> dict[str, str]:
        """For command lines and files of suites."""
        return {
            "MODULE": self.module,
            "TOKEN": self.label,
            "PIN": self.pin,
            "SO_PIN": self.so_pin,
            "SERIAL": self.serial,
            "SLOT": str(self.slot),
            "PYTHON_COMMAND": sys.executable,
        }

    def plan_loss(self, step: str, changes: bool) -> None:
        """Let a member die in the processes of this step: the first where nothing is written, else the last.

        While no returning member is resynchronised, the one that missed something must be the one that is asked last.
        """
        if self.name == LOSS:
            victim = MEMBERS[-1] if changes else MEMBERS[0]
            count = 1 + zlib.crc32(step.encode()) % _SPREAD
            (self.directory / "plan").write_text(f"{victim} {count}\n")

    def plan_none(self) -> None:
        """No member dies by itself."""
        (self.directory / "plan").unlink(missing_ok=True)

    def resynchronise(self) -> None:
        """As an operator does after a loss: a member that missed something is not in before, and what needs all of them
        is refused. Raises RuntimeError."""
        if "PYHA_CONF" in self.environment:
            self.plan_none()
            sync = [*tree.PYHA, "group", "sync", self.label, "--pin-source", "env:MEMBERS_PIN"]
            _run(sync, {**self.environment, "MEMBERS_PIN": self.pin})

    def deaths(self) -> int:
        """How many helpers have died by plan so far."""
        log = self.directory / "deaths"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def logged(self) -> str:
        """All that the module has logged."""
        log = self.directory / "pyha.log"
        return log.read_text() if log.exists() else ""


def clean_environment(home: Path, changes: Mapping[str, str]) -> dict[str, str]:
    """The user's environment without what would mislead a client."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**kept, "PATH": PATH, "HOME": str(home), "LC_ALL": "C.UTF-8", "TZ": "UTC", **changes}


def make(name: str, directory: Path, pinned: bool = False) -> Target:
    """New tokens, and the group over them; `pinned`: what cannot be cloned is kept on one member. Takes about a second.
    Raises RuntimeError."""
    (directory / "tokens").mkdir(parents=True)
    conf = directory / "softhsm2.conf"
    # Without reset_on_fork a forked child cannot initialise SoftHSM again: its documented setting for such clients.
    conf.write_text(
        f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
        "library.reset_on_fork = true\n"
    )
    environment = clean_environment(directory, {"SOFTHSM2_CONF": str(conf)})
    if name in (PLAIN, AGAIN):
        _init_token(LABEL, environment)
        serial, slot = _identity(SOFTHSM, environment)
        return Target(name, SOFTHSM, LABEL, PIN, SO_PIN, serial, slot, directory, environment)
    for member in MEMBERS:
        _init_token(member, environment)
    environment["PYHA_CONF"] = str(directory / "pyha.toml")
    _make_group(directory, environment)
    if pinned:
        _change(environment["PYHA_CONF"], lambda group: replace(group, unreplicable=Unreplicable.PIN))
    if name == LOSS:
        _make_mortal(directory, environment["PYHA_CONF"])
    module = tree.module()
    serial, slot = _identity(module, environment)
    return Target(name, module, LABEL, PIN, SO_PIN, serial, slot, directory, environment)


def _make_group(directory: Path, environment: dict[str, str]) -> None:
    uris = [f"pkcs11:token={member}?module-path={SOFTHSM}" for member in MEMBERS]
    _run(
        [
            *(*tree.PYHA, "group", "create", LABEL, *uris, "--pin-source", "env:MEMBERS_PIN"),
            *("--environment", f"SOFTHSM2_CONF={environment['SOFTHSM2_CONF']}"),
        ],
        {**environment, "MEMBERS_PIN": PIN},
    )
    conf = Path(environment["PYHA_CONF"])
    conf.write_text(conf.read_text() + f'\n[log]\nto = "file:{directory}/pyha.log"\nlevel = "notice"\n')


def _change(conf: str, how: Callable[[GroupSettings], GroupSettings]) -> None:
    before = config.load(conf)
    (group,) = before.groups
    config_write.write(conf, config_write.render(replace(before, groups=(how(group),))))


def _make_mortal(directory: Path, conf: str) -> None:
    """Put the module that dies in front of every member's."""
    faulty = _compile_faulty(directory)

    def mortal(member: MemberSettings) -> MemberSettings:
        environment = {
            **member.environment,
            "FAULTY_MODULE": SOFTHSM,
            "FAULTY_NAME": member.name,
            "FAULTY_PLAN": str(directory / "plan"),
            "FAULTY_LOG": str(directory / "deaths"),
        }
        return replace(member, uri=replace(member.uri, module_path=faulty), environment=environment)

    _change(conf, lambda group: replace(group, members=tuple(mortal(member) for member in group.members)))


def _compile_faulty(directory: Path) -> str:
    source, made = Path(__file__).with_name("faulty.c"), directory / "faulty.so"
    command = ["cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-I/usr/include/p11-kit-1"]
    _run([*command, str(source), "-o", str(made)], dict(os.environ))
    return str(made)


def _init_token(label: str, environment: dict[str, str]) -> None:
    _run(
        ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN],
        environment,
    )


def _identity(module: str, environment: dict[str, str]) -> tuple[str, int]:
    """Serial and slot id of the token that the client will use."""
    listed = _run(["pkcs11-tool", "--module", module, "--list-token-slots"], environment)
    found = re.search(
        rf"\((0x[0-9a-f]+)\)(?:(?!\nSlot ).)*token label +: {LABEL}\n.*?serial num +: (\S+)", listed, re.S
    )
    if found is None:
        raise RuntimeError(f"no token {LABEL}:\n{listed}")
    return found[2], int(found[1], 16)


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
