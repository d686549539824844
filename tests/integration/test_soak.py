"""A short `make soak`. Not among the tests of every change (`-m soak` runs it): what it shows on a busy machine may be
the machine."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.soak
def test_half_a_minute_of_faults_costs_no_answer_and_no_object() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "conformance.soak", "--seconds", "25", "--seed", "7"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
