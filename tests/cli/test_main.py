"""The `pyha` command line: exit statuses, one sentence for a mistake, and what is printed where."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyha
from pyha.cli import main as cli
from pyha.cli import module_path

GOOD = """
[[group]]
label = "payments"
id = "00112233445566778899aabbccddeeff"
serial = "1599447001"
[[group.member]]
uri = "pkcs11:token=hsm-a;serial=1?module-path={module}&pin-source=file:{pin}"
[[group.member]]
uri = "pkcs11:token=hsm-b;serial=2?module-path={module}"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "module.so").write_bytes(b"\x7fELF")
    (tmp_path / "pin").write_bytes(b"98761234\n")
    (tmp_path / "pin").chmod(0o600)
    path = tmp_path / "pyha.toml"
    path.write_text(GOOD.format(module=tmp_path / "module.so", pin=tmp_path / "pin"))
    path.chmod(0o644)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of one command line."""
    try:
        status = cli.main(words)
    except SystemExit as end:  # argparse's own way out
        status = int(end.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_good_configuration(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "config", "check", str(file)) == (0, f"OK: {file}: 1 group: payments (2 members)\n", "")


def test_every_error_with_its_key(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "module.so").unlink()
    (file.parent / "pin").chmod(0o644)
    file.write_text("[log]\nto = 'file:/no/such/place'\ncolour = 3\n" + file.read_text())
    status, out, err = run(capsys, "config", "check", str(file))
    assert (status, out) == (1, "")
    module = f"the module {file.parent}/module.so cannot be found: No such file or directory"
    assert err.splitlines() == [
        f"{file}: log.colour: unknown key",
        f"{file}: group[0].member[0].uri: {module}",
        f"{file}: group[0].member[0].uri: the PIN file {file.parent}/pin is open to every user: "
        f"chmod o-rwx {file.parent}/pin",
        f"{file}: group[0].member[1].uri: {module}",
        f"{file}: log.to: there is no directory /no/such",
    ]


def test_a_module_that_is_a_directory(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "module.so").unlink()
    (file.parent / "module.so").mkdir()
    status, _, err = run(capsys, "config", "check", str(file))
    assert status == 1
    assert err.count("is not a regular file") == 2


def test_a_file_that_is_not_believed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.chmod(0o666)
    expected = f"pyha: {file}: is writable by others than its owner: chmod go-w {file}\n"
    assert run(capsys, "config", "check", str(file)) == (1, "", expected)


def test_doubts_are_warnings(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIN_A", raising=False)
    text = file.read_text().replace("token=hsm-b;serial=2", "token=payments")
    file.write_text("ha-only = false\n" + text.replace(f"file:{file.parent}/pin", "env:PIN_A"))
    status, out, err = run(capsys, "config", "check", str(file))
    assert status == 0
    assert out.startswith("OK: ")
    first, second = f"{file}: warning: group[0].member[0].uri: ", f"{file}: warning: group[0].member[1].uri: "
    assert err.splitlines() == [
        first + "the environment variable of pin-source env:PIN_A is not set here",
        second + "without a serial a re-initialised token is not told from the old one",
        second + "with ha-only off two slots show the label 'payments'",
    ]


def test_a_file_without_a_group(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("")
    status, out, err = run(capsys, "config", "check", str(file))
    assert (status, out) == (0, f"OK: {file}: 0 groups\n")
    assert "the module shows no virtual slot" in err


def test_the_file_that_the_module_would_use(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYHA_CONF", str(file))
    assert run(capsys, "config", "check")[:2] == (0, f"OK: {file}: 1 group: payments (2 members)\n")
    monkeypatch.chdir(file.parent)
    assert run(capsys, "config", "check", "pyha.toml")[:2] == (0, f"OK: {file}: 1 group: payments (2 members)\n")
    monkeypatch.setenv("PYHA_CONF", "/no/such/file")
    assert run(capsys, "config", "check") == (1, "", "pyha: /no/such/file: cannot be read: No such file or directory\n")


@pytest.mark.skipif(os.path.lexists("/etc/pyha/pyha.toml"), reason="this machine has a configuration of its own")
def test_no_configuration_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYHA_CONF", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    status, out, err = run(capsys, "config", "check")
    assert (status, out) == (2, "")
    assert err.startswith("pyha: there is no configuration: ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "pyha: the following arguments are required: COMMAND (see pyha --help)\n"),
        (["config"], "pyha: the following arguments are required: ACTION (see pyha config --help)\n"),
        (["module-path", "x"], "pyha: unrecognized arguments: x (see pyha --help)\n"),
        (["frob"], None),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], sentence: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("pyha: ")
    assert err.count("\n") == 1
    assert sentence is None or err == sentence


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert all(name in out for name in cli.COMMANDS)


def test_every_command_has_its_module(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.COMMANDS:
        assert run(capsys, name, "--help")[0] == 0


def test_where_the_module_is(tmp_path: Path) -> None:
    package = tmp_path / "pyha"
    built, installed = tmp_path / "build" / "pyha-pkcs11.so", package / "_native" / "pyha-pkcs11.so"
    assert module_path.find(package) is None
    for path in (built, installed):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        assert module_path.find(package) == path


def test_module_path_without_a_module(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyha, "__file__", str(tmp_path / "pyha" / "__init__.py"))
    status, out, err = run(capsys, "module-path")
    assert (status, out) == (1, "")
    assert err.startswith("pyha: pyha-pkcs11.so is not built: ")


def test_module_path_prints_an_absolute_path_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "build" / "pyha-pkcs11.so"
    module.parent.mkdir()
    module.write_bytes(b"")
    monkeypatch.setattr(pyha, "__file__", str(tmp_path / "pyha" / "__init__.py"))
    assert run(capsys, "module-path") == (0, f"{module}\n", "")


def test_module_path_does_not_load_the_other_commands() -> None:
    program = "import sys; from pyha.cli.main import main; main(['module-path']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert "pyha.cli.module_path" in loaded
    assert not [name for name in loaded if name.startswith(("pyha.runtime", "pyha.abi", "cryptography", "cffi"))]


def test_a_reader_that_went_away_is_no_traceback(file: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "pyha.cli.main", "config", "check", str(file)]
    try:
        done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_output_that_cannot_be_written_is_named(file: Path) -> None:
    command = [sys.executable, "-m", "pyha.cli.main", "config", "check", str(file)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, b"pyha: No space left on device\n")


def test_closed_streams_change_nothing_of_the_exit_status(file: Path) -> None:
    command = [sys.executable, "-m", "pyha.cli.main", "config", "check"]
    script = '"$@" <&- >&- 2>&-'
    for path, status in ((str(file), 0), ("/no/such/file", 1)):
        done = subprocess.run(["sh", "-c", script, "sh", *command, path], timeout=60, check=False)
        assert done.returncode == status
