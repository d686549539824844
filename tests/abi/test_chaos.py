"""pyha-chaos.so through a real helper over SoftHSM: every action, counting, changes of the plan while it is obeyed."""

import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyha.abi.codec import Codecs
from pyha.abi.link import open_process
from pyha.cli.chaos_plan import chaos_module, tell
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import COUNT_2_40, FUNCTIONS
from pyha.cryptoki.values import Attribute, Mechanism, Out, Query
from pyha.runtime.member import Connection, MemberLost
from pyha.runtime.uri import TokenUri
from tests.abi.link_tools import soon, start
from tests.chaos import Plan
from tests.native_tools import NATIVE, compile_c, run
from tests.softhsm import SoftHSM, SoftHSMToken

SHA256 = Mechanism(ck.CKM_SHA256)
ABC = bytes.fromhex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
"""SHA-256 of "abc" (FIPS 180-4)."""

Connect = Callable[[], Connection]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path / "plan")


@pytest.fixture
def token(softhsm: SoftHSM) -> SoftHSMToken:
    return softhsm.token("chaos")


@pytest.fixture
def connect(plan: Plan, token: SoftHSMToken) -> Iterator[Connect]:
    """A member of the runtime, whose helper loads the module of faults."""
    made: list[Connection] = []

    def connect() -> Connection:
        environment = {**token.environment, **plan.environment}
        link = lambda deadline: open_process(chaos_module(), environment, deadline)  # noqa: E731
        made.append(Connection("member", 1, link, TokenUri(token=token.label), Codecs()))
        made[-1].connect(soon())
        return made[-1]

    yield connect
    for each in made:
        each.close()


@pytest.fixture
def member(connect: Connect) -> Connection:
    return connect()


def digest(member: Connection, session: int, data: bytes = b"abc", room: int = 32) -> tuple[int, bytes | None]:
    """C_DigestInit, if no digest is open, and C_Digest."""
    assert member.call("C_DigestInit", soon(), session, SHA256)[0] in (ck.CKR_OK, ck.CKR_OPERATION_ACTIVE)
    rv, results = member.call("C_Digest", soon(), session, data, Out(room))
    return rv, results[2][1] if results[2] else None


def serial(member: Connection) -> bytes:
    """The token's, by C_GetTokenInfo."""
    return bytes(member.call("C_GetTokenInfo", soon(), member.slot, None)[1][1][80:96])


def random(member: Connection, session: int, size: int = 16) -> int:
    """C_GenerateRandom."""
    return member.call("C_GenerateRandom", soon(), session, Out(size))[0]


def test_without_a_fault_it_is_the_module_itself(member: Connection, plan: Plan) -> None:
    session = member.open_session(soon())
    assert digest(member, session) == (ck.CKR_OK, ABC)
    assert plan.fired() == []
    # what SoftHSM has, and no more: it is a module of 2.40
    assert [member.offers(function) for function in FUNCTIONS] == [at < COUNT_2_40 for at in range(len(FUNCTIONS))]


def test_an_answer_instead_of_the_call(member: Connection, plan: Plan) -> None:
    session = member.open_session(soon())
    plan.set("C_CloseSession -> answer CKR_DEVICE_ERROR")
    assert member.call("C_CloseSession", soon(), session)[0] == ck.CKR_DEVICE_ERROR
    plan.set("C_CloseSession -> answer 0x80001234")
    assert member.call("C_CloseSession", soon(), session)[0] == 0x80001234
    plan.set()
    assert member.call("C_CloseSession", soon(), session)[0] == ck.CKR_OK


def test_an_answer_after_the_call(member: Connection, plan: Plan) -> None:
    session = member.open_session(soon())
    plan.set("C_CloseSession -> answer-after CKR_DEVICE_ERROR")
    assert member.call("C_CloseSession", soon(), session)[0] == ck.CKR_DEVICE_ERROR
    plan.set()
    assert member.call("C_CloseSession", soon(), session)[0] == ck.CKR_SESSION_HANDLE_INVALID


@pytest.mark.parametrize("action", ["crash", "exit", "exit 0"])
def test_the_end_of_the_helper(member: Connection, plan: Plan, action: str) -> None:
    session = member.open_session(soon())
    plan.set(f"C_GenerateRandom -> {action}")
    with pytest.raises(MemberLost, match="its helper crashed in C_GenerateRandom") as lost:
        random(member, session)
    assert lost.value.culprit
    assert plan.fired() == ["C_GenerateRandom"]


