"""SoftHSM tokens for tests: made by softhsm2-util, in stores below a test's own directory."""

import fcntl
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
_LIMIT = 30.0
"""Seconds after which a token whose file is empty counts as lost."""


@dataclass(frozen=True)
class SoftHSMToken:
    """One initialised token. `conf`: the SOFTHSM2_CONF that shows it; `serial`: 16 hexadecimal digits."""

    label: str
    serial: str
    conf: Path
    pin: str = "1234"
    so_pin: str = "12345678"
    module: str = MODULE

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be set to see the token."""
        return {"SOFTHSM2_CONF": str(self.conf)}

    def strike(self, process: int, number: signal.Signals) -> None:
        """`strike` for a process that uses this token. Raises ProcessLookupError, TimeoutError."""
        strike(file_of(self.conf.parent / "tokens", self.serial), process, number)


def file_of(store: Path, serial: str) -> Path:
    """The file of a token itself: SoftHSM names its directory in the store by a UUID that ends with the serial."""
    (file,) = store.glob(f"*-{serial[:4]}-{serial[4:]}/token.object")
    return file


def strike(file: Path, process: int, number: signal.Signals, limit: float = _LIMIT) -> None:
    """Send a process a signal that ends or stops it, while nobody is writing the file of its token: SoftHSM empties it
    first, at every login, and a token whose user is killed there is lost for good, with its PIN. What the token holds
    otherwise may be torn. Raises ProcessLookupError; TimeoutError where the file stays empty for `limit` seconds."""
    end = time.monotonic() + limit
    with file.open("r+b") as content:
        while True:
            fcntl.lockf(content, fcntl.LOCK_EX)  # as SoftHSM locks it itself, though it may write after it has unlocked
            if os.fstat(content.fileno()).st_size:
                break
            fcntl.lockf(content, fcntl.LOCK_UN)
            if time.monotonic() > end:
                raise TimeoutError(f"{file} stays empty")
            time.sleep(0.001)  # what its writer does next, nobody is told
        os.kill(process, number)


class SoftHSM:
    """Makes tokens."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stores = 0

    def token(self, label: str, own_store: bool = False, pin: str = "1234", so_pin: str = "12345678") -> SoftHSMToken:
        """A new token, in the store that all share or in one of its own. Takes some 10 ms."""
        if own_store:
            self._stores += 1
        store = self._directory / (f"store-{self._stores}" if own_store else "store")
        conf = store / "softhsm2.conf"
        if not conf.exists():
            (store / "tokens").mkdir(parents=True)
            conf.write_text(
                f"directories.tokendir = {store / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
            )
        known = _serials(conf)
        _util(conf, "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", so_pin)
        (serial,) = _serials(conf) - known
        return SoftHSMToken(label, serial, conf, pin, so_pin)


def _util(conf: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["softhsm2-util", *arguments],
        env={**os.environ, "SOFTHSM2_CONF": str(conf)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _serials(conf: Path) -> set[str]:
    return set(re.findall(r"Serial number:[ ]+(\w+)", _util(conf, "--show-slots")))
