"""A burst of signatures by one application (`signer.py`), each of them checked outside with `cryptography`, and the
helper processes that serve it.

Knows the application's output and what /proc tells of its helpers; nothing of how they are led.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from conformance.signer import message
from conformance.stage import LIMIT, Stage, Unexpected

_SIGNER = Path(__file__).with_name("signer.py")
_PIPE = 4096
"""Bytes that the application may be ahead of us: a dozen signatures. So it is in the middle of its work whenever we
are."""


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """The two keys' public parts, as they were read from the token."""

    rsa: rsa.RSAPublicKey
    ec: ec.EllipticCurvePublicKey

    @classmethod
    def load(cls, rsa_file: Path, ec_file: Path) -> "PublicKeys":
        """From two files in DER. Raises Unexpected."""
        one, other = load_der_public_key(rsa_file.read_bytes()), load_der_public_key(ec_file.read_bytes())
        if not isinstance(one, rsa.RSAPublicKey) or not isinstance(other, ec.EllipticCurvePublicKey):
            raise Unexpected("the public keys are not an RSA and an EC key")
        return cls(one, other)

    def check(self, line: str) -> int:
        """The number of the signature in a line of the application. Raises Unexpected where it is not valid."""
        name, number, text = line.split()
        signature, data = bytes.fromhex(text), message(int(number))
        try:
            if name == "rsa":
                self.rsa.verify(signature, data, padding.PKCS1v15(), SHA256())
            else:
                half = len(signature) // 2
                r, s = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
                self.ec.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))
        except InvalidSignature:
            raise Unexpected(f"signature {number} of the {name} key is not valid") from None
        return int(number)


def burst(
    stage: Stage,
    module: str,
    label: str,
    pin: str,
    keys: PublicKeys,
    total: int,
    at: int = 0,
    then: Callable[[int], None] | None = None,
) -> str:
    """Let the application make `total` signatures, verify each; after `at` of them call `then` with the application's
    process id, while it goes on. Gives back what it wrote to stderr. Raises Unexpected where any call failed, or any
    signature is wrong or missing."""
    stage.show(f'PIN={pin} python conformance/{_SIGNER.name} "$MODULE" {label} {total}')
    said = stage.directory / "application.log"
    verified: set[int] = set()
    with said.open("w") as log:
        application = subprocess.Popen(
            [sys.executable, str(_SIGNER), module, label, str(total)],
            cwd=stage.directory,
            env={**stage.environment, "PIN": pin},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            pipesize=_PIPE,
        )
    limit = threading.Timer(LIMIT, application.kill)
    limit.start()
    try:
        assert application.stdout is not None
        for line in application.stdout:
            verified.add(keys.check(line))
            if then is not None and len(verified) == at:
                then(application.pid)
        status = application.wait()
    finally:
        limit.cancel()
        application.kill()
        application.wait()
    if status != 0:
        raise Unexpected(f"the application ended with exit status {status}:\n{said.read_text()}")
    if verified != set(range(total)):
        raise Unexpected(f"{len(verified)} of {total} signatures came")
    return said.read_text()


def helper_of(application: int, title: str) -> int:
    """The process id of the helper that runs a member's module for an application. `title`: group/member.

    An application holds a pidfd of each of its helpers, and a helper's last argument is its title: so a helper of
    another application with the same group is never taken for it. Raises Unexpected.
    """
    for entry in Path(f"/proc/{application}/fdinfo").iterdir():
        try:
            told = entry.read_text()
        except FileNotFoundError:  # closed since it was listed
            continue
        for line in told.splitlines():
            name, _, value = line.partition(":")
            if name == "Pid" and _arguments(int(value))[-1:] == [title]:
                return int(value)
    raise Unexpected(f"the application has no helper {title}")


def command_of(process: int) -> str:
    """The command line of a helper, its program without the directory."""
    program, *rest = _arguments(process)
    return " ".join([os.path.basename(program), *rest])


def _arguments(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
