"""NSS softoken beside SoftHSM: reached with its module's own argument, and refused with the reason, because it cannot
hold the group's records."""

import subprocess
from pathlib import Path

import pytest

from pyha.cli.main import main
from tests.domain_tools import domain_objects
from tests.softhsm import MODULE, SoftHSM

PIN = "12345678"


def _softoken() -> str:
    for directory in ("", "nss/"):
        for found in Path("/usr/lib").glob(f"*-linux-gnu/{directory}libsoftokn3.so"):
            return str(found)
    raise AssertionError("Debian's libnss3 is not installed")


@pytest.fixture
def nss(tmp_path: Path) -> tuple[str, str]:
    """The module, and its argument for a database with a user PIN."""
    database = tmp_path / "nss"
    database.mkdir()
    (tmp_path / "pin").write_text(f"{PIN}\n")
    (tmp_path / "pin").chmod(0o600)
    subprocess.run(["certutil", "-N", "-d", f"sql:{database}", "-f", str(tmp_path / "pin")], check=True)
    argument = f"configdir='sql:{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
    return _softoken(), argument


@pytest.mark.parametrize("named", ["first", "last"])
def test_a_token_that_cannot_hold_records_is_refused_and_nothing_is_left(
    softhsm: SoftHSM, nss: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    module, argument = nss
    token = softhsm.token("soft", pin=PIN)
    uris = [
        f"pkcs11:token=soft?module-path={MODULE}",
        f"pkcs11:token=NSS%20Certificate%20DB?module-path={module}",
    ]
    words = ["group", "create", "mixed", *(uris if named == "last" else reversed(uris))]
    words += ["--environment", f"SOFTHSM2_CONF={token.conf}", "--config", str(tmp_path / "etc" / "pyha.toml")]
    words += ["--pin-source", f"file:{tmp_path / 'pin'}"]
    # Without its argument the module is not even initialised.
    assert main(words) == 2
    assert "NSS Certificate DB: C_Initialize answered CKR_ARGUMENTS_BAD" in capsys.readouterr().err
    assert main([*words, "--reserved", f"{module}={argument}"]) == 2
    assert capsys.readouterr().err == (
        "pyha: NSS Certificate DB: the token cannot hold the group's records, which are private data objects: "
        "CKR_ATTRIBUTE_VALUE_INVALID\n"
    )
    assert domain_objects(token) == []
    assert not (tmp_path / "etc" / "pyha.toml").exists()


def test_an_argument_for_a_module_that_nobody_has_is_a_mistake(
    nss: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, argument = nss
    words = ["group", "create", "mixed", f"pkcs11:token=soft?module-path={MODULE}", "--pin-source", "env:NONE"]
    words += ["--config", str(tmp_path / "etc" / "pyha.toml")]
    assert main([*words, "--reserved", f"{module}={argument}"]) == 2
    assert f"--reserved is for {module}, which is the module-path of no member" in capsys.readouterr().err
    assert main([*words, "--reserved", "nothing"]) == 2
    assert "--reserved nothing is not MODULE=STRING" in capsys.readouterr().err
