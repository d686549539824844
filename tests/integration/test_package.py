"""The installed package: the wheel holds the module and the helper program, and they find what belongs to them."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import build_shim
from tests.native_tools import NATIVE, compile_c, path_environment, run


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `pip install .` makes and installs."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    done = subprocess.run(command, cwd=build_shim.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = directory.glob("*.whl")
    return made


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """A directory of packages with ours unpacked as pip does it, permissions included."""
    packages = tmp_path / "packages"
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            target = Path(archive.extract(item, packages))
            target.chmod(item.external_attr >> 16 & 0o777 or 0o644)
    return packages


def test_the_wheel_is_for_this_platform_and_holds_all_three(wheel: Path) -> None:
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"-{python}-{python}-linux" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        native = {
            item.filename: item.external_attr >> 16 & 0o111
            for item in archive.infolist()
            if item.filename.startswith("pyha/_native/")
        }
        top = {name.split("/")[0] for name in archive.namelist()}
    assert native.keys() == {f"pyha/_native/{name}" for name in ("pyha-pkcs11.so", "pyha-host", "pyha-chaos.so")}
    assert native["pyha/_native/pyha-host"] == 0o111
    assert top == {"pyha", next(name for name in top if name.endswith(".dist-info"))}


def test_the_command_says_where_the_module_is(installed: Path) -> None:
    environment = {**path_environment(), "PYTHONPATH": str(installed)}
    done = run([sys.executable, "-P", "-m", "pyha.cli.main", "module-path"], environment, cwd=installed)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{installed}/pyha/_native/pyha-pkcs11.so\n"


@pytest.mark.parametrize("backend_beside", [True, False])
def test_the_module_finds_its_own_package(tmp_path: Path, installed: Path, backend_beside: bool) -> None:
    """Even when it is loaded through a symbolic link. Where cffi is installed beside it, no other directory is used."""
    shutil.copy(NATIVE / "trap_entry.py", installed / "pyha" / "entry.py")
    if backend_beside:
        found = importlib.util.find_spec("_cffi_backend")
        assert found is not None
        assert found.origin is not None
        shutil.copy(found.origin, installed)
    link = tmp_path / "link.so"
    os.symlink(installed / "pyha" / "_native" / "pyha-pkcs11.so", link)
    program = compile_c(NATIVE / "ask.c", tmp_path / "ask", "-I/usr/include/p11-kit-1", f"-I{NATIVE}", "-ldl")
    questions = ["__import__('pyha').__file__", "'\\n'.join(__import__('sys').path)"]
    done = run([program, link, *questions])
    assert (done.returncode, done.stderr) == (0, "")
    package, *paths = done.stdout.splitlines()
    assert package == f"{installed}/pyha/__init__.py"
    python = build_shim.Python.running()
    assert paths == [*python.library, str(installed), *([] if backend_beside else python.sites)]