def test_a_hang_until_it_is_released(member: Connection, plan: Plan) -> None:
    session, other = member.open_session(soon()), member.open_session(soon())
    plan.set("C_Digest nth=1 -> hang")
    hung = start(digest, member, session)
    plan.wait_for("C_Digest")
    assert digest(member, other) == (ck.CKR_OK, ABC)
    assert not hung.done()
    plan.release()
    assert hung.result(30) == (ck.CKR_OK, ABC)
    assert plan.journal("released") == ["C_Digest"]


def test_a_hang_goes_on_while_other_lines_change(member: Connection, plan: Plan) -> None:
    session, other = member.open_session(soon()), member.open_session(soon())
    plan.set(f"C_Digest session={session} -> hang")
    hung = start(digest, member, session)
    plan.wait_for("C_Digest")
    plan.add("C_GenerateRandom -> answer CKR_CANCEL")
    assert random(member, other) == ck.CKR_CANCEL
    assert digest(member, other) == (ck.CKR_OK, ABC)
    assert plan.journal("released") == []
    plan.release()
    assert hung.result(30) == (ck.CKR_OK, ABC)
    assert random(member, other) == ck.CKR_CANCEL


def test_a_hang_meets_the_deadline(member: Connection, plan: Plan) -> None:
    session = member.open_session(soon())
    plan.set("C_GenerateRandom -> hang")
    with pytest.raises(MemberLost, match="did not return within its deadline"):
        member.call("C_GenerateRandom", time.monotonic() + 0.2, session, Out(16))


def test_a_delay_is_a_time_in_which_others_go_on(member: Connection, plan: Plan) -> None:
    session, other = member.open_session(soon()), member.open_session(soon())
    plan.set(f"C_Digest session={session} -> delay 300")
    late = start(digest, member, session)
    plan.wait_for("C_Digest")
    assert digest(member, other) == (ck.CKR_OK, ABC)
    began = time.monotonic()
    assert late.result(30) == (ck.CKR_OK, ABC)
    assert digest(member, session) == (ck.CKR_OK, ABC)
    assert time.monotonic() - began >= 0.3  # no upper bound: the machine may be busy


def test_a_length_beyond_the_buffer_is_not_believed(member: Connection, plan: Plan) -> None:
    session = member.open_session(soon())
    plan.set("C_Digest once -> length 100000")
    assert digest(member, session)[0] == ck.CKR_DEVICE_ERROR
    plan.set("C_Digest once -> length +1")
    assert digest(member, session)[0] == ck.CKR_DEVICE_ERROR
    plan.set("C_Digest once -> length -2")
    assert digest(member, session) == (ck.CKR_OK, ABC[:30])
    plan.set("C_FindObjects -> length 5")
    assert member.call("C_FindObjectsInit", soon(), session, ())[0] == ck.CKR_OK
    assert member.call("C_FindObjects", soon(), session, 4)[0] == ck.CKR_DEVICE_ERROR


def test_a_length_is_also_wrong_where_only_it_was_asked_for(member: Connection, plan: Plan) -> None:
    session = member.open_session(soon())
    plan.set("C_Digest -> length 7")
    assert member.call("C_DigestInit", soon(), session, SHA256)[0] == ck.CKR_OK
    rv, results = member.call("C_Digest", soon(), session, b"abc", Out(None))
    assert (rv, results[2][0]) == (ck.CKR_OK, 7)


def test_a_bit_of_the_last_output_flips(member: Connection, plan: Plan) -> None:
    session = member.open_session(soon())
    plan.set("C_Digest -> corrupt")
    flipped = ABC[:-1] + bytes([ABC[-1] ^ 1])
    assert digest(member, session) == (ck.CKR_OK, flipped)
    # nothing to corrupt: neither done nor said
    assert digest(member, session, room=31)[0] == ck.CKR_BUFFER_TOO_SMALL
    assert plan.fired() == ["C_Digest"]


def test_a_length_that_is_wrong_already_leads_nowhere(member: Connection, plan: Plan) -> None:
    session = member.open_session(soon())
    plan.set("C_Digest -> length 100000", "C_Digest -> corrupt", "C_Digest -> write 99999 hex:00")
    assert digest(member, session)[0] == ck.CKR_DEVICE_ERROR
    assert len(plan.fired()) == 1


