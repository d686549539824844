"""PIN sources: what they may be, which files are believed, and that no PIN gets into a message."""

import os
from pathlib import Path

import pytest

from pyha.runtime import pinsource, trusted
from pyha.runtime.pinsource import PinUnavailable

NOBODY = 65534


@pytest.fixture
def pin_file(tmp_path: Path) -> Path:
    path = tmp_path / "pin"
    path.write_bytes(b"98761234\n")
    path.chmod(0o600)
    return path


def refusal(source: str, environ: dict[str, str] | None = None, secure: bool = False) -> str:
    with pytest.raises(PinUnavailable) as caught:
        pinsource.read(source, environ or {}, secure=secure)
    assert "98761234" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "pin"),
    [
        (b"1234\n", b"1234"),
        (b"1234", b"1234"),
        (b"1234\n\n", b"1234\n"),
        (b" 12 \xff", b" 12 \xff"),
        (b"1\r\n", b"1\r"),
    ],
)
def test_a_file_without_its_last_newline(pin_file: Path, content: bytes, pin: bytes) -> None:
    pin_file.write_bytes(content)
    found = pinsource.read(f"file:{pin_file}", {})
    assert found == pin
    assert isinstance(found, bytearray)


def test_the_environment() -> None:
    assert pinsource.read("env:PIN", {"PIN": "1234\udcff"}) == b"1234\xff"
    assert refusal("env:PIN") == "the PIN source env:PIN is empty"


def test_with_more_rights_than_the_user_the_environment_is_not_believed(pin_file: Path) -> None:
    assert "is not used in a program that runs with another user's rights" in refusal("env:P", {"P": "98761234"}, True)
    assert pinsource.read(f"file:{pin_file}", {}, secure=True) == b"98761234"


@pytest.mark.parametrize("mode", [0o640, 0o400])
def test_the_group_may_read_a_pin(pin_file: Path, mode: int) -> None:
    pin_file.chmod(mode)
    assert pinsource.read(f"file:{pin_file}", {}) == b"98761234"


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (0o604, "is open to every user"),
        (0o601, "is open to every user"),
        (0o620, "is writable by others"),
        (0o602, "is writable"),
    ],
)
def test_a_pin_that_others_can_reach_is_refused(pin_file: Path, mode: int, words: str) -> None:
    pin_file.chmod(mode)
    said = refusal(f"file:{pin_file}")
    assert said.startswith(f"the PIN file {pin_file} ")
    assert words in said


def test_a_pin_that_others_could_replace_is_refused(pin_file: Path) -> None:
    pin_file.parent.chmod(0o777)
    assert "lies in a directory that is writable by others" in refusal(f"file:{pin_file}")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user takes root")
def test_a_pin_file_of_another_user_is_refused(pin_file: Path) -> None:
    os.chown(pin_file, NOBODY, 0)
    assert f"belongs to user {NOBODY}" in refusal(f"file:{pin_file}")


def test_files_that_hold_no_pin(pin_file: Path) -> None:
    pin_file.write_bytes(b"\n")
    assert "is empty" in refusal(f"file:{pin_file}")
    pin_file.write_bytes(b"98761234" * 600)
    assert "is longer than 4096 bytes" in refusal(f"file:{pin_file}")
    pin_file.unlink()
    assert "cannot be read: No such file" in refusal(f"file:{pin_file}")


@pytest.mark.parametrize(
    "source", ["", "prompt", "file:pin", "file:", "env:", "env:A=B", "|/bin/cat /etc/pin", "/etc/pin", "98761234"]
)
def test_what_is_no_source(source: str) -> None:
    assert pinsource.complaint(source)
    refusal(source)


def test_what_is_handed_over_is_the_only_copy(pin_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[memoryview] = []
    real = os.readv

    def readv(descriptor: int, buffers: list[memoryview]) -> int:
        used.extend(buffers)
        return real(descriptor, buffers)

    monkeypatch.setattr(os, "readv", readv)
    assert trusted.read(str(pin_file), 100, private=True) == b"98761234\n"
    assert used
    assert not any(any(buffer) for buffer in used)
