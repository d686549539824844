"""What `pyha status` prints and answers, over views that were published by nobody."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cli.main import main
from pyha.cryptoki import constants as ck
from pyha.ha import status
from pyha.ha.group import Cause, State
from pyha.ha.settings import RecoveryMode, Role
from pyha.ha.status import MemberView, View
from pyha.runtime import noticeboard, processes

IN = MemberView(
    "hsm-a", "599447001", Role.ACTIVE, State.IN, None, "", False, 1, 0, 0, 0, 2, 1200, 0.0,
    ((ck.CKR_DATA_LEN_RANGE, 3),),
)  # fmt: skip
OUT = MemberView(
    "hsm-b", "78665001", Role.STANDBY, State.FAILED, Cause.LOST, "its helper ended", False, 1, 1, 4, 4, 0, 7, 0.0, ()
)
Publish = Callable[..., Path]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """publish(members..., label="payments") writes a file as this process would."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PYHA_CONF", "/no/such/file")
    monkeypatch.setattr(noticeboard, "places", lambda preferred: [f"{preferred.runtime}/pyha"])
    monkeypatch.setattr("glob.glob", lambda pattern: [])
    (tmp_path / "pyha").mkdir(0o700)

    def written(*members: MemberView, label: str = "payments", serial: str = "1599447001") -> Path:
        view = View(os.getpid(), "nginx", 0, 0, label, serial, RecoveryMode.BACKGROUND, 5, members)
        file = tmp_path / "pyha" / str(noticeboard.Name(processes.ourselves(), sum(label.encode())))
        file.write_bytes(status.encode(status.body(view), 1.0))
        return file

    return written


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["status", *words])
    return code, capsys.readouterr().out


def test_all_is_well(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    publish(IN, replace(IN, name="hsm-c", serial=""))
    code, out = run(capsys)
    assert code == 0
    assert out.splitlines() == [
        "HA group 1599447001 status:",
        "   HSM 599447001          - CKR_OK",
        "   HSM hsm-c              - CKR_OK",
        '   "payments" in 1 process: 2400 served, 5 failovers',
        "",
        f"   {'PROCESS':<{len(str(os.getpid())) + 6}}  MEMBER  ROLE    STATE  GENERATION  IN FLIGHT  SERVED  LOST  "
        "ATTEMPTS  ERRORS",
        f"   {os.getpid()} nginx  hsm-a   active  in     1           2          1200    0     0         "
        "CKR_DATA_LEN_RANGE 3",
        f"   {os.getpid()} nginx  hsm-c   active  in     1           2          1200    0     0         "
        "CKR_DATA_LEN_RANGE 3",
    ]


def test_a_member_is_out(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    publish(IN, OUT)
    code, out = run(capsys)
    assert code == 1
    assert "   HSM 78665001           - CKR_DEVICE_ERROR\n" in out
    assert f"   {os.getpid()} hsm-b: its helper ended\n" in out
    assert "4 (4 failed)" in out
    code, out = run(capsys)
    assert code == 1
    assert "   HSM 78665001           - CKR_TOKEN_NOT_PRESENT\n" in out


def test_for_programs(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    publish(IN, replace(OUT, unsynchronised=True))
    code, out = run(capsys, "payments", "--json")
    assert code == 1
    (group,) = json.loads(out)
    (process,) = group.pop("processes")
    assert group == {
        "label": "payments",
        "serial": "1599447001",
        "members": [
            {"hsm": "599447001", "status": "CKR_OK"},
            {"hsm": "78665001", "status": "CKR_DEVICE_ERROR"},
        ],
    }
    assert process["members"][0]["errors"] == {"CKR_DATA_LEN_RANGE": 3}
    assert process["members"][1] == {
        "name": "hsm-b", "serial": "78665001", "status": "CKR_DEVICE_ERROR", "role": "standby", "state": "failed",
        "since": 0.0, "cause": "lost", "reason": "its helper ended", "unsynchronised": True, "generation": 1,
        "losses": 1, "attempts": 4, "failed-attempts": 4, "in-flight": 0, "served": 7, "errors": {},
    }  # fmt: skip


def test_one_group_of_several(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    publish(IN)
    publish(OUT, label="archive", serial="12")
    assert run(capsys)[1].count("HA group") == 2
    code, out = run(capsys, "payments")
    assert (code, out.count("HA group")) == (0, 1)
    assert main(["status", "unknown"]) == 2
    assert capsys.readouterr().err == 'pyha: there is no group "unknown"\n'


def test_nobody_uses_a_group(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys) == (0, "No process uses a group.\n")
    assert run(capsys, "--json") == (0, "[]\n")


def test_a_terminal_does_not_obey_what_a_file_says(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    publish(replace(OUT, name="\033[2J", serial="\033[1m", reason="\a"), label="\033c", serial="\033d")
    out = run(capsys)[1]
    assert not set(out) & {"\033", "\a"}


def test_watching_ends_with_ctrl_c(publish: Publish, tmp_path: Path) -> None:
    # The signal as a terminal's shell leaves it: whoever runs the tests in the background may ignore it.
    script = (
        "import signal, sys; from pyha.cli.main import main; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.exit(main(['status', '--watch', '--json']))"
    )
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as watching:
        assert watching.stdout is not None
        for _ in range(2):
            assert isinstance(json.loads(watching.stdout.readline()), list)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 130


def test_a_member_that_was_removed_is_not_shown(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    """A process keeps its place; that it is not there is no alarm."""
    publish(replace(OUT, state=State.REMOVED, cause=None, name="hsm-gone"), IN)
    code, out = run(capsys)
    assert code == 0
    assert "hsm-gone" not in out
    assert "hsm-a" in out