def test_bytes_written_into_an_output(member: Connection, plan: Plan, token: SoftHSMToken) -> None:
    plan.set('C_GetTokenInfo -> write 80 "another serial  "', "C_OpenSession -> write 0 hex:0000000000000000")
    assert serial(member) == b"another serial  "
    with pytest.raises(MemberLost, match="C_OpenSession answered CKR_DEVICE_ERROR"):
        member.open_session(soon())  # a handle of 0 is not believed
    plan.set("C_GetTokenInfo -> write 200 hex:000000000000000000", "C_Digest -> write 31 hex:0000")
    assert serial(member) == token.serial.encode()
    plan.set()
    assert digest(member, member.open_session(soon())) == (ck.CKR_OK, ABC)
    assert plan.fired() == ["C_GetTokenInfo", "C_OpenSession"], "beyond the output nothing is written"


def test_the_last_attribute_of_a_query(member: Connection, plan: Plan) -> None:
    session = member.open_session(soon())
    label, value = Attribute(ck.CKA_LABEL, b"label"), Attribute(ck.CKA_VALUE, b"value")
    template = (Attribute(ck.CKA_CLASS, bytes(8)), Attribute(ck.CKA_PRIVATE, b"\0"), label, value)
    rv, results = member.call("C_CreateObject", soon(), session, template, None)
    assert rv == ck.CKR_OK
    plan.set("C_GetAttributeValue -> corrupt")
    query = (Query(ck.CKA_LABEL, 16), Query(ck.CKA_VALUE, 16))
    rv, results = member.call("C_GetAttributeValue", soon(), session, results[2], query)
    assert [found.value for found in results[2]] == [b"label", b"valud"]


def test_dead_for_every_call_and_for_the_next_helper_until_told(
    member: Connection, plan: Plan, connect: Connect
) -> None:
    session, beside = member.open_session(soon()), connect()
    other = beside.open_session(soon())
    plan.set("C_GenerateRandom nth=2 -> dead CKR_DEVICE_REMOVED")
    assert random(beside, other) == ck.CKR_OK
    assert random(member, session) == ck.CKR_OK
    assert digest(member, session) == (ck.CKR_OK, ABC)
    assert random(member, session) == ck.CKR_DEVICE_REMOVED
    assert member.call("C_CloseSession", soon(), session)[0] == ck.CKR_DEVICE_REMOVED
    assert beside.call("C_CloseSession", soon(), other)[0] == ck.CKR_DEVICE_REMOVED, "one device, two processes"
    with pytest.raises(MemberLost, match="C_Initialize answered CKR_DEVICE_REMOVED"):
        connect()
    plan.release()
    assert digest(member, session) == (ck.CKR_OK, ABC)
    assert member.call("C_CloseSession", soon(), session)[0] == ck.CKR_OK
    fresh = connect()
    assert digest(fresh, fresh.open_session(soon())) == (ck.CKR_OK, ABC)


def test_one_at_a_time(member: Connection, plan: Plan) -> None:
    first, second, third = (member.open_session(soon()) for _ in range(3))
    plan.set(
        f"C_Digest session={second} -> delay 0",
        "C_Digest -> one-at-a-time 1",
        f"C_Digest session={first} -> hang",
    )
    inside = start(digest, member, first)
    plan.wait(lambda: plan.count(f"C_Digest session={first} -> hang") == 1)
    waiting = start(digest, member, second)
    plan.wait(lambda: plan.count(f"C_Digest session={second} -> delay 0") == 1)
    for _ in range(50):
        assert random(member, third) == ck.CKR_OK, "what does not match goes by"
    assert plan.count("C_Digest -> one-at-a-time 1") == 1, "the second is not let in beside the first"
    plan.release()
    assert inside.result(30) == waiting.result(30) == (ck.CKR_OK, ABC)
    assert plan.count("C_Digest -> one-at-a-time 1") == 2
    order = [line.split()[2] for line in plan.path.with_name("plan.fired").read_text().splitlines()]
    assert order[-2:] == ["released", "fired"]


def test_the_latency_of_one_at_a_time_is_that_of_all_calls_in_turn(member: Connection, plan: Plan) -> None:
    sessions = [member.open_session(soon()) for _ in range(4)]
    plan.set("C_GenerateRandom -> one-at-a-time 20")
    began = time.monotonic()
    running = [start(random, member, session) for session in sessions]
    assert [future.result(30) for future in running] == [ck.CKR_OK] * 4
    assert time.monotonic() - began >= 4 * 0.02  # no upper bound: the machine may be busy


