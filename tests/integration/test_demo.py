"""`make demo` does what it says, and leaves nothing behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from build_shim import ROOT

LIMIT = 120.0


def demo(tmp_path: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """The demonstration, with its temporary directory below `tmp_path`, in an environment of its own."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path), **changes}
    return subprocess.run(
        [sys.executable, str(ROOT / "conformance" / "demo.py")],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one run shows, in an environment that would mislead each tool if it were believed."""
    directory = tmp_path_factory.mktemp("demo")
    misleading = dict.fromkeys(("PYHA_CONF", "SOFTHSM2_CONF", "OPENSSL_CONF"), "/nonexistent")
    done = demo(directory, **misleading)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert list(directory.iterdir()) == []
    return done.stdout.replace(str(directory), "/tmp")


def test_an_unmodified_pkcs11_tool_sees_one_virtual_slot(shown: str) -> None:
    assert shown.count("HA Virtual Card Slot") == 1


def test_openssl_verifies_what_the_slot_and_what_each_member_signed(shown: str) -> None:
    assert shown.count("Verified OK") == 2 + 3


def test_every_member_shows_both_keys(shown: str) -> None:
    assert "ok  hsm-a, hsm-b, hsm-c: the same two keys on each" in shown


def test_the_work_spreads_and_each_member_has_its_count(shown: str) -> None:
    counts = re.findall(r"served hsm-a=(\d+) hsm-b=(\d+) hsm-c=(\d+)$", shown, re.MULTILINE)
    assert len(counts) == 2
    assert all(int(count) > 0 for each in counts for count in each)
    assert "600 signatures, all valid, made by all 3 members" in shown


def test_the_loss_of_a_member_costs_no_call(shown: str) -> None:
    after = shown.partition("$ kill -KILL")[2]
    assert "member hsm-b lost" in after
    assert "no call of the application failed" in after


def test_it_is_plain_text_of_a_hundred_columns(shown: str) -> None:
    assert "\033" not in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    done = demo(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "\nFAILED: softhsm2-util is not installed: `make demo` would have installed it\n"
