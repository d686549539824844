"""The books of the express way under threads: tests/native/express_books.c, with the shim's own C linked into it."""

from pathlib import Path

import pytest

from tests.native_tools import NATIVE, compile_c, run

SHIM = NATIVE.parents[1] / "shim"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = [str(SHIM / f"{part}.c") for part in ("express", "places")]
    output = tmp_path_factory.mktemp("express_books") / "express_books"
    return compile_c(NATIVE / "express_books.c", output, *parts, f"-I{SHIM}", "-pthread")


def test_whoever_claims_a_session_gets_it(program: Path) -> None:
    """However much it is in use: else C_Logout would wait as long as other threads make random bytes."""
    done = run([program, "claims"])
    assert done.returncode == 0, done.stderr


def test_the_end_of_one_run_is_not_that_of_the_next(program: Path) -> None:
    """One thread's C_Finalize is not done when another's C_Initialize begins; the handles are the same."""
    done = run([program, "ended"])
    assert done.returncode == 0, done.stderr
