"""`make demo-failover` does what it says, piped as well, and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from build_shim import ROOT

LIMIT = 180.0


@pytest.mark.slow
def test_members_go_and_return_and_no_call_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "conformance.demo_failover"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
    assert "\033" not in done.stdout
    assert "0 calls failed" in done.stdout
    for said in (
        "member hsm-a lost: its helper ended",
        "member hsm-b lost: C_Sign",
        "status of hsm-a: CKR_DEVICE_ERROR",
        "status of hsm-a: CKR_TOKEN_NOT_PRESENT",
        "no active member is left, standby members serve",
        "an active member is back, standby members stand by",
    ):
        assert said in done.stdout
