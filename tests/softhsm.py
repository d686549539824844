"""SoftHSM tokens for tests: made by softhsm2-util, in stores below a test's own directory."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

MODULE = "/usr/lib/softhsm/libsofthsm2.so"


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
