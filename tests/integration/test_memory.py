"""No PIN and no key value stays in memory after its call, or reaches a file: in an application that keeps none itself,
in what it shares with its helpers, and in the helpers, as far as it is ours and not the vendor library's. Other
processes get at nothing of a helper.
"""

import base64
import ctypes
import os
import resource
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from pyha.abi.native import module_path
from pyha.cli import chaos_plan
from pyha.ha.settings import Isolation, RecoveryMode, RecoverySettings
from tests import memory
from tests.chaos import LIMIT, Plan
from tests.domain_tools import Place, copy_place, make_place
from tests.integration.conftest import NO_RECOVERY
from tests.memory import Hit
from tests.native_tools import NATIVE, compile_c
from tests.other_users import as_stranger, as_the_same, needs_users, only_root_by_name, seen

PIN = b"needle in a haystack"
OTHER = b"a camel for that eye"
"""The SO's PIN, and what the user's is changed to."""
MASK = 0x5A
AT_ONCE = RecoverySettings(RecoveryMode.BACKGROUND, interval=0.2, attempts=-1)
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a helper's memory is root's to read")

SORTS = ("1 0 1", "1 1 1", "1 1 0", "0 1 0", "0 0 1")
"""Token and session objects: readable, sensitive, and such as must not leave their token."""
IMPORTS = tuple(f"import {each}" for each in SORTS)


