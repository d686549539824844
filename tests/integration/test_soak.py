"""A short `make soak`: without members that hang, for which calls would wait, and with a deadline that a busy machine
keeps. Which members fail together is the seed's; the order of the threads is the machine's."""

import subprocess
import sys
from pathlib import Path

SHORT = ("--seconds", "8", "--threads", "2", "--deadline", "20", "--without", "hang", "--without", "stopped")


def test_some_seconds_of_faults_cost_no_answer_and_no_object() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "conformance.soak", *SHORT, "--seed", "7"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
