"""What a demonstration runs on: a directory of its own, explained steps, and real command lines that are shown as they
are run.

Knows shells and terminals; nothing of PKCS #11. Everything below `Stage` works in a temporary directory, with HOME
there too, and leaves nothing behind.
"""

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

LIMIT = 60.0
"""Seconds after which a command counts as hung."""

_WIDTH = 90
_FOREIGN = ("GNUTLS_", "OPENSSL_", "P11_KIT_", "PKCS11_", "PYHA_", "PYTHON", "SOFTHSM2_")
"""Beginnings of environment variables by which the user's own set-up would take part."""


_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
"""What a P-256 public key in DER (SubjectPublicKeyInfo) begins with, before its point."""


class Unexpected(Exception):
    """Something did not happen as it was said. `str()` is one sentence, perhaps with a command's output."""


class Stage:
    """Shows and runs. `environment`: for every command, on top of the user's; commands see the variables as the lines
    name them."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        self.environment = {**kept, "HOME": str(directory), "LC_ALL": "C.UTF-8", **environment}
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._steps = 0

    def step(self, title: str, *paragraphs: str) -> None:
        """The heading of the next step, and what is going to be seen."""
        self._steps += 1
        self._print("\n" + self._in("1;36", f"{self._steps}. {title}"))
        for paragraph in paragraphs:
            self.say(paragraph)

    def say(self, text: str) -> None:
        """A paragraph."""
        self._print(textwrap.fill(text, _WIDTH, initial_indent="   ", subsequent_indent="   "))

    def good(self, text: str) -> None:
        """Something that was promised and was found true."""
        self._print("   " + self._in("32", "ok") + f"  {text}")

    def show(self, line: str) -> None:
        """A command line, as it is run."""
        self._print("   " + self._in("1", "$ " + line.replace("\n", "\n     ")))

    def output(self, text: str, limit: int | None = None) -> None:
        """What a command wrote: the first `limit` lines of it, long ones folded."""
        lines = text.rstrip().splitlines()
        for line in lines[:limit]:
            indent = " " * (5 + len(line) - len(line.lstrip()))
            folded = textwrap.wrap(
                line.strip(),
                _WIDTH,
                initial_indent=indent,
                subsequent_indent=indent + "    ",
                break_long_words=False,
                break_on_hyphens=False,
            )
            self._print("\n".join(folded))
        if limit is not None and len(lines) > limit:
            self._print(f"     ... ({len(lines) - limit} more lines)")

    def run(self, line: str, *, shown: int | None = None, expect: str = "") -> str:
        """Show a command line, run it in a shell, show its output (all of it, or the first `shown` lines).

        Gives back the output, stderr included. Raises Unexpected where it fails, or where `expect` is not in it.
        """
        self.show(line)
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", line],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise Unexpected(f"the command did not end within {LIMIT:g} s") from None
        self.output(done.stdout, shown if done.returncode == 0 else None)
        if done.returncode != 0:
            raise Unexpected(f"the command ended with exit status {done.returncode}")
        if expect not in done.stdout:
            raise Unexpected(f'the command did not say "{expect}"')
        return done.stdout

    def _in(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colours else text

    def _print(self, text: str) -> None:
        print(text, flush=True)


def p256_public_key(listed: str) -> bytes:
    """The public key, DER, in what `pkcs11-tool --list-objects` says of one on P-256. Its own `--read-object` of such
    keys fails at random in the version of Debian 12, whatever the module (OpenSC's issue 3200). Raises Unexpected."""
    for line in listed.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "EC_POINT" and len(value.strip()) == 2 * 67:
            return _P256 + bytes.fromhex(value.strip())[2:]
    raise Unexpected("pkcs11-tool lists no public key on P-256")