@dataclass
class Secretive:
    """The application of tests/native/secretive.c."""

    process: "subprocess.Popen[str]"
    key: bytes = field(repr=False)

    def unwrap(self, sort: str) -> str:
        """Its key, as the application gets it from elsewhere, made an object of this sort."""
        transport = os.urandom(32)
        return self.do(f"unwrap {sort} {transport.hex()} {aes_key_wrap(transport, self.key).hex()}")

    def do(self, command: str) -> str:
        """The CK_RV, hexadecimal."""
        self.start(command)
        return self.answer()

    def start(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def pin_hits(self, pin: bytes = PIN) -> list[Hit]:
        return memory.find(self.process.pid, pin)

    def key_hits(self) -> list[Hit]:
        return memory.find(self.process.pid, self.key)


Start = Callable[..., AbstractContextManager[Secretive]]
"""(place, more of Popen's arguments)"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("secretive"), "secretive", 2, PIN.decode(), OTHER.decode())


@pytest.fixture
def place(kept: Place, tmp_path: Path) -> Place:
    """Nothing goes on in the background: a comparison that sees what the application is just making on one member and
    not yet on the other logs in anew, and its PIN is in memory for the time of that call."""
    made = copy_place(kept, tmp_path / "place")
    made.reconfigure(recovery=NO_RECOVERY)
    return made


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("program") / "secretive"
    flags = ("-I/usr/include/p11-kit-1", f"-I{NATIVE}", "-pthread", "-ldl")
    return compile_c(NATIVE / "secretive.c", output, *flags)


@pytest.fixture
def secretive(program: Path) -> Start:
    @contextmanager
    def started(place: Place, **more: Any) -> Iterator[Secretive]:
        key = os.urandom(32)
        environment = {
            **place.tokens[0].environment,
            "PYHA_CONF": str(place.conf),
            "XDG_RUNTIME_DIR": str(place.directory / "run"),
        }
        (place.directory / "run").mkdir(mode=0o700)
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [program, module_path()], stdin=pipe, stdout=pipe, env=environment, text=True, bufsize=1, **more
        ) as process:
            assert process.stdin is not None
            for secret in (PIN, OTHER, key):
                process.stdin.write(bytes(byte ^ MASK for byte in secret).hex() + "\n")
            try:
                yield Secretive(process, key)
            finally:
                process.kill()

    return started


def helpers(place: Place) -> list[int]:
    """The pids of the helpers of the place's applications; root only."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            ours = entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(b"pyha-host\0")
            if ours and str(place.conf).encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def kept_page(hits: list[Hit]) -> bool:
    """Whether a PIN is in the one page that is kept for members that return, and nowhere else: in no dump, wiped in a
    child."""
    return len(hits) == 1 and {"wf", "dd"} <= hits[0].flags


@pytest.mark.parametrize("isolation", [Isolation.PROCESS, Isolation.NONE])
def test_what_the_application_wiped_is_gone(place: Place, secretive: Start, isolation: Isolation) -> None:
    place.reconfigure(isolation=isolation)
    with secretive(place) as app:
        assert app.do("login") == "0"
        assert kept_page(app.pin_hits())
        for command in (*IMPORTS, "read", "encrypt", "decrypt"):
            assert app.do(command) == "0", command
            assert app.key_hits() == [], command
        for sort in SORTS:
            assert app.unwrap(sort) == "0", sort
            assert app.key_hits() == [], sort
        # Of a private key the vendor's library keeps copies in the process that it is in.
        pairs = ("import-ec 1 1 0", "import-ec 0 0 1") if isolation is Isolation.PROCESS else ()
        for command in ("read", *pairs, "read"):
            assert app.do(command) == "0", command
            assert app.key_hits() == [], command
        assert kept_page(app.pin_hits())
        assert app.do("logout") == "0"
        assert app.pin_hits() == []
        assert app.do("login") == "0"
        assert app.do("finalize") == "0"
        assert app.pin_hits() == app.key_hits() == []


@pytest.mark.parametrize("isolation", [Isolation.PROCESS, Isolation.NONE])
def test_of_pins_that_are_set_the_one_that_serves_is_kept(place: Place, secretive: Start, isolation: Isolation) -> None:
    place.reconfigure(isolation=isolation)
    with secretive(place) as app:
        assert app.do("login") == "0"
        assert app.do("set-pin 0 1") == "0"
        assert app.pin_hits() == []
        assert kept_page(app.pin_hits(OTHER))
        assert app.do("set-pin 0 1") == "a0", "the PIN is another one now"
        assert app.pin_hits() == []
        assert app.do("logout") == "0"
        assert app.do("login-so") == "0"
        assert kept_page(app.pin_hits(OTHER))
        assert app.do("init-pin") == "0"
        assert app.pin_hits() == []
        assert app.do("logout") == "0"
        assert app.pin_hits(OTHER) == []
        assert app.do("login") == "0"
        assert kept_page(app.pin_hits())


def test_a_secret_is_in_the_shared_memory_during_its_call_only(place: Place, secretive: Start) -> None:
    """What the other tests look for can be found: while the call lasts."""
    plan = Plan(place.directory / "plan")
    put_chaos(place, plan)
    with secretive(place) as app:
        assert app.do("login") == "0"
        plan.set("C_CreateObject -> hang")
        app.start("import 1 1 1")
        plan.wait_for("C_CreateObject")
        assert [hit for hit in app.key_hits() if "pyha-arena" in hit.mapping]
        plan.release()
        plan.set()
        assert app.answer() == "0"
        assert app.key_hits() == []


def test_a_helper_that_dies_in_the_call_takes_the_secret_with_it(place: Place, secretive: Start) -> None:
    plan = Plan(place.directory / "plan")
    put_chaos(place, plan)
    with secretive(place) as app:
        assert app.do("login") == "0"
        plan.set("C_CreateObject once -> crash")
        assert app.do("import 1 1 1") == "0", "the other member made it"
        assert plan.count("C_CreateObject once -> crash") == 1
        assert app.key_hits() == []
        assert kept_page(app.pin_hits())


@needs_root
def test_no_secret_stays_in_a_helper(place: Place, secretive: Start) -> None:
    """The module of faults takes PIN and key and hands them to nobody: what is found is ours."""
    plan = Plan(place.directory / "plan")
    put_chaos(place, plan)
    with secretive(place) as app:
        plan.set("C_Login -> answer CKR_PIN_LOCKED")
        assert app.do("login") == "a4"
        assert [memory.find(pid, PIN) for pid in helpers(place)] == [[], []]
        assert app.pin_hits() == []
        plan.set("C_CreateObject -> answer CKR_ATTRIBUTE_VALUE_INVALID")
        assert app.do("login") == "0"
        for command in IMPORTS:
            assert app.do(command) == "13", command
            for pid in helpers(place):
                assert memory.find(pid, app.key) == [], command
        assert app.do("logout") == "0"
        plan.set("C_Login -> hang")
        app.start("login")
        plan.wait_for("C_Login")
        assert any(memory.find(pid, PIN) for pid in helpers(place)), "during the call it is there"


@needs_root
def test_nothing_of_ours_stays_in_a_helper_of_softhsm(place: Place, secretive: Start) -> None:
    with secretive(place) as app:
        assert app.do("login") == "0"
        for command in (*IMPORTS, "read", "encrypt", "logout"):
            assert app.do(command) == "0", command
            pids = helpers(place)
            assert len(pids) == 2
            for pid in pids:
                hits = memory.find(pid, app.key) + memory.find(pid, PIN)
                assert [hit for hit in hits if "pyha-arena" in hit.mapping] == [], command


def test_none_stays_after_a_loss_a_return_and_a_resync(place: Place, secretive: Start) -> None:
    """The returned member was logged in to with the kept PIN, and got the keys that were made without it."""
    plan = Plan(place.directory / "plan")
    put_chaos(place, plan)
    place.reconfigure(recovery=AT_ONCE)
    with secretive(place) as app:
        assert app.do("login") == "0"
        plan.set("C_CreateObject once -> crash", "C_Initialize -> answer CKR_GENERAL_ERROR")
        for command in (
            "import 1 0 1",
            "import 1 1 0",
            "import-ec 1 1 0",
            "import-ec 1 1 1",
            "import 1 1 1",
            "encrypt",
        ):
            assert app.do(command) == "0", command
        plan.set()
        end = time.monotonic() + LIMIT
        while f"member {place.tokens[0].label} returned" not in place.logged():
            assert time.monotonic() < end, place.logged()
            time.sleep(0.01)  # the log is a file of another process: there is no event to wait for
        for command in ("import 0 0 1", "read", "encrypt", "decrypt"):
            assert app.do(command) == "0", command
        end = time.monotonic() + LIMIT
        assert app.key_hits() == []

        def only_kept() -> bool:
            pids = helpers(place) if os.geteuid() == 0 else []
            try:
                hits = [hit for pid in pids for secret in (app.key, PIN) for hit in memory.find(pid, secret)]
            except OSError:  # a helper has just ended
                return False
            return kept_page(app.pin_hits()) and not [hit for hit in hits if "pyha-arena" in hit.mapping]

        # A login in the background may be going on yet; what stays after it stays for good.
        while not only_kept():
            assert time.monotonic() < end, app.pin_hits()
        assert app.do("finalize") == "0"
        assert app.pin_hits() == app.key_hits() == []


def test_nothing_reaches_a_file(place: Place, secretive: Start) -> None:
    with secretive(place) as app:
        assert app.do("login") == "0"
        assert [app.unwrap(sort) for sort in SORTS] == ["0"] * len(SORTS)
        for command in (*IMPORTS, "read", "encrypt", "import-ec 1 1 0", "set-pin 0 0", "logout", "finalize"):
            assert app.do(command) == "0", command
        secrets = (app.key, PIN)
        forms = [*secrets, *(each.hex().encode() for each in secrets), *(base64.b64encode(each) for each in secrets)]
        files = [path for path in place.directory.rglob("*") if path.is_file() and path != place.pin]
        assert any(path.name == "log" for path in files)
        assert len([path for path in files if path.suffix == ".object"]) > len(IMPORTS)
        for path in files:
            content = path.read_bytes().lower()
            assert not [form for form in forms if form.lower() in content], path


def _may_dump() -> None:
    """In a child: what would write a core file may."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def _core(directory: Path) -> bytes:
    """The core file that was written here."""
    files = [path for path in directory.iterdir() if path.name.startswith("core")]
    if not files:
        pytest.skip("this machine writes its core files elsewhere, or none")
    return files[0].read_bytes()


def test_an_applications_core_file_has_no_secret(place: Place, secretive: Start, tmp_path: Path) -> None:
    with secretive(place, cwd=tmp_path, preexec_fn=_may_dump) as app:
        for command in ("login", *IMPORTS, "read", "encrypt", "decrypt", "import-ec 1 1 0"):
            assert app.do(command) == "0", command
        assert [app.unwrap(sort) for sort in SORTS] == ["0"] * len(SORTS)
        assert kept_page(app.pin_hits()), "it is in memory"
        app.process.send_signal(signal.SIGABRT)
        assert app.process.wait() == -signal.SIGABRT
        core = _core(tmp_path)
        assert str(place.conf).encode() in core, "its memory is there"
        assert [piece for secret in (PIN, app.key) for piece in (secret[:12], secret[-12:]) if piece in core] == []


def test_in_the_middle_of_a_call_only_the_applications_own_copy_is_dumped(
    place: Place, secretive: Start, tmp_path: Path
) -> None:
    """Not what it shares with its helpers."""
    plan = Plan(place.directory / "plan")
    put_chaos(place, plan)
    with secretive(place, cwd=tmp_path, preexec_fn=_may_dump) as app:
        assert app.do("login") == "0"
        plan.set("C_CreateObject -> hang")
        app.start("import 1 1 1")
        plan.wait_for("C_CreateObject")
        hits = app.key_hits()
        own = [hit for hit in hits if "dd" not in hit.flags]
        assert len(own) < len(hits)
        app.process.send_signal(signal.SIGABRT)
        app.process.wait()
        core = _core(tmp_path)
        assert core.count(app.key) == len(own)
        assert PIN not in core


@needs_root
def test_a_helper_writes_no_core_file(place: Place, secretive: Start, tmp_path: Path) -> None:
    """Though it may be as large as it likes, and dies with PIN and key in its hands."""
    plan = Plan(place.directory / "plan")
    put_chaos(place, plan)
    with orphans_are_ours(), secretive(place, cwd=tmp_path, preexec_fn=_may_dump) as app:
        assert app.do("login") == "0"
        before = set(helpers(place))
        plan.set("C_CreateObject once -> hang")
        app.start("import 1 1 1")
        plan.wait_for("C_CreateObject")
        (victim,) = (pid for pid in before if memory.find(pid, app.key))
        os.kill(victim, signal.SIGABRT)
        _, status = os.waitpid(victim, 0)
        assert os.WTERMSIG(status) == signal.SIGABRT
        assert not os.WCOREDUMP(status)
        assert app.answer() == "0", "the other member made it"
        app.process.send_signal(signal.SIGABRT)
        _, status = os.waitpid(app.process.pid, 0)
        app.process.returncode = -os.WTERMSIG(status)
        if not os.WCOREDUMP(status):
            pytest.skip("nothing writes core files here")


@needs_users
def test_helpers_are_closed_to_all_and_the_application_to_strangers(place: Place, secretive: Start) -> None:
    with secretive(place, preexec_fn=only_root_by_name) as app:
        for command in ("login", "import 1 1 0", "import 0 0 1"):
            assert app.do(command) == "0", command
        pids = helpers(place)
        assert len(pids) == 2
        assert {"fd", "environ"} <= seen(as_the_same, app.process.pid), "where it may be, it is"
        assert seen(as_stranger, app.process.pid) == set()
        for pid in pids:
            assert seen(as_the_same, pid) == set()
            assert seen(as_stranger, pid) == set()
        sockets = {os.readlink(each) for pid in pids for each in Path(f"/proc/{pid}/fd").iterdir()}
        named = [line.split() for line in Path("/proc/net/unix").read_text().splitlines() if "/" in line or "@" in line]
        assert not sockets & {f"socket:[{words[6]}]" for words in named}
        run = place.directory / "run" / "pyha"
        assert list(run.iterdir()), "it publishes its status"
        for path, others in ((run, 0), (place.pin, 0), (place.backup, 0), (place.conf, 0o044)):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 & ~others == 0, path


@contextmanager
def orphans_are_ours() -> Iterator[None]:
    """Helpers become children of this process, which learns how they end."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def put_chaos(place: Place, plan: Plan) -> None:
    """The first member behind the module of faults."""
    first, *others = place.group.members
    uri = replace(first.uri, module_path=chaos_plan.chaos_module())
    place.reconfigure(members=(replace(first, uri=uri, environment={**first.environment, **plan.environment}), *others))
