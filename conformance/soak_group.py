"""The group of `make soak`: four SoftHSM tokens, one of them standby, each behind `pyha-chaos.so` and a counter of
sessions; what is done to its members, and what can be seen of them from outside.

Knows commands, the configuration, /proc and published status; nothing of the load.
"""

import hashlib
import os
import signal
import subprocess
from collections import Counter
from contextlib import AbstractContextManager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from conformance import tree
from conformance.burst import helper_of
from conformance.stage import Unexpected
from conformance.targets import SOFTHSM, clean_environment
from pyha.abi.native import module_path
from pyha.cli import chaos_plan, config_write
from pyha.cli.main import main as pyha
from pyha.cli.status_reader import Reader
from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings
from pyha.ha.status import MemberView
from pyha.runtime import config
from pyha.runtime.settings import LogLevel, MemberSettings
from tests.application import Application, application
from tests.softhsm import file_of, strike

ACTIVE = ("hsm-a", "hsm-b", "hsm-c")
STANDBY = "hsm-s"
MEMBERS = (*ACTIVE, STANDBY)
PIN = "1234"
DEADLINE = 2.0
RECOVERY = RecoverySettings(RecoveryMode.BACKGROUND, interval=1.0, attempts=-1)

_IDENTITY = (ck.CKA_CLASS, ck.CKA_LABEL, ck.CKA_ID)

Inventory = Counter[tuple[bytes | None, ...]]
"""Class, label, id, and for a data object the SHA-256 of its value -> how many of them a token holds."""


@dataclass(frozen=True, slots=True)
class Process:
    """What a process holds. `memory`: resident MiB. `sessions`: of the module inside a helper."""

    descriptors: int
    threads: int
    memory: float
    sessions: int = 0


