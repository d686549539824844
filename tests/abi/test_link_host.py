"""What an application in C must not notice of its helpers: child, signal, descriptor, environment, fork, end.

Each test is a function of tests/native/link_host.c, which has the shim's own C linked into it.
"""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from pyha.abi.native import ffi, lib
from tests.abi.link_tools import LIMIT, Process, hostile
from tests.native_tools import NATIVE, compile_c

SHIM = NATIVE.parents[1] / "shim"
PARTS = ("link", "arena", "places", "guard", "spawn", "module", "pins")
SKIPPED = 77


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("link_host")
    parts = [str(SHIM / f"{part}.c") for part in PARTS]
    compile_c(NATIVE / "link_host.c", directory / "link_host", *parts, f"-I{SHIM}", f"-I{NATIVE}", "-pthread", "-ldl")
    hostile(directory)
    return directory


def arguments(directory: Path, test: str, program: str = "link_host", variant: int = 0) -> list[str]:
    helper = Path(ffi.string(lib.pyha_own_path()).decode()).parent / "pyha-host"
    return [str(directory / program), test, str(helper), hostile(directory, variant)]


@pytest.mark.parametrize(
    "test",
    [
        "no_child",
        "no_zombie",
        "no_signal",
        "environment",
        "exec",
        "exec_in_child",
        "close_all",
        "close_all_then_send",
        "start_without_standard_descriptors",
        "setuid_after_start",
        "fork_under_load",
        "raw_clone",
        "copied_socket",
        "thread_that_started_it_ends",
        "cancelled_thread",
        "pins",
    ],
)
def test_an_application(directory: Path, test: str) -> None:
    done = subprocess.run(arguments(directory, test), capture_output=True, text=True, timeout=2 * LIMIT)
    if done.returncode == SKIPPED:
        pytest.skip("needs root")
    assert done.returncode == 0, done.stderr


def test_an_application_that_execs_while_a_module_is_loading(directory: Path) -> None:
    command = arguments(directory, "exec_while_loading", variant=7)
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT)
    assert done.returncode == 0, done.stderr


def test_a_helper_never_has_helpers(directory: Path) -> None:
    """A module of modules, such as p11-kit-proxy, may lead back to us: that would go on for ever."""
    shutil.copy(directory / "link_host", directory / "pyha-host")
    command = arguments(directory, "inside_a_helper", "pyha-host")
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("stopped", [False, True])
def test_the_helper_ends_with_an_application_that_is_killed(directory: Path, stopped: bool) -> None:
    with subprocess.Popen(arguments(directory, "hold"), stdout=subprocess.PIPE, text=True) as application:
        assert application.stdout
        helper = Process(int(application.stdout.readline()))
        if stopped:
            application.send_signal(signal.SIGSTOP)
            assert not helper.ended(0.0)
        application.kill()
        assert helper.ended()
    helper.close()


def test_a_stopped_helper_ends_with_its_application(directory: Path) -> None:
    with subprocess.Popen(arguments(directory, "hold_alone"), stdout=subprocess.PIPE, text=True) as application:
        assert application.stdout
        helper = Process(int(application.stdout.readline()))
        helper.stop()
        assert not helper.ended(0.0)
        application.kill()
        assert helper.ended()
    helper.close()


def test_a_helper_started_by_hand_says_so(directory: Path) -> None:
    helper = arguments(directory, "")[2]
    done = subprocess.run([helper, "/nowhere.so"], capture_output=True, text=True, timeout=LIMIT, close_fds=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "not by hand" in done.stderr
