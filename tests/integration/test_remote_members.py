"""Members behind `p11-kit server`, one process and one address each: a token that is somewhere else.

What crosses it is about half of the mechanisms, AES key wrapping not among them: no group can be made of such tokens.
So it is made of the plain ones and reached through the servers afterwards. No objects are made there.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pyha.cli import config_write
from pyha.cryptoki import constants as ck
from pyha.runtime import config
from pyha.runtime.settings import LogLevel
from tests.client import EC, Client, client
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import STAYS
from tests.integration.test_failover import point_of, verifies
from tests.integration.test_recovery import AT_ONCE, LONGEST, until

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
LABEL = f"remote-{os.getpid()}"
KEY = b"remote"
DEADLINE = 2.0
REMOTE = next(iter(sorted(Path("/usr/lib").glob("**/pkcs11/p11-kit-client.so"))), None)

pytestmark = pytest.mark.skipif(
    REMOTE is None or shutil.which("p11-kit") is None,
    reason="p11-kit server or p11-kit-client.so is not here",
)


class Server:
    """A `p11-kit server` for one token."""

    def __init__(self, made: TestGroup, index: int, directory: Path) -> None:
        token = made.tokens[index]
        self.socket = directory / f"socket-{index}"
        self._command = ["p11-kit", "server", "--foreground", "--name", str(self.socket), "--provider", token.module]
        self._command.append(f"pkcs11:token={token.label}")
        self._environment = {"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(directory), **token.environment}
        self.start()

    @property
    def address(self) -> dict[str, str]:
        """What a process needs to be set to use it."""
        return {"P11_KIT_SERVER_ADDRESS": f"unix:path={self.socket}"}

    def start(self) -> None:
        """Returns when it listens: it says so."""
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("P11_KIT_SERVER_ADDRESS=")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self.socket))

    def kill(self) -> None:
        """The server and all that it serves are gone."""
        if self._process.poll() is not None:
            return
        # Those for clients leave the server's process group by themselves.
        for process in _serving(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.socket.unlink(missing_ok=True)

    def stop(self) -> None:
        """Server and connections answer no more, and stay."""
        for process in (*_serving(self._process.pid), self._process.pid):
            os.kill(process, signal.SIGSTOP)


def _serving(server: int) -> list[int]:
    """The processes that a server has for its clients: a child each."""
    return [int(word) for word in Path(f"/proc/{server}/task/{server}/children").read_text().split()]


@dataclass(frozen=True)
class Remote:
    """A group at work, its members behind servers."""

    made: TestGroup
    servers: list[Server]
    app: Client
    session: int
    private: int
    public: ec.EllipticCurvePublicKey

    def work(self) -> None:
        """Every kind of call that crosses a server, with the right answers."""
        for number in range(4):
            digest = sha256(b"%d" % number).digest()
            rv, signature = self.app.sign(self.session, ck.CKM_ECDSA, self.private, digest)
            assert rv == OK, (hex(rv), self.made.logged())
            assert verifies(self.public, signature, digest)
            assert self.app.start("Digest", self.session, ck.CKM_SHA256) == OK
            assert self.app.out("Digest", self.session, b"%d" % number)[::2] == (OK, digest)
            assert self.app.random(self.session)[0] == OK
        rv, found = self.app.find(self.session, {ck.CKA_LABEL: KEY, ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})
        assert (rv, found) == (OK, [self.private]), self.made.logged()

    def until(self, text: str) -> None:
        """Work until the module has logged this."""
        until(self.made, text, self.app, self.session)

    def lost(self, index: int) -> None:
        """Work on while the member is noticed to be gone."""
        self.until(f"member {self.made.tokens[index].label} lost")
        self.work()

    def returned(self, index: int, times: int = 1) -> None:
        """Work until the member has come back so often."""
        text = f"member {self.made.tokens[index].label} returned"
        end = time.monotonic() + LONGEST
        while self.made.logged().count(text) < times:
            assert time.monotonic() < end, self.made.logged()
            self.work()
        self.work()


@pytest.fixture
def remote(group: Group, tmp_path: Path) -> Iterator[Remote]:
    made = group(label=LABEL, recovery=AT_ONCE)
    named = {ck.CKA_TOKEN: True, ck.CKA_LABEL: KEY, ck.CKA_ID: KEY}
    with made.application() as app:
        app.pair(
            ck.CKM_EC_KEY_PAIR_GEN,
            {**named, ck.CKA_EC_PARAMS: EC, ck.CKA_VERIFY: True},
            {**STAYS, **named, ck.CKA_SIGN: True},
        )
    written = replace(config.load(str(made.conf)), log_level=LogLevel.NOTICE)
    config_write.write(str(made.conf), config_write.render(written))
    made.reconfigure(lambda settings: replace(settings, deadline=DEADLINE))
    servers = [Server(made, index, tmp_path) for index in range(3)]
    try:
        for index, server in enumerate(servers):
            made.put_module(index, str(REMOTE), server.address)
        with client(made.module, made.environment) as app:
            session = app.logged_in(app.slot_of(LABEL), made.pin)
            (private,) = app.find(session, {ck.CKA_LABEL: KEY, ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})[1]
            (public,) = app.find(session, {ck.CKA_LABEL: KEY, ck.CKA_CLASS: ck.CKO_PUBLIC_KEY})[1]
            yield Remote(made, servers, app, session, private, point_of(app, session, public))
    finally:
        for server in servers:
            server.kill()


def test_servers_are_killed_one_after_another_and_come_back(remote: Remote) -> None:
    remote.work()
    for index, server in enumerate(remote.servers):
        server.kill()
        remote.lost(index)
        server.start()
        remote.returned(index)
    # Each is a whole member again: the last one serves alone.
    remote.servers[0].kill()
    remote.servers[1].kill()
    remote.work()


def test_a_stopped_server_costs_one_deadline_and_the_member(remote: Remote) -> None:
    remote.work()
    remote.servers[0].stop()
    remote.lost(0)
    # Whoever meets it first, a call or the probe of an idle member, waits until the deadline and no longer.
    log = remote.made.logged()
    assert "did not return within its deadline" in log or "a probe of the idle member failed" in log
    remote.servers[0].kill()
    remote.servers[0].start()
    remote.returned(0)


def test_two_servers_at_once_and_a_restart_behind_the_members_back(remote: Remote) -> None:
    """A server that is back before anybody has looked: its connections are gone all the same."""
    remote.work()
    for index in (1, 2):
        remote.servers[index].kill()
        remote.servers[index].start()
    remote.lost(1)
    remote.lost(2)
    remote.returned(1)
    remote.returned(2)


def test_all_servers_are_gone_and_the_same_session_goes_on_when_they_are_back(remote: Remote) -> None:
    remote.work()
    for server in remote.servers:
        server.kill()
    rv, _ = remote.app.sign(remote.session, ck.CKM_ECDSA, remote.private, bytes(32))
    assert rv == ck.CKR_DEVICE_ERROR
    rv, _ = remote.app.sign(remote.session, ck.CKM_ECDSA, remote.private, bytes(32))
    assert rv == ck.CKR_TOKEN_NOT_PRESENT
    for server in remote.servers:
        server.start()
    until(remote.made, "returned")
    remote.work()
