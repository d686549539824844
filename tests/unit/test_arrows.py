"""Who may import whom (DESIGN.md): entry -> provider -> runtime -> {ha, abi} -> cryptoki; cli beside them."""

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pyha"

ALLOWED = {
    "cryptoki": set(),
    "ha": {"cryptoki"},
    "abi": {"cryptoki"},
    "runtime": {"ha", "abi", "cryptoki"},
    "provider": {"runtime", "ha", "abi", "cryptoki"},
    "entry": {"provider", "runtime", "ha", "abi", "cryptoki"},
    "cli": {"runtime", "ha", "abi", "cryptoki"},
}

# Third parties and heavy parts of the standard library that the module must not load into other people's processes.
HEAVY = {
    "asyncio",
    "concurrent",
    "cryptography",
    "inspect",
    "logging",
    "multiprocessing",
    "socket",
    "subprocess",
    "unittest",
}
INSIDE = {"cryptoki", "ha", "abi", "runtime", "provider", "entry"}


def part_of(path: Path) -> str:
    """`ha` for pyha/ha/group.py, `entry` for pyha/entry.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path, nodes: Iterable[ast.AST]) -> set[str]:
    """Absolute names of all that these parts of a file import."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(PACKAGE.parent).parent.parts
            base = ".".join(package[: len(package) + 1 - node.level]) + "." if node.level else ""
            module = base + (node.module or "")
            names |= {module} | {f"{module.rstrip('.')}.{alias.name}" for alias in node.names}
    return names


def offences(path: Path, text: str) -> set[str]:
    """What a file imports and may not."""
    part = part_of(path)
    tree = ast.parse(text, str(path))
    names = imports_of(path, ast.walk(tree))
    ours = {name.split(".")[1] for name in names if name.startswith("pyha.")}
    # `from pyha import __version__` is no arrow.
    wrong = {f"pyha.{other}" for other in (ours & set(ALLOWED)) - ALLOWED[part] - {part}}
    if part in INSIDE:
        # At the top of a file it costs every application; inside a function only who needs it.
        wrong |= {name for name in imports_of(path, tree.body) if name.split(".")[0] in HEAVY}
    return wrong


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_imports_follow_the_arrows(path: Path) -> None:
    assert part_of(path) in ALLOWED, "a part that DESIGN.md does not know"
    assert offences(path, path.read_text()) == set()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("ha/group.py", "from pyha.abi.native import ffi"),
        ("abi/codec.py", "def f():\n    import pyha.ha.group"),
        ("cryptoki/kinds.py", "from pyha import runtime"),
        ("runtime/group.py", "from ..provider import Provider"),
        ("runtime/group.py", "import subprocess"),
        ("entry.py", "from pyha.cli import main"),
    ],
)
def test_a_wrong_import_is_seen(path: str, text: str) -> None:
    assert offences(PACKAGE / path, text) != set()