def test_sessions_and_login_lost_behind_the_callers_back(member: Connection, plan: Plan, token: SoftHSMToken) -> None:
    assert member.login(ck.CKU_USER, token.pin.encode(), soon()) == ck.CKR_OK
    session = member.open_session(soon())
    plan.set("C_GenerateRandom nth=1 -> lose-login", "C_GenerateRandom nth=2 -> lose-sessions")
    assert random(member, session) == ck.CKR_OK
    _, results = member.call("C_GetSessionInfo", soon(), session, None)
    assert results[1][8] == ck.CKS_RW_PUBLIC_SESSION
    assert random(member, session) == ck.CKR_SESSION_HANDLE_INVALID


# Which calls


@pytest.mark.parametrize(
    ("condition", "expected"),
    [("nth=3", "..x..."), ("from=3", "..xxxx"), ("every=2", ".x.x.x"), ("once", "x....."), ("from=2 once", ".x....")],
)
def test_which_call_of_many(member: Connection, plan: Plan, condition: str, expected: str) -> None:
    session = member.open_session(soon())
    plan.set(f"C_GenerateRandom {condition} -> answer CKR_CANCEL")
    answers = [random(member, session) for _ in expected]
    assert "".join("x" if rv == ck.CKR_CANCEL else "." for rv in answers) == expected
    assert plan.fired() == ["C_GenerateRandom"] * expected.count("x")


def test_calls_are_counted_for_each_process_and_once_is_once_for_all(plan: Plan, connect: Connect) -> None:
    one, other = connect(), connect()
    sessions = {each: each.open_session(soon()) for each in (one, other)}
    plan.set("C_GenerateRandom nth=2 -> answer CKR_CANCEL")
    for each in (one, other):
        assert [random(each, sessions[each]) for _ in range(3)] == [ck.CKR_OK, ck.CKR_CANCEL, ck.CKR_OK]
    plan.set("C_GenerateRandom nth=2 once -> answer CKR_CANCEL")
    answers = [random(each, sessions[each]) for each in (one, other, one, other)]
    assert answers == [ck.CKR_OK, ck.CKR_OK, ck.CKR_CANCEL, ck.CKR_OK]
    late = connect()
    session = late.open_session(soon())
    assert [random(late, session) for _ in range(3)] == [ck.CKR_OK] * 3


def test_only_matching_calls_are_counted(member: Connection, plan: Plan) -> None:
    session, other = member.open_session(soon()), member.open_session(soon())
    plan.set(
        f"any session={other} nth=2 -> answer CKR_CANCEL",
        'C_Digest data="POISON" every=2 -> answer CKR_DATA_INVALID',
        "any mechanism=CKM_SHA_1 -> answer CKR_MECHANISM_INVALID",
        "C_GetMechanismInfo mechanism_type=0x250 -> answer CKR_HOST_MEMORY",
    )
    assert random(member, session) == random(member, other) == ck.CKR_OK
    assert member.call("C_CloseSession", soon(), other)[0] == ck.CKR_CANCEL
    good = [digest(member, session, data)[0] for data in (b"POISON", b"none", b"POISO", b"")]
    assert good == [ck.CKR_OK] * 4
    assert digest(member, session, b"POISON and more")[0] == ck.CKR_DATA_INVALID
    assert member.call("C_DigestInit", soon(), other, Mechanism(ck.CKM_SHA_1))[0] == ck.CKR_MECHANISM_INVALID
    assert member.call("C_GetMechanismInfo", soon(), member.slot, ck.CKM_SHA256, None)[0] == ck.CKR_HOST_MEMORY
    assert member.call("C_GetMechanismInfo", soon(), member.slot, ck.CKM_SHA384, None)[0] == ck.CKR_OK


def test_an_ordered_plan(member: Connection, plan: Plan) -> None:
    """What comes before an answer still happens, what comes after does not; all of them count."""
    session = member.open_session(soon())
    plan.set(
        "C_GenerateRandom -> delay 1",
        "C_GenerateRandom nth=1 -> answer CKR_CANCEL",
        "C_GenerateRandom nth=1 -> answer CKR_HOST_MEMORY",
        "C_GenerateRandom nth=2 -> answer CKR_FUNCTION_FAILED",
    )
    answers = [random(member, session) for _ in range(3)]
    assert answers == [ck.CKR_CANCEL, ck.CKR_FUNCTION_FAILED, ck.CKR_OK]
    assert plan.count("C_GenerateRandom nth=1 -> answer CKR_HOST_MEMORY") == 0
    assert plan.count("C_GenerateRandom -> delay 1") == 3


