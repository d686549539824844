"""What a command does to keep secrets out of swap, core files and children, and to wipe them."""

import os
import subprocess
import sys

import pytest

from pyha.cli import memory
from tests.memory import find

_PROTECTED = """
import ctypes
from pathlib import Path
from pyha.cli import memory
memory.protect()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_a_protected_process_is_not_dumpable() -> None:
    done = subprocess.run([sys.executable, "-c", _PROTECTED], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_a_locked_page_is_in_no_dump_and_in_no_child() -> None:
    page = memory.locked_page()
    assert bytes(page) == bytes(len(page))
    needle = bytes(reversed(range(40, 80)))
    page[:40] = needle
    # Beside the page the needle is in this test's own bytes.
    assert any({"dd", "dc"} <= hit.flags for hit in find(os.getpid(), needle))
    memory.wipe(page)
    assert bytes(page) == bytes(len(page))
    assert not any({"dd", "dc"} <= hit.flags for hit in find(os.getpid(), needle))


@pytest.mark.parametrize("size", [0, 1, 2, 64])
def test_bytes_that_a_library_handed_over_are_overwritten(size: int) -> None:
    value = bytes(bytearray([7]) * size)
    memory.overwrite(value)
    assert value == (bytes(size) if size > 1 else b"\7" * size), "one byte is the interpreter's own"