class SoakGroup:
    """The group, in a directory of its own. Raises CalledProcessError where a command fails."""

    def __init__(self, directory: Path, deadline: float = DEADLINE) -> None:
        """`deadline`: seconds, of an ordinary call on one member."""
        self.directory = directory
        self.deadline = deadline
        self.label = f"soak-{os.getpid()}"
        self.module = module_path()
        self.log = directory / "pyha.log"
        (directory / "tokens").mkdir()
        (directory / "sessions").mkdir()
        softhsm = directory / "softhsm2.conf"
        softhsm.write_text(f"directories.tokendir = {directory / 'tokens'}\nlog.level = ERROR\n")
        self.plain = {"SOFTHSM2_CONF": str(softhsm)}
        conf = str(directory / "pyha.toml")
        changes = {**self.plain, "PYHA_CONF": conf, "XDG_RUNTIME_DIR": str(directory), "PIN": PIN}
        self.environment = clean_environment(directory, changes)
        for member in MEMBERS:
            self._run(
                "softhsm2-util", "--init-token", "--free", "--label", member, "--pin", PIN, "--so-pin", "12345678"
            )
        *uris, standby = [f"pkcs11:token={member}?module-path={SOFTHSM}" for member in MEMBERS]
        setting = f"SOFTHSM2_CONF={softhsm}"
        self._run(
            *tree.PYHA,
            "group",
            "create",
            self.label,
            *uris,
            "--standby",
            standby,
            "--pin-source",
            "env:PIN",
            "--environment",
            setting,
        )
        self._compile()
        written = config.load(conf)
        (group,) = written.groups
        members = tuple(self._behind(member) for member in group.members)
        group = replace(group, members=members, deadline=deadline, recovery=RECOVERY)
        changed = replace(written, groups=(group,), log=f"file:{self.log}", log_level=LogLevel.NOTICE)
        config_write.write(conf, config_write.render(changed))
        self._reader = Reader([str(directory / "pyha")])
        tokens = directory / "tokens"
        self._files = {each.name: file_of(tokens, each.uri.serial or "") for each in members}
        self._tokens = {path: path.read_bytes() for path in self._files.values()}

    def _run(self, *command: str) -> None:
        subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=120)

    def _compile(self) -> None:
        source, made = Path(__file__).with_name("counting.c"), self.directory / "counting.so"
        flags = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-I/usr/include/p11-kit-1")
        self._run("cc", *flags, str(source), "-o", str(made))

    def _behind(self, member: MemberSettings) -> MemberSettings:
        self.plan(member.name, "set", f"module {self.directory / 'counting.so'}")
        added = {
            "PYHA_CHAOS_PLAN": str(self.directory / member.name),
            "COUNTING_MODULE": SOFTHSM,
            "COUNTING_FILE": f"{self.directory / 'sessions'}/",
        }
        uri = replace(member.uri, module_path=chaos_plan.chaos_module())
        return replace(member, uri=uri, environment={**member.environment, **added})

    # -- what is done -------------------------------------------------------------------------------------------

    def plan(self, member: str, action: str, *words: str) -> None:
        """`pyha chaos ACTION` on the member's plan. Raises Unexpected."""
        with redirect_stdout(StringIO()):
            status = pyha(["chaos", action, str(self.directory / member), *words])
        if status != 0:
            raise Unexpected(f"pyha chaos {action} refused {words}")

    def send(self, process: int, member: str, number: signal.Signals) -> bool:
        """A signal for the helper of a member: whether there was one."""
        helper = self._helper(process, member)
        if helper is None:
            return False
        try:
            strike(self._files[member], helper, number, limit=1.0)
        except (ProcessLookupError, TimeoutError):
            return False
        return True

    def _helper(self, process: int, member: str) -> int | None:
        try:
            return helper_of(process, f"{self.label}/{member}")
        except (Unexpected, OSError):
            return None

    def restore(self) -> int:
        """Give back what SoftHSM itself destroys: it empties a token's file before it writes it anew, at each
        login too, and whoever is killed in between leaves no token. How many there were."""
        broken = [path for path, content in self._tokens.items() if path.stat().st_size < len(content)]
        for path in broken:
            path.write_bytes(self._tokens[path])
        return len(broken)

    def inventories(self) -> dict[str, Inventory]:
        """What every member's token holds, looked at without anything of ours."""
        found = {}
        for member in MEMBERS:
            with self._at(member) as one:
                found[member] = inventory(one)
        return found

    def _at(self, member: str) -> AbstractContextManager[Application]:
        return application(SOFTHSM, self.plain, member, PIN)

    # -- what is seen -------------------------------------------------------------------------------------------

    def members(self, process: int) -> dict[str, MemberView]:
        """As the process has published them; empty before it has."""
        for seen in self._reader.look():
            if seen.view.pid == process:
                return {member.name: member for member in seen.view.members}
        return {}

    def out(self, process: int) -> list[str]:
        """Members that are not in, or that nobody has needed since their helpers ended: so they seem to be."""
        seen = self.members(process)
        states = {name: seen[name].state.value if name in seen else "" for name in MEMBERS}
        return [name for name in MEMBERS if states[name] != "in" or self._helper(process, name) is None]

    def helpers(self) -> dict[int, Process]:
        """Every helper of this group, whoever it belongs to."""
        found = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                words = (entry / "cmdline").read_text().rstrip("\0").split("\0") if entry.name.isdigit() else [""]
                if words[-1].startswith(f"{self.label}/"):
                    found[int(entry.name)] = measure(int(entry.name), self.directory / "sessions")
        return found


def measure(process: int, sessions: Path | None = None) -> Process:
    """Look at a process. Raises OSError where it is gone."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":" in line
    )
    memory = int(status.get("VmRSS", "0 kB").split()[0]) / 1024
    count = 0
    if sessions is not None and (sessions / str(process)).exists():
        count = int((sessions / str(process)).read_text())
    try:
        descriptors = len(os.listdir(f"/proc/{process}/fd"))
    except PermissionError:
        descriptors = 0  # a helper is not dumpable: its descriptors are root's to see
    return Process(descriptors, int(status["Threads"]), memory, count)


def identity(app: Application, handle: int) -> tuple[bytes | None, ...]:
    """What an object is known by on every token."""
    values = app.read(handle, *_IDENTITY)
    content = None
    if values[ck.CKA_CLASS] == ck.CKO_DATA.to_bytes(8, "little"):
        value = app.read(handle, ck.CKA_VALUE)[ck.CKA_VALUE]
        content = hashlib.sha256(value or b"").digest()
    return (*values.values(), content)


def inventory(app: Application) -> Inventory:
    """All objects of a token. Not what SoftHSM shows as session objects of nobody: it first writes the file of a token
    object without what it was given, and with CKA_TOKEN false, and that stays where its writer is killed in between."""
    return Counter(identity(app, handle) for handle in app.find({ck.CKA_TOKEN: True}))
