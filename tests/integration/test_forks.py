"""Fork in an application that really works with a group: everything together, on real tokens."""

from collections.abc import Callable
from pathlib import Path

from tests.integration.conftest import TestGroup
from tests.native_tools import NATIVE, compile_c, run


def test_a_server_that_forks_while_it_works(group: Callable[..., TestGroup], tmp_path: Path) -> None:
    made = group(members=2)
    flags = ("-I/usr/include/p11-kit-1", f"-I{NATIVE}", "-pthread", "-ldl")
    program = compile_c(NATIVE / "forks_real.c", tmp_path / "forks_real", *flags)
    done = run([program, made.module, made.pin], made.environment)
    assert (done.returncode, done.stderr) == (0, ""), made.logged()
    assert "error" not in made.logged()
