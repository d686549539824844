"""What is measured: SoftHSM itself, and the ways to it.

Everything is made in a temporary directory, in memory where the machine has such a file system: it is not the disk
that is measured. Each target has a store of its own kind twice: with the keys alone, and with many data objects.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from conformance.bench.driver import Driver
from conformance.bench.result import DIRECT
from pyha.cli import config_write
from pyha.ha.settings import Isolation
from pyha.runtime import config

PIN, SO_PIN, TOKEN = "1234", "12345678", "bench"
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
PROXY = ("/usr/lib/x86_64-linux-gnu/p11-kit-proxy.so", "/usr/lib64/p11-kit-proxy.so")
CLIENT = ("/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so", "/usr/lib64/pkcs11/p11-kit-client.so")

PROXIED, REMOTE = "p11-kit-proxy", "p11-kit remote"
SLOTS = {
    "slot 1, none": (1, Isolation.NONE),
    "slot 3, none": (3, Isolation.NONE),
    "slot 1, process": (1, Isolation.PROCESS),
    "slot 3, process": (3, Isolation.PROCESS),
}
TARGETS = (DIRECT, PROXIED, REMOTE, *SLOTS)

_FOREIGN = ("P11_KIT_", "PKCS11", "PYHA_", "PYTHON", "SOFTHSM2_")


class Unusable(Exception):
    """A target cannot be set up here: one sentence."""


@dataclass(frozen=True, slots=True)
class Target:
    """A module, a token, and the environment to reach it. `servers`: processes that serve beside the helpers."""

    name: str
    module: str
    environment: Mapping[str, str]
    servers: list[int] = field(default_factory=list)

    def driver(self, program: Path) -> Driver:
        """A new process that has loaded nothing yet."""
        return Driver([str(program), self.module, TOKEN, PIN], self.environment)


@dataclass(slots=True)
class Stores:
    """Makes targets below one directory. `objects`: how many data objects each token has."""

    directory: Path
    program: Path
    objects: int
    servers: list[subprocess.Popen[str]] = field(default_factory=list)
    filled: Path | None = None

    def target(self, name: str) -> Target:
        """Raises Unusable, RuntimeError, DriverFailed."""
        if name in SLOTS:
            return self._slot(name, *SLOTS[name])
        directory = self.directory / "plain"
        environment = self._store(directory, [TOKEN])
        plain = Target(DIRECT, SOFTHSM, environment)
        if name == PROXIED:
            return self._proxied(directory, environment)
        return self._remote(directory, environment) if name == REMOTE else plain

    def close(self) -> None:
        """Ends the servers."""
        for server in self.servers:
            server.terminate()
            server.wait()

    def _store(self, directory: Path, tokens: list[str]) -> dict[str, str]:
        """A SoftHSM store with these tokens, if it is not there yet; the environment that shows it."""
        conf = directory / "softhsm2.conf"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        environment = {
            **kept,
            "HOME": str(directory),
            "SOFTHSM2_CONF": str(conf),
            "XDG_CONFIG_HOME": f"{directory}/xdg",
        }
        if conf.exists():
            return environment
        (directory / "tokens").mkdir(parents=True)
        conf.write_text(f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
        for token in tokens:
            before = set((directory / "tokens").iterdir())
            command = ["softhsm2-util", "--init-token", "--free", "--label", token, "--pin", PIN, "--so-pin", SO_PIN]
            _run(command, environment)
            (made,) = set((directory / "tokens").iterdir()) - before
            if self.objects:
                self._fill(made)
        return environment

    def _fill(self, token: Path) -> None:
        """Public objects are files that any token can have: made once, then copied."""
        if self.filled is None:
            directory = self.directory / "filled"
            objects, self.objects = self.objects, 0
            environment = self._store(directory, [TOKEN])
            self.objects = objects
            with Target("", SOFTHSM, environment).driver(self.program) as driver:
                driver.ask("open")
                driver.ask(f"fill {objects}")
            (self.filled,) = (directory / "tokens").iterdir()
        for file in self.filled.iterdir():
            if file.suffix in (".object", ".lock") and file.stem != "token":
                shutil.copy2(file, token)

    def _proxied(self, directory: Path, environment: Mapping[str, str]) -> Target:
        configuration = directory / "xdg" / "pkcs11"
        (configuration / "modules").mkdir(parents=True, exist_ok=True)
        (configuration / "pkcs11.conf").write_text("user-config: only\n")
        (configuration / "modules" / "softhsm.module").write_text(f"module: {SOFTHSM}\ncritical: yes\n")
        return Target(PROXIED, _first(PROXY), environment)

    def _remote(self, directory: Path, environment: Mapping[str, str]) -> Target:
        client = _first(CLIENT)
        if shutil.which("p11-kit") is None:
            raise Unusable("p11-kit is not installed")
        socket = directory / "p11-kit.socket"
        command = [
            "p11-kit",
            "server",
            "--foreground",
            "--name",
            str(socket),
            "--provider",
            SOFTHSM,
            f"pkcs11:token={TOKEN}",
        ]
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self.servers.append(server)
        assert server.stdout is not None
        if not server.stdout.readline():  # its address; then it listens
            raise Unusable("p11-kit server did not start")
        return Target(REMOTE, client, {**environment, "P11_KIT_SERVER_ADDRESS": f"unix:path={socket}"}, [server.pid])

    def _slot(self, name: str, count: int, isolation: Isolation) -> Target:
        directory = self.directory / f"group-{count}"
        members = [f"member-{index + 1}" for index in range(count)]
        environment = self._store(directory, members)
        made = directory / "pyha.toml"
        commands = Path(sys.executable)
        if not made.exists():
            uris = [f"pkcs11:token={member}?module-path={SOFTHSM}" for member in members]
            create = [
                str(commands.with_name("pyha")),
                "group",
                "create",
                TOKEN,
                *uris,
                "--pin-source",
                "env:MEMBERS_PIN",
            ]
            create += ["--environment", f"SOFTHSM2_CONF={environment['SOFTHSM2_CONF']}"]
            _run(create, {**environment, "PYHA_CONF": str(made), "MEMBERS_PIN": PIN})
        conf = directory / f"pyha-{isolation}.toml"
        before = config.load(str(made))
        (group,) = before.groups
        conf.unlink(missing_ok=True)
        after = replace(before, groups=(replace(group, isolation=isolation),))
        config_write.write(str(conf), config_write.render(after))
        module = _run([str(commands.with_name("pyha")), "module-path"], environment).strip()
        return Target(name, module, {**environment, "PYHA_CONF": str(conf)})


def _first(paths: tuple[str, ...]) -> str:
    for path in paths:
        if os.path.exists(path):
            return path
    raise Unusable(f"none of {', '.join(paths)} is here")


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