def test_counts_stay_while_a_line_stays(member: Connection, plan: Plan) -> None:
    session = member.open_session(soon())
    plan.set("C_GenerateRandom nth=3 -> answer CKR_CANCEL")
    assert [random(member, session) for _ in range(2)] == [ck.CKR_OK] * 2
    plan.add("C_Logout -> answer CKR_CANCEL")
    assert random(member, session) == ck.CKR_CANCEL
    plan.set("C_GenerateRandom nth=3 -> answer CKR_CANCEL")
    assert [random(member, session) for _ in range(3)] == [ck.CKR_OK, ck.CKR_OK, ck.CKR_CANCEL]


def test_what_fires_often_is_written_seldom(member: Connection, plan: Plan) -> None:
    session = member.open_session(soon())
    plan.set("C_GenerateRandom -> delay 0")
    for _ in range(2100):
        random(member, session)
    assert len(plan.fired()) == 1000 + 2  # up to the thousandth, 1024, 2048
    assert plan.count("C_GenerateRandom -> delay 0") == 2048


# The file


def test_a_plan_written_by_hand(member: Connection, plan: Plan) -> None:
    """Nobody tells of the change: it is found within 10 ms, which here only means that it is found."""
    text = plan.path.read_text()
    session = member.open_session(soon())
    plan.path.write_text(text + "\n# a comment\n\t C_GenerateRandom  once ->\tanswer CKR_CANCEL \n")
    limit = soon()
    while random(member, session) == ck.CKR_OK:
        assert time.monotonic() < limit
    assert [random(member, session) for _ in range(3)] == [ck.CKR_OK] * 3
    assert plan.fired() == ["C_GenerateRandom"]


def test_of_two_like_lines_each_counts_for_itself(member: Connection, plan: Plan) -> None:
    session = member.open_session(soon())
    twice = plan.path.read_text() + "C_GenerateRandom -> delay 0\n" * 2
    for text in (twice, "# changed\n" + twice):
        plan.path.write_text(text)
        tell(plan.path)
        assert random(member, session) == ck.CKR_OK
    told = [line.split()[:2] for line in plan.journal("fired")]
    assert told == [["-", "1"], ["-", "1"], ["-", "2"], ["-", "2"]]


def test_a_change_with_a_mistake_is_named_and_the_old_plan_goes_on(
    capfd: pytest.CaptureFixture[str], connect: Connect, plan: Plan
) -> None:
    member = connect()
    session = member.open_session(soon())
    plan.set("C_GenerateRandom -> answer CKR_CANCEL")
    good = plan.path.read_text()
    assert random(member, session) == ck.CKR_CANCEL
    goes_on = "; the plan that was there before goes on"
    wrong = {
        good + "C_Sing -> hang\n": "line 3: there is no function C_Sing",
        good.replace("softhsm2", "other"): "the module cannot change while it is in use",
        good.replace("module", "# module"): "no line says `module /path/of/the/library`",
    }
    for text, fault in wrong.items():
        plan.path.write_text(text)
        tell(plan.path)
        capfd.readouterr()
        assert [random(member, session) for _ in range(3)] == [ck.CKR_CANCEL] * 3
        assert capfd.readouterr().err == f"pyha-chaos: {plan.path}: {fault}{goes_on}\n"
    plan.path.unlink()
    tell(plan.path)
    assert [random(member, session) for _ in range(3)] == [ck.CKR_CANCEL] * 3
    assert capfd.readouterr().err == f"pyha-chaos: {plan.path}: No such file or directory{goes_on}\n"
    plan.path.write_text(good)
    plan.path.chmod(0o666)
    tell(plan.path)
    assert random(member, session) == ck.CKR_CANCEL
    assert capfd.readouterr().err == f"pyha-chaos: {plan.path}: others than its owner may write to it{goes_on}\n"
    plan.path.chmod(0o644)
    plan.set()
    assert random(member, session) == ck.CKR_OK


