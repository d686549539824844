"""The short part of `make conformance`: pkcs11-tool on a plain token, on a group, and on one that loses a member."""

import json
import subprocess
import sys
from pathlib import Path

from build_shim import ROOT

STEPS = (
    "show info",
    "list slots",
    "random",
    "make RSA 2048",
    "make AES:32",
    "sign and verify SHA256-RSA-PKCS",
    "wrong PIN",
)
LIMIT = 120.0


def test_pkcs11_tool_sees_no_difference_that_is_not_meant(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    words = [
        word
        for step in (*STEPS, "make EC prime256v1", "sign and verify ECDSA prime256v1")
        for word in ("--steps", step)
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "conformance",
            "--targets",
            "softhsm,group,loss",
            "--json",
            str(results),
            *words,
            "pkcs11-tool",
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (suite,) = json.loads(results.read_text())
    assert {target: len(steps) for target, steps in suite["results"].items()} == dict.fromkeys(
        ("softhsm", "group", "loss"), 9
    )
    assert sum(step["killed"] for step in suite["results"]["loss"]) >= 3
