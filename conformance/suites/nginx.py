"""nginx with forked workers, its key in the token through OpenSSL's engine: not one handshake fails, whatever
happens."""

import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from conformance.scene import Scene, until
from conformance.steps import Step, Suite
from conformance.suites.openssl import ENGINE_CONFIG, KEY, make_keys
from conformance.suites.tls import handshakes, handshakes_during, listening

_CONFIG = """
daemon off;
user root;
worker_processes 2;
pid nginx.pid;
error_log error.log notice;
env OPENSSL_CONF;
env PYHA_CONF;
env SOFTHSM2_CONF;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {
        listen 127.0.0.1:@PORT@ ssl;
        ssl_certificate @SCRATCH@/@KEY@.pem;
        ssl_certificate_key "engine:pkcs11:@URI@";
        ssl_session_tickets off;
        location / { return 200 "here\\n"; }
    }
}
"""
_THREADS = 8
_HANGS = "SoftHSM that is initialised again after a fork hangs in some runs"


def _started(scene: Scene, label: str) -> tuple[int, int, Path]:
    """A running nginx: port, the master's process id, the certificate."""
    config = _CONFIG.replace("@SCRATCH@", str(scene.directory)).replace("@KEY@", label)
    config = config.replace("@URI@", scene.fill(KEY.format(label)))
    (scene.directory / "nginx.pid").unlink(missing_ok=True)
    template = scene.directory / "nginx.template"
    template.write_text(config)
    port = listening(
        scene,
        "sh -c 'sed s/@PORT@/$PORT/ nginx.template > nginx.conf; exec nginx -p $SCRATCH -c $SCRATCH/nginx.conf'",
        "nginx.log",
    )
    written = scene.directory / "nginx.pid"
    # It listens a moment before it writes down who it is.
    until(lambda: written.exists() and written.read_text().strip() != "", "nginx wrote no process id")
    return port, int(written.read_text()), scene.directory / f"{label}.pem"


def _workers(master: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{master}/task/{master}/children").read_text().split()}


def _one_new(master: int, before: set[int]) -> bool:
    return len(_workers(master) - before) == 1


def _thousand(label: str) -> Step:
    def serve(scene: Scene) -> Sequence[str]:
        port, _, certificate = _started(scene, label)
        return [handshakes(port, certificate, 1000, _THREADS, scene.lose_member)]

    return Step(f"1,000 handshakes with the {label} key", serve, spared=True, limit=300, fails=_HANGS, unsteady=True)


def _reload(scene: Scene) -> Sequence[str]:
    port, master, certificate = _started(scene, "rsa")
    before = _workers(master)

    def reload() -> None:
        scene.lose_member()
        os.kill(master, signal.SIGHUP)

    said = handshakes(port, certificate, 300, _THREADS, reload)
    until(lambda: not before & _workers(master), "the old workers did not end")
    return [said, "after it: " + handshakes(port, certificate, 50, _THREADS)]


def _each_member(scene: Scene) -> Sequence[str]:
    port, _, certificate = _started(scene, "ec")
    said = handshakes(port, certificate, 50, _THREADS)
    return [said, handshakes_during(port, certificate, _THREADS, scene.lose_each)]


def _crash(scene: Scene) -> Sequence[str]:
    port, master, certificate = _started(scene, "rsa")
    said = []
    for _ in range(3):
        said.append(handshakes(port, certificate, 50, _THREADS))
        before = _workers(master)
        os.kill(max(before), signal.SIGKILL)
        until(partial(_one_new, master, before), "no new worker came")
    scene.lose_member()
    return [*said, handshakes(port, certificate, 50, _THREADS)]


SUITE = Suite(
    "nginx",
    [
        *make_keys(("rsa", "rsa:2048"), ("ec", "EC:prime256v1")),
        _thousand("rsa"),
        _thousand("ec"),
        Step("reload under load", _reload, spared=True, fails=_HANGS, unsteady=True),
        Step("one member after the other", _each_member, spared=True, limit=240, fails=_HANGS, unsteady=True),
        Step("crashed workers", _crash, spared=True, fails=_HANGS, unsteady=True),
    ],
    programs=("nginx", "openssl", "pkcs11-tool"),
    engine=True,
    files={"openssl.cnf": ENGINE_CONFIG},
    environment={"OPENSSL_CONF": "$SCRATCH/openssl.cnf"},
)
