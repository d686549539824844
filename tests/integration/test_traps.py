"""A host that is never harmed: each trap of DESIGN.md that concerns the way in, from C programs that know no Python.

The module here is built with a small Python part (tests/native/trap_entry.py), so that what is tested is the start,
the crossing and the forks, whatever the calls mean.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import build_shim
from pyha.cryptoki.functions import COUNT_2_40, FUNCTIONS, Route
from tests.native_tools import LIMIT, NATIVE, build_module, compile_c, run

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module with the test's Python part."""
    return build_module(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles tests/native/NAME.c once."""
    directory = tmp_path_factory.mktemp("programs")

    def compiled(name: str, *flags: str) -> Path:
        output = directory / name
        if not output.exists():
            compile_c(
                NATIVE / f"{name}.c", output, "-I/usr/include/p11-kit-1", f"-I{NATIVE}", "-pthread", "-ldl", *flags
            )
        return output

    return compiled


def succeeded(done: "subprocess.CompletedProcess[str]") -> str:
    """Standard output of a program that ended well and said nothing on standard error."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# Trap 1


def test_a_module_loaded_locally_imports_extension_modules(program: Callable[..., Path], built: Path) -> None:
    expression = "__import__('_struct').calcsize('Q') + __import__('array').array('b', b'x').itemsize"
    assert succeeded(run([program("ask"), built, expression])) == "9\n"


def test_dlclose_takes_nothing_away(program: Callable[..., Path], built: Path) -> None:
    succeeded(run([program("unload"), built]))


def test_a_relative_path_is_right_after_chdir(program: Callable[..., Path], built: Path) -> None:
    expressions = ["ffi.string(lib.pyha_own_path()).decode()", "__import__('pyha').__file__"]
    said = succeeded(run([program("ask"), f"./{built.name}", *expressions], cwd=built.parent)).split()
    assert said == [str(built), str(build_shim.ROOT / "pyha" / "__init__.py")]


# Trap 2


def every_call(tmp_path: Path) -> Path:
    """A program that calls every function with nothing, and prints name and CK_RV of each."""
    lines = ['#include "host.h"', "int main(int argc, char **argv) { void *handle; CHECK(argc == 2);"]
    lines += ["CK_FUNCTION_LIST *list = load(argv[1], &handle);"]
    for function in FUNCTIONS[:COUNT_2_40]:
        if function.route is not Route.NATIVE:
            nothing = ", ".join("0" for _ in build_shim.parameters(function))
            lines.append(f'printf("{function.name} %#lx\\n", list->{function.name}({nothing}));')
    source = tmp_path / "every.c"
    source.write_text("\n".join([*lines, "return 0; }"]))
    return compile_c(source, tmp_path / "every", "-I/usr/include/p11-kit-1", f"-I{NATIVE}", "-ldl")


@pytest.mark.parametrize(
    ("entry", "library", "reason"),
    [
        ("trap_entry", ("/nonexistent/python",), "its library is not at /nonexistent/python"),
        ("no_such_entry", None, "ModuleNotFoundError"),
    ],
)
def test_an_interpreter_that_cannot_start_is_an_error_of_every_call(
    tmp_path: Path, entry: str, library: tuple[str, ...] | None, reason: str
) -> None:
    module = build_module(tmp_path / "built", entry, library)
    done = run([every_call(tmp_path), module])
    assert done.returncode == 0
    answers = dict(line.split() for line in done.stdout.splitlines())
    assert len(answers) == COUNT_2_40 - 1
    assert set(answers.values()) == {"0x5"}, answers
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("pyha: ")
    assert reason in done.stderr


def test_a_line_that_nobody_can_read_harms_nobody(tmp_path: Path) -> None:
    """Trap 7. The reader of standard error is gone, or does not read and the pipe is full."""
    module = build_module(tmp_path / "built", "no_such_entry")
    program = every_call(tmp_path)
    for gone in (True, False):
        reader, writer = os.pipe()
        if gone:
            os.close(reader)
        else:
            os.set_blocking(writer, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(writer, bytes(4096))
            os.set_blocking(writer, True)
        done = subprocess.run([program, module], stdout=subprocess.PIPE, stderr=writer, timeout=LIMIT, env={})
        os.close(writer)
        if not gone:
            os.close(reader)
        assert done.returncode == 0
        assert done.stdout.count(b" 0x5\n") == COUNT_2_40 - 1


def test_before_c_initialize_no_argument_is_read_and_no_python_started(tmp_path: Path, built: Path) -> None:
    """All pointers are 1 here: whoever reads one crashes. C_Initialize, which starts Python, is left out."""
    lines = ['#include "host.h"', "int main(int argc, char **argv) { void *handle; CHECK(argc == 2);"]
    lines += ["CK_FUNCTION_LIST *list = load(argv[1], &handle);", "int (*started)(void);"]
    for function in FUNCTIONS[1:COUNT_2_40]:
        if function.route is not Route.NATIVE:
            ones = ", ".join(f"({ctype})1" for ctype, _ in build_shim.parameters(function))
            lines.append(f"CHECK(list->{function.name}({ones}) == CKR_CRYPTOKI_NOT_INITIALIZED);")
    lines += ['started = (int (*)(void))dlsym(handle, "Py_IsInitialized");', "CHECK(started && !started());"]
    source = tmp_path / "before.c"
    source.write_text("\n".join([*lines, "return 0; }"]))
    done = run([compile_c(source, tmp_path / "before", "-I/usr/include/p11-kit-1", f"-I{NATIVE}", "-ldl"), built])
    succeeded(done)


def test_what_raises_is_never_ckr_ok(program: Callable[..., Path], built: Path) -> None:
    names = ["ValueError", "MemoryError", "KeyboardInterrupt", "SystemExit", "RecursionError"]
    done = run([program("raises"), built, *names])
    assert done.returncode == 0
    assert done.stdout.split() == ["0x5"] * len(names)


def test_many_threads_may_be_the_first(program: Callable[..., Path], built: Path) -> None:
    succeeded(run([program("race"), built]))


# Trap 3


def test_children_of_a_busy_program(program: Callable[..., Path], built: Path) -> None:
    succeeded(run([program("forks"), built]))


def test_a_fork_in_the_middle_of_the_start(tmp_path: Path, program: Callable[..., Path]) -> None:
    succeeded(run([program("forks_start"), build_module(tmp_path / "built", "slow_entry")]))


def test_threads_that_are_cancelled_inside(program: Callable[..., Path], built: Path) -> None:
    succeeded(run([program("cancelled"), built]))


# Trap 4


def test_a_program_that_is_another_python_is_refused(program: Callable[..., Path], built: Path) -> None:
    done = run([program("foreign", "-rdynamic"), built])
    assert done.returncode == 0, done.stderr
    version = build_shim.Python.running().version
    expected = f"pyha: this module was built for Python {version} and cannot run in a program that is Python 3.9.18 "
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1


def test_another_python_is_refused_where_the_module_does_not_see_it(program: Callable[..., Path], built: Path) -> None:
    done = run([program("foreign", "-rdynamic"), built, "deep"])
    assert done.returncode == 0, done.stderr
    expected = "pyha: this module cannot run in a program that has another Python, 3.9.18 (main, a day long ago), "
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1


# Trap 5


def test_the_environment_steers_nothing(tmp_path: Path, program: Callable[..., Path], built: Path) -> None:
    poison = tmp_path / "poison"
    poison.mkdir()
    for name in ("sitecustomize", "usercustomize", "os", "abc", "codecs", "threading", "cffi", "_cffi_backend", "pyha"):
        (poison / f"{name}.py").write_text(f"open({str(tmp_path / 'poisoned')!r}, 'w').write(__name__)\n")
    (poison / "python._pth").write_text(f"{poison}\n")
    (poison / "pyvenv.cfg").write_text(f"home = {poison}\n")
    environment = {
        "PYTHONPATH": str(poison),
        "PYTHONHOME": str(poison),
        "PYTHONSTARTUP": str(poison / "os.py"),
        "PYTHONPLATLIBDIR": str(poison),
        "PYTHONUSERBASE": str(poison),
        "PYTHONEXECUTABLE": str(poison / "python"),
        "PYTHONINSPECT": "1",
        "PYTHONVERBOSE": "1",
        "PYTHONOPTIMIZE": "2",
        "PYTHONMALLOC": "debug",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONTRACEMALLOC": "5",
        "PYTHONDEVMODE": "1",
        "PYTHONWARNINGS": "error",
        "PYTHONPROFILEIMPORTTIME": "1",
        "PYTHONIOENCODING": "latin-1",
        "PYTHONUTF8": "0",
        "PYTHONHASHSEED": "0",
        "PATH": str(poison),
        "HOME": str(poison),
    }
    questions = [
        "__import__('sys').path",
        "__import__('sys').flags",
        "__import__('sys').executable, __import__('sys').prefix",
        "'site' in __import__('sys').modules",
        "__import__('sys').getfilesystemencoding(), __import__('sys').dont_write_bytecode",
        "__import__('threading').__file__, __import__('pyha').__file__",
    ]
    plain = succeeded(run([program("ask"), built, *questions]))
    poisoned = succeeded(run([program("ask"), built, *questions], environment, cwd=poison))
    assert poisoned == plain
    assert not (tmp_path / "poisoned").exists()
    assert "('utf-8', True)" in plain
    assert plain.splitlines()[3] == "False"


def test_the_program_is_left_as_it_is(program: Callable[..., Path], built: Path) -> None:
    """Signal handlers, signal mask, locale (which it did not choose), directory, environment, descriptors, umask."""
    succeeded(run([program("untouched"), built], {"LC_ALL": "C.UTF-8", "A": "b"}))


def test_no_bytecode_is_written(tmp_path: Path, program: Callable[..., Path], built: Path) -> None:
    (tmp_path / "fresh_module.py").write_text("")
    statement = f"__import__('sys').path.append({str(tmp_path)!r}) or __import__('fresh_module').__name__"
    assert succeeded(run([program("ask"), built, statement])) == "fresh_module\n"
    assert [path.name for path in tmp_path.iterdir()] == ["fresh_module.py"]


# Trap 8


def test_signals_stay_with_the_applications_threads(program: Callable[..., Path], built: Path) -> None:
    succeeded(run([program("signals"), built]))


# The end of a program


@pytest.mark.parametrize("attempt", range(5))
def test_exit_while_everything_runs(program: Callable[..., Path], built: Path, attempt: int) -> None:
    succeeded(run([program("leave"), built]))


def test_a_program_that_ends_python_itself(program: Callable[..., Path], built: Path) -> None:
    succeeded(run([program("reinit"), built]))


# Interfaces (PKCS #11 3.0, section 5.4)


def test_interfaces(program: Callable[..., Path], built: Path) -> None:
    compiled = compile_c(
        NATIVE / "interfaces.c", built.parent / "interfaces", "-I/usr/include/nss", "-I/usr/include/nspr", "-ldl"
    )
    succeeded(run([compiled, built]))


def test_the_function_list_is_our_own(program: Callable[..., Path], built: Path) -> None:
    succeeded(run([program("impostor", "-rdynamic"), built]))


# A Python program of the same version


HOST = """
import ctypes, os, signal, sys, threading
sys.path[:] = [path for path in sys.path if path]
{before}
paths, handler = list(sys.path), signal.getsignal(signal.SIGINT)
module = ctypes.CDLL({module!r})
answer = [module.C_Initialize(None)]
if answer == [0]:
    child = os.fork()
    if child == 0:
        os._exit(module.C_GetInfo(None) != 0x190 or module.C_Initialize(None) != 0)
    answer.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    libc = ctypes.CDLL(None)
    child = libc.fork()
    if child == 0:
        libc._exit(module.C_GetInfo(None) != 0x190 or module.C_Initialize(None) != 0)
    answer.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    threads = [threading.Thread(target=module.C_GenerateRandom, args=(0, bytes(8), 8)) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    answer.append(module.C_GetInfo(None))
    answer.append(module.C_Finalize(None))
assert signal.getsignal(signal.SIGINT) is handler
print(answer, sys.path[len(paths):], sys.path[:len(paths)] == paths)
"""


def python_hosts() -> list[str]:
    """Pythons of this version: the one that runs, and the system's, which has libpython inside the program."""
    version = f"{sys.version_info[:2]}"
    hosts = [sys.executable]
    for path in ("/usr/bin/python3",):
        asked = subprocess.run([path, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True)
        if asked.stdout.strip() == version:
            hosts.append(path)
    return hosts


@pytest.mark.parametrize("python", python_hosts())
def test_a_python_program_shares_its_interpreter(built: Path, python: str) -> None:
    """It can import pyha itself: nothing is added to its path."""
    before = f"sys.path += {[str(build_shim.ROOT), *build_shim.Python.running().sites, str(NATIVE)]!r}"
    done = run([python, "-I", "-S", "-c", HOST.format(module=str(built), before=before)])
    assert succeeded(done) == "[0, 0, 0, 84, 0] [] True\n"


@pytest.mark.parametrize("python", python_hosts())
def test_a_python_program_that_cannot_import_pyha_gets_it_appended(built: Path, python: str) -> None:
    done = run([python, "-I", "-S", "-c", HOST.format(module=str(built), before="")])
    added = [str(build_shim.ROOT), str(NATIVE), *build_shim.Python.running().sites]
    assert succeeded(done) == f"[0, 0, 0, 84, 0] {added!r} True\n"


@pytest.mark.parametrize("python", python_hosts())
def test_a_python_program_that_binds_deeply(built: Path, python: str) -> None:
    """A program that is a Python without libpython is refused, one with it shares it; neither crashes."""
    program = """
import ctypes, os, sys
module = ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOW | os.RTLD_DEEPBIND)
answer = module.C_Initialize(None)
print(answer, module.C_GetInfo(None))
"""
    done = run([python, "-I", "-S", "-c", program, built])
    maps = subprocess.run([python, "-c", "print(open('/proc/self/maps').read())"], capture_output=True, text=True)
    if "libpython" in maps.stdout:
        assert succeeded(done) == "0 84\n"
    else:
        assert done.stdout == "5 5\n"
        assert done.stderr.startswith("pyha: this module cannot run in a program that has another Python, ")


def test_threads_that_hold_the_gil_may_be_the_first(built: Path) -> None:
    """ctypes.PyDLL keeps the GIL during a call, as careless extension modules do."""
    program = """
import ctypes, sys, threading
module, together, answers = ctypes.PyDLL(sys.argv[1]), threading.Barrier(8), []
def first():
    together.wait()
    answers.append(module.C_Initialize(None))
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(answers)
"""
    assert succeeded(run([sys.executable, "-I", "-S", "-c", program, built])) == f"{[0] * 8}\n"


def test_a_python_program_with_another_pyha_is_refused(tmp_path: Path, built: Path) -> None:
    (tmp_path / "pyha").mkdir()
    (tmp_path / "pyha" / "__init__.py").write_text("")
    before = f"sys.path += {[str(tmp_path), *build_shim.Python.running().sites]!r}"
    done = run([sys.executable, "-I", "-S", "-c", HOST.format(module=str(built), before=before)])
    assert done.stdout == "[5] [] True\n"
    assert done.stderr.count("\n") == 1
    assert f"does not belong to the package pyha that this program imports, {tmp_path / 'pyha'}" in done.stderr


def test_two_builds_in_one_python_program_are_refused(built: Path, tmp_path: Path) -> None:
    other = build_module(tmp_path / "other")
    before = f"assert ctypes.CDLL({str(other)!r}).C_Initialize(None) == 0"
    done = run([sys.executable, "-I", "-S", "-c", HOST.format(module=str(built), before=before)])
    assert done.stdout == "[5] [] True\n"
    assert f"this process already uses another build of this module, {other}" in done.stderr
