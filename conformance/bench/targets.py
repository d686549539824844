"""What is measured: SoftHSM itself, and the ways to it.

Everything is made in a temporary directory, in memory where the machine has such a file system: it is not the disk
that is measured. Each target has a store of its own kind twice: with the keys alone, and with many data objects.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from conformance import tree
from conformance.bench.groups import SOFTHSM, TOKEN, Target, make_group, make_store, member_names, rewrite
from conformance.bench.result import DIRECT
from pyha.ha.settings import Isolation

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


class Unusable(Exception):
    """A target cannot be set up here: one sentence."""


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
        return make_store(directory, tokens, self._fill if self.objects else None)

    def _fill(self, token: Path) -> None:
        """Public objects are files that any token can have: made once, then copied."""
        if self.filled is None:
            directory = self.directory / "filled"
            environment = make_store(directory, [TOKEN])
            with Target("", SOFTHSM, environment).driver(self.program) as driver:
                driver.ask("open")
                driver.ask(f"fill {self.objects}")
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
        environment = self._store(directory, member_names(count))
        made = make_group(directory, count, environment)
        conf = directory / f"pyha-{isolation}.toml"
        rewrite(made, conf, lambda group: replace(group, isolation=isolation))
        return Target(name, tree.module(), {**environment, "PYHA_CONF": str(conf)})


def _first(paths: tuple[str, ...]) -> str:
    for path in paths:
        if os.path.exists(path):
            return path
    raise Unusable(f"none of {', '.join(paths)} is here")
