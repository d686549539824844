"""Ctrl-C, a lost terminal and SIGTERM while a command is at work on a token: what was begun is taken back."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyha.cli import interrupts
from pyha.cli.chaos_plan import chaos_module
from pyha.cli.interrupts import Ended, ending, unbroken
from pyha.cli.main import main
from tests.chaos import Plan
from tests.domain_tools import domain_objects
from tests.softhsm import SoftHSM


@pytest.fixture(autouse=True)
def none_is_ignored() -> Iterator[None]:
    """As where a shell starts a command in the foreground; the tests themselves may run in the background."""
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


def ended_by(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_ends_a_command_as_an_exception(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Ended) as ended, ending():
        ended_by(number)
    assert interrupts.number(ended.value) == number
    assert signal.getsignal(number) is before


def test_steps_that_are_not_cut_in_two_end_first(capfd: pytest.CaptureFixture[str]) -> None:
    done = []

    def steps() -> None:
        with unbroken() as check:
            ended_by(signal.SIGTERM)
            done.append("the rest of the step")
            check()
            done.append("another step")

    with pytest.raises(Ended):
        steps()
    assert done == ["the rest of the step"]
    assert capfd.readouterr().err == "pyha: ending after this step; once more ends it at once\n"


def test_the_second_signal_does_not_wait() -> None:
    done = []

    def steps() -> None:
        with unbroken():
            ended_by(signal.SIGINT)
            ended_by(signal.SIGINT)
            done.append("the rest of the step")

    with pytest.raises(Ended):
        steps()
    assert done == []


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending():
            ended_by(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("fault", "signals", "status"),
    [
        ("C_CreateObject nth=3 -> hang", (signal.SIGHUP,), 128 + signal.SIGHUP),
        # Both are there when the call returns: nothing of ours has its handle yet.
        ("C_CreateObject nth=2 -> hang", (signal.SIGHUP, signal.SIGTERM), 128 + signal.SIGHUP),
        # While the token is tried with a record, which nobody takes back then.
        ("C_DestroyObject nth=1 -> hang", (signal.SIGKILL,), -signal.SIGKILL),
    ],
    ids=["ended", "ended at once", "killed"],
)
def test_a_group_that_is_not_made_leaves_no_trace_and_can_be_made_again(
    softhsm: SoftHSM, tmp_path: Path, fault: str, signals: tuple[signal.Signals, ...], status: int
) -> None:
    token = softhsm.token("hsm-0")
    plan, pin, conf = Plan(tmp_path / "plan"), tmp_path / "pin", tmp_path / "pyha.toml"
    pin.write_text("1234\n")
    pin.chmod(0o600)
    words = ["group", "create", "payments", f"pkcs11:token=hsm-0?module-path={chaos_module()}"]
    words += ["--pin-source", f"file:{pin}", "--config", str(conf)]
    for name, value in {**token.environment, **plan.environment}.items():
        words += ["--environment", f"{name}={value}"]
    plan.set(fault)
    command = [sys.executable, "-m", "pyha.cli.main", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        plan.wait_for(fault.split()[0])
        if signals == (signal.SIGKILL,):
            plan.killed(process)
        for each in signals:
            process.send_signal(each)
        plan.set()
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, ""), error
    assert "Traceback" not in error
    assert (conf.exists(), domain_objects(token)) == (False, [])
    assert main(words) == 0
    assert domain_objects(token) == ["Private", "Private", "Public", "Public", "Secret", "Secret"]
