"""A member that returns to many processes at once is resynchronised once (SEMANTICS.md section 5)."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pyha.cli import config_write
from pyha.cryptoki import constants as ck
from pyha.runtime import config
from pyha.runtime.settings import LogLevel
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import P256, STAYS, Scene, scene
from tests.integration.test_recovery import AT_ONCE
from tests.native_tools import NATIVE, compile_c

Group = Callable[..., TestGroup]
LABEL = f"one-{os.getpid()}"
WORKERS = 16
LONGEST = 300.0
"""Seconds after which something counts as hung."""


def make(it: Scene, label: bytes) -> int:
    """A pair that must not leave: two objects and a record. The private key."""
    named = {ck.CKA_LABEL: label, ck.CKA_ID: label}
    public = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, **named}
    return it.app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**STAYS, **named, ck.CKA_SIGN: True})[1]


def test_sixteen_forked_workers_and_one_returning_member(group: Group, tmp_path: Path) -> None:
    made = group(label=LABEL, recovery=AT_ONCE)
    written = replace(config.load(str(made.conf)), log_level=LogLevel.NOTICE)
    config_write.write(str(made.conf), config_write.render(written))
    # So many processes on a small machine: what is slow is not hung, and what takes long is still one turn.
    made.reconfigure(lambda settings: replace(settings, deadline=LONGEST))
    with scene(made) as it:
        make(it, b"kept")
        make(it, b"gone")
    made.only(0, 1)
    program = compile_c(NATIVE / "workers.c", tmp_path / "workers", "-I/usr/include/p11-kit-1", f"-I{NATIVE}", "-ldl")
    process = subprocess.Popen(
        [str(program), made.module, made.pin, "kept", str(WORKERS)],
        env=made.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        with scene(made) as it:
            for handle in it.app.find({ck.CKA_LABEL: b"gone"}):
                it.app.destroy(handle)
            for number in range(3):
                make(it, b"new %d" % number)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ok\n"
        made.only(0, 1, 2)
        returned = f"member {made.tokens[2].label} returned"
        end = time.monotonic() + LONGEST
        while made.logged().count(returned) < WORKERS:
            assert time.monotonic() < end, made.logged()
            time.sleep(0.05)  # the log is a file of other processes: there is no event to wait for
        output, _ = process.communicate(timeout=LONGEST)
        assert (process.returncode, output) == (0, b""), made.logged()
    finally:
        process.kill()
        process.communicate()
    # Each step has a line: none is done twice, whoever does it. At the least: two objects deleted, six copied, three
    # records written, one cleared.
    steps = re.findall(r": resync: ((?:delete|copy|change|write|clear) .*)", made.logged())
    assert len(steps) == len(set(steps)) >= 12, made.logged()
    assert "held different objects" not in made.logged(), made.logged()
    with scene(made) as it:
        first, second, third = it.inventory()
        assert first == second == third, made.logged()
        assert sorted(label for label in first if label.startswith((b"new", b"kept", b"gone"))) == [
            label for label in (b"kept", b"new 0", b"new 1", b"new 2") for _ in range(2)
        ]
