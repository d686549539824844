"""The table against the world: the C that is derived from it must be the C of the headers that Debian installs."""

import re
import subprocess
from pathlib import Path

import pytest

import build_shim
from pyha.cryptoki.functions import BY_NAME, COUNT_2_40, FUNCTIONS
from pyha.cryptoki.kinds import KINDS, Kind
from tests.native_tools import compile_c

P11_KIT = ("-I/usr/include/p11-kit-1", "#include <p11-kit/pkcs11.h>\n")
NSS = ("-I/usr/include/nss -I/usr/include/nspr", '#include "pkcs11.h"\n')

SCALARS = re.findall(r"^typedef .*?(CK_\w+);$", (build_shim.SHIM / "types.cdef").read_text(), re.MULTILINE)


def own_structures() -> dict[str, list[str]]:
    """Name and fields of each structure of ours."""
    text = (build_shim.SHIM / "types.cdef").read_text() + build_shim.declarations()
    found = re.findall(r"struct (CK_\w+) \{(.*?)\}", text, re.DOTALL)
    return {name: re.findall(r"(\w+)(?:\[\d+\])?;", body) for name, body in found}


def renamed(text: str) -> str:
    """Our types under other names, so that they stand beside the header's. Comments name none."""
    return re.sub(r"\bCK_", "OUR_CK_", text)


def check(tmp_path: Path, header: tuple[str, str], version: tuple[int, int]) -> None:
    flags, include = header
    functions = [function for function in FUNCTIONS if function.since <= version]
    listed = "CK_FUNCTION_LIST" if version == (2, 40) else "CK_FUNCTION_LIST_3_0"
    known = own_structures()
    # NSS has a field of its own in CK_C_INITIALIZE_ARGS, which the specification's pReserved is for.
    skipped = {"CK_C_INITIALIZE_ARGS"} if version >= (3, 0) else {"CK_INTERFACE", "CK_FUNCTION_LIST_3_0"}
    lines = [include, "#include <stddef.h>", "#include <stdint.h>"]
    # A prototype of ours beside the header's: a wrong kind is "conflicting types for 'C_Xxx'".
    lines += [f"extern {build_shim.prototype(function)};" for function in functions]
    lines += [f"static {listed} list = {{ .version = {{0, 0}},"]
    lines += [f"    .{function.name} = {function.name}," for function in functions]
    lines += ["};", f"{listed} *used(void) {{ return &list; }}"]
    lines.append(renamed((build_shim.SHIM / "types.cdef").read_text() + build_shim.declarations()))
    for name, fields in known.items():
        if name in skipped:
            continue
        lines.append(f'_Static_assert(sizeof({name}) == sizeof(OUR_{name}), "{name}");')
        for field in fields:
            ours, theirs = f"struct OUR_{name}", name
            lines.append(
                f'_Static_assert(offsetof({ours}, {field}) == offsetof({theirs}, {field}), "{name}.{field}");\n'
                f"_Static_assert(sizeof((({ours} *)0)->{field}) == sizeof((({theirs} *)0)->{field}),"
                f' "{name}.{field}");'
            )
    for name in SCALARS:
        if name in known or any(name.startswith(other) for other in (*skipped, "CK_FUNCTION_LIST_3_0")):
            continue
        lines.append(f'_Static_assert(sizeof({name}) == sizeof(OUR_{name}), "{name}");')
    source = tmp_path / "table.c"
    source.write_text("\n".join(lines) + "\n")
    compile_c(source, tmp_path / "table.o", "-c", *flags.split())


def test_the_2_40_functions_are_those_of_the_header(tmp_path: Path) -> None:
    check(tmp_path, P11_KIT, (2, 40))


def test_the_3_0_functions_are_those_of_the_header(tmp_path: Path) -> None:
    check(tmp_path, NSS, (3, 0))


def test_a_wrong_kind_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two tests above can fail, and name the function."""
    monkeypatch.setitem(KINDS, Kind.OUT_SESSION, KINDS[Kind.OUT_TOKEN_INFO])
    with pytest.raises(AssertionError, match=r"conflicting types for .C_OpenSession"):
        check(tmp_path, P11_KIT, (2, 40))


def test_the_module_exports_the_table_and_nothing_else(tmp_path: Path) -> None:
    module, *_ = build_shim.build(build_shim.Target(build_shim.ROOT / "build"))
    done = subprocess.run(["nm", "-D", "--defined-only", str(module)], capture_output=True, text=True, check=True)
    symbols = {line.split()[-1] for line in done.stdout.splitlines()}
    assert symbols == set(BY_NAME) | {"PyInit__pyha"}


def test_rows_are_numbered_as_the_function_lists() -> None:
    assert [function.index for function in FUNCTIONS] == list(range(len(FUNCTIONS)))
    assert (COUNT_2_40, len(FUNCTIONS)) == (68, 92)
    assert all(function.since == (2, 40) for function in FUNCTIONS[:COUNT_2_40])
    assert len(BY_NAME) == len(FUNCTIONS)


def test_every_argument_structure_has_the_fields_of_its_kinds() -> None:
    from pyha.abi.native import ffi

    for function in FUNCTIONS:
        names = [name for _, name in build_shim.parameters(function)]
        assert len(set(names)) == len(names), function.name
        structure = ffi.typeof(f"struct pyha_args_{function.name}")
        assert [name for name, _ in structure.fields] == names, function.name