def test_a_first_plan_with_a_mistake_is_no_module(
    capfd: pytest.CaptureFixture[str], plan: Plan, connect: Connect
) -> None:
    def said() -> str:
        with pytest.raises(MemberLost, match=r"C_GetFunctionList of .*/pyha-chaos.so answered 0x00000005"):
            connect()
        return capfd.readouterr().err

    good = plan.path.read_text()
    capfd.readouterr()
    plan.path.write_text(good + "C_Sign\n")
    fault = "line 2: an entry is FUNCTION [CONDITION...] -> ACTION"
    assert said() == f"pyha-chaos: {plan.path}: {fault}\n"
    plan.path.write_text("module /nonexistent/module.so\n")
    assert said().startswith("pyha-chaos: cannot load /nonexistent/module.so: ")
    plan.path.write_text(f"module {chaos_module()}\n")
    assert said() == f"pyha-chaos: C_GetFunctionList of {chaos_module()} answered 0x00000005\n"
    plan.path.unlink()
    assert said() == f"pyha-chaos: {plan.path}: No such file or directory\n"
    os.mkfifo(plan.path)
    assert said() == f"pyha-chaos: {plan.path}: it is no regular file\n"


def test_a_journal_that_cannot_be_written_is_said_once(
    capfd: pytest.CaptureFixture[str], connect: Connect, plan: Plan
) -> None:
    member = connect()
    session = member.open_session(soon())
    plan.set("C_GenerateRandom -> answer CKR_CANCEL")
    journal = plan.path.with_name("plan.fired")
    journal.unlink()
    journal.symlink_to("elsewhere")
    assert [random(member, session) for _ in range(3)] == [ck.CKR_CANCEL] * 3
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"pyha-chaos: {journal}: what fires cannot be written: ")
    assert not plan.path.with_name("elsewhere").exists()


def test_a_plan_that_changes_while_threads_call(member: Connection, plan: Plan) -> None:
    sessions = [member.open_session(soon()) for _ in range(6)]
    stop = threading.Event()

    def work(session: int) -> set[int]:
        answers: set[int] = set()
        while not stop.is_set():
            answers.add(random(member, session))
        return answers

    running = [start(work, session) for session in sessions]
    for _ in range(60):
        plan.set("C_GenerateRandom every=3 -> answer CKR_CANCEL", "C_GenerateRandom nth=5 -> hang", "any -> delay 0")
        plan.set("any once -> one-at-a-time 1")
    stop.set()
    plan.set()
    answers = set[int]().union(*(future.result(30) for future in running))
    assert answers == {ck.CKR_OK, ck.CKR_CANCEL}


def test_a_forked_child_counts_from_zero_and_obeys(plan: Plan) -> None:
    plan.set("C_GetInfo nth=2 -> answer CKR_CANCEL")
    script = """if True:
        import ctypes, os, sys
        module = ctypes.CDLL(sys.argv[1])
        room = ctypes.create_string_buffer(256)
        assert module.C_GetFunctionList(ctypes.byref(ctypes.c_void_p())) == 0
        print(module.C_GetInfo(room), flush=True)
        child = os.fork()
        answers = [module.C_GetInfo(room), module.C_GetInfo(room)]
        if child == 0:
            print(*answers, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(*answers)
    """
    done = run([sys.executable, "-c", script, chaos_module()], plan.environment)
    lost = ck.CKR_CRYPTOKI_NOT_INITIALIZED
    assert (done.stdout.splitlines(), done.stderr) == ([f"{lost}", f"{lost} 1", f"1 {lost}"], "")


def test_functions_of_3_0_where_the_wrapped_module_has_them(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "newer", str(Path(chaos_module()).with_name("pyha-pkcs11.so")))
    link = open_process(chaos_module(), plan.environment, soon())
    assert all(link.offers(function.index) for function in FUNCTIONS if not function.name.startswith("C_GetI"))
    link.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a program that runs as another user")
def test_a_program_with_more_rights_than_its_user_is_refused(plan: Plan, tmp_path: Path) -> None:
    program = compile_c(NATIVE / "load.c", tmp_path / "load", "-I/usr/include/p11-kit-1", "-ldl")
    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(directory.stat().st_mode | stat.S_IXOTH)
    done = run([program, chaos_module()], plan.environment)
    assert (done.returncode, done.stdout) == (0, "0x5\n")
    assert done.stderr == "pyha-chaos: refused in a program that runs with more rights than its user has\n"
