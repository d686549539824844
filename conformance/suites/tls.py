"""TLS clients for servers whose key is in the token: full handshakes, each checked against the server's certificate."""

import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conformance.scene import Scene, free_port
from conformance.steps import Failed

LIMIT = 20.0
"""Seconds for one handshake and its answer."""

CA_CONFIG = """
[req]
distinguished_name = dn
x509_extensions = ca
[dn]
[ca]
basicConstraints = critical, CA:TRUE
subjectAltName = DNS:localhost, IP:127.0.0.1
"""
"""For `openssl req`: certificates that are their own CA."""


def handshake(port: int, certificate: Path, request: bytes = b"GET / HTTP/1.0\r\n\r\n") -> str:
    """One full handshake and a request: "" or what went wrong."""
    context = ssl.create_default_context(cafile=str(certificate))
    try:
        with (
            socket.create_connection(("127.0.0.1", port), LIMIT) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            secured.sendall(request)
            return "" if secured.recv(1) else "no answer"
    except OSError as error:
        return str(error)


def handshakes(
    port: int, certificate: Path, count: int, threads: int = 1, at_half: Callable[[], object] = lambda: None
) -> str:
    """`count` of them; after half of them `at_half` is called, once, while others go on. A line that says how many
    there were. Raises Failed where one failed."""
    done = 0
    lock = threading.Lock()

    def one(number: int) -> str:
        nonlocal done
        said = handshake(port, certificate)
        with lock:
            done += 1
            half = done == count // 2
        if half:
            at_half()
        return said

    with ThreadPoolExecutor(threads) as pool:
        wrong = [said for said in pool.map(one, range(count)) if said]
    _all_well(wrong)
    return f"{count} handshakes, none failed"


def _all_well(wrong: Sequence[str]) -> None:
    """Raises Failed."""
    if wrong:
        raise Failed(f"{len(wrong)} handshakes failed: {', '.join(sorted(set(wrong))[:3])}")


def handshakes_during(port: int, certificate: Path, threads: int, what: Callable[[], object]) -> str:
    """Handshakes without a pause as long as `what` takes. A line that says so. Raises Failed where one failed."""
    over = threading.Event()

    def many() -> list[str]:
        wrong = []
        while True:
            said = handshake(port, certificate)
            wrong += [said] if said else []
            if over.is_set():
                return wrong

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(many) for _ in range(threads)]
        try:
            what()
        finally:
            over.set()
        wrong = [said for each in running for said in each.result()]
    _all_well(wrong)
    return "no handshake failed"


def listening(scene: Scene, command: str, log: str) -> int:
    """Start a server with $PORT in its command line: the port. Raises Failed with what it wrote."""
    port = free_port()
    server = scene.start(["/bin/bash", "-c", "exec " + command.replace("$PORT", str(port))], log)
    try:
        scene.wait_for_port(port, server)
    except Failed as failure:
        raise Failed(f"{failure}\n{(scene.directory / log).read_text()}") from None
    return port
