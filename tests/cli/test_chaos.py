"""`pyha chaos`: the grammar with each of its mistakes, numbers, and what a change leaves alone."""

from pathlib import Path

import pytest

from pyha.cli import chaos_plan, main

MODULE = "module /usr/lib/softhsm/libsofthsm2.so"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return tmp_path / "plan"


def run(capsys: pytest.CaptureFixture[str], action: str, plan: Path, *words: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    status = main.main(["chaos", action, str(plan), *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


GOOD = [
    "any -> hang",
    "C_Sign -> delay 0",
    "C_Sign nth=3 -> delay 1500",
    "C_Sign from=0x10 once -> answer CKR_DEVICE_REMOVED",
    "C_Sign every=2 session=7 -> answer-after 0x80000001",
    'C_Sign data="a -> b \\ c" -> crash',
    "C_Sign data=hex:00fF -> exit",
    "C_SignInit mechanism=CKM_ECDSA key=3 -> exit 3",
    "any mechanism=0x80001234 -> dead",
    "any slot=1 -> dead CKR_TOKEN_NOT_PRESENT",
    "C_Login user=CKU_SO -> one-at-a-time 2",
    "C_OpenSession flags=CKF_SERIAL_SESSION -> write 0 hex:0000000000000000",
    "C_GetTokenInfo -> corrupt",
    "C_Sign -> length 18446744073709551615",
    "C_FindObjects -> length -1",
    "C_GetAttributeValue -> length +8",
    "C_Logout -> lose-sessions",
    "any -> lose-login",
    "C_UnwrapKey mechanism=CKM_AES_KEY_WRAP -> substitute",
    "C_EncryptMessage -> hang",
]

WRONG = {
    "C_Sign": "an entry is FUNCTION [CONDITION...] -> ACTION",
    "-> hang": "an entry is FUNCTION [CONDITION...] -> ACTION",
    "C_Sign->hang": "an entry is FUNCTION [CONDITION...] -> ACTION",
    "C_Sign ->": "no action after ->",
    "C_Sing -> hang": "there is no function C_Sing",
    "c_sign -> hang": "there is no function c_sign",
    "C_GetFunctionList -> hang": "C_GetFunctionList is not passed on, so that nothing can happen to it",
    "C_Sign -> explode": "there is no action explode",
    "C_Sign third -> hang": "third is neither once nor a NAME=VALUE",
    "C_Sign nth=0 -> hang": "0 is not the number of a call",
    "C_Sign nth=-1 -> hang": "-1 is not the number of a call",
    "C_Sign nth= -> hang": " is not the number of a call",
    "C_Sign every=99999999999999999999 -> hang": "99999999999999999999 is not the number of a call",
    "C_Sign nth=1 every=2 -> hang": "only one of nth, from and every can be said",
    "C_Sign once once -> hang": "once is said twice",
    "C_Sign mechanism=CKM_ECDSA -> hang": "C_Sign has no argument mechanism that can be compared",
    "any result=3 -> hang": "no function has an argument result that can be compared",
    "C_Login pin=1234 -> hang": "C_Login has no argument pin that can be compared",
    "C_Sign session=1 session=2 -> hang": "session is said twice",
    "C_SignInit mechanism=CKM_EDSA -> hang": "mechanism=CKM_EDSA is not a number or the name of a CKM_",
    "C_SignInit mechanism=CKR_OK -> hang": "mechanism=CKR_OK is not a number or the name of a CKM_",
    "C_Sign session=CKM_ECDSA -> hang": "session=CKM_ECDSA is not a number",
    "C_Sign data=abc -> hang": 'data=abc is not "text" or hex:0a0b, 1 to 64 bytes',
    "C_Sign data=hex:abc -> hang": "data=hex:abc is not",
    'C_Sign data="" -> hang': 'data="" is not',
    'C_Sign data="abc -> hang': 'a " is not closed',
    "C_Sign -> hang 3": "hang takes nothing after it",
    "C_Sign -> delay": "delay takes one value",
    "C_Sign -> delay 1.5": "1.5 is not a number of milliseconds up to a day",
    "C_Sign -> delay -1": "-1 is not a number of milliseconds up to a day",
    "C_Sign -> delay 86400001": "86400001 is not a number of milliseconds up to a day",
    "C_Sign -> answer": "answer takes one value",
    "C_Sign -> answer CKR_NONE": "CKR_NONE is not the name or number of a CK_RV",
    "C_Sign -> answer CKM_ECDSA": "CKM_ECDSA is not the name or number of a CK_RV",
    "C_Sign -> answer 0xg": "0xg is not the name or number of a CK_RV",
    "C_Sign -> exit 256": "256 is not an exit status",
    "C_Sign -> length -": "- is not a length such as 300, +8 or -1",
    "C_Sign -> write 0": "write takes an offset and bytes",
    "C_Sign -> write x hex:00": "x is not an offset",
    "C_Sign -> write 0 00": '00 is not "text" or hex:0a0b, 1 to 64 bytes',
    "C_Logout -> corrupt": "C_Logout gives no output",
    "C_GenerateRandom -> length 3": "C_GenerateRandom gives no length",
    "C_WrapKey -> substitute": "C_WrapKey takes no wrapped key",
    "C_GetSlotInfo -> lose-login": "C_GetSlotInfo has no session",
    "C_Sign \x01 -> hang": "a control character",
    "C_Sign " + "x" * 600: "longer than 511 bytes",
    "C_Sign " + "x " * 20: "more than 16 words",
    "any slot=1 user=1 object=1 key=1 flags=1 -> hang": "more than 4 arguments",
    "module relative.so": "the path of the module is not absolute",
    "module /another": "a second module",
}


def test_every_good_line(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbered = [f"{number}: {line}" for number, line in enumerate(GOOD, 1)]
    status, out, err = run(capsys, "set", plan, MODULE, *GOOD)
    assert (status, out.splitlines(), err) == (0, [MODULE, *numbered], "")
    assert plan.read_text() == out
    assert run(capsys, "show", plan)[1].splitlines() == [MODULE, *(f"{line}    (fired 0)" for line in numbered)]


@pytest.mark.parametrize("line", WRONG)
def test_every_mistake_is_named_with_its_line(plan: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    run(capsys, "set", plan, MODULE, "C_Sign -> hang")
    before = plan.read_text()
    status, out, err = run(capsys, "add", plan, line)
    assert (status, out) == (2, "")
    assert err.startswith(f"pyha: {plan}: line 3: {WRONG[line]}")
    assert plan.read_text() == before


def test_mistakes_of_the_whole(plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "set", plan, "any -> hang")[2].startswith("pyha: a new plan needs the line 'module /path'")
    for action in ("add", "clear", "release", "fired"):
        words = ["any -> hang"] if action == "add" else []
        assert run(capsys, action, plan, *words)[2] == f"pyha: there is no plan {plan}: `pyha chaos set` makes one\n"
    assert run(capsys, "show", plan)[2] == f"pyha: {plan} cannot be read: No such file or directory\n"
    assert run(capsys, "set", plan / "below", MODULE)[2] == f"pyha: there is no directory {plan}\n"
    for text in ("3: any -> hang", "", "any -> hang\nany -> crash"):
        assert run(capsys, "set", plan, MODULE, text)[2].endswith(
            "is not one entry without a number, such as 'C_Sign nth=3 -> hang'\n"
        )
    assert (
        run(capsys, "set", plan, MODULE, *["any -> hang"] * 257)[2]
        == f"pyha: {plan}: line 258: more than 256 entries\n"
    )
    assert not plan.exists()
    run(capsys, "set", plan, MODULE)
    plan.write_text(f"{MODULE}\n1: any -> hang\n1: any -> crash\n")
    assert run(capsys, "show", plan)[2] == f"pyha: {plan}: line 3: a second entry 1\n"
    plan.write_text(f"{MODULE}\n0: any -> hang\n")
    assert run(capsys, "show", plan)[2] == f"pyha: {plan}: line 2: 0 is not the number of an entry\n"
    plan.write_text("# nothing\n")
    assert run(capsys, "show", plan)[2] == f"pyha: {plan}: no line says `module /path/of/the/library`\n"
    plan.write_bytes(b"\xff\n")
    assert run(capsys, "show", plan)[2] == f"pyha: {plan} is not text in UTF-8\n"
    plan.write_text(f"{MODULE}\n" + "#\n" * 40000)
    assert run(capsys, "show", plan)[2] == f"pyha: {plan}: longer than 65536 bytes\n"


def test_a_number_is_never_given_twice(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "set", plan, MODULE, "any -> hang", "any -> crash")
    assert run(capsys, "clear", plan, "2")[1].splitlines() == [MODULE, "1: any -> hang"]
    assert run(capsys, "add", plan, "any -> crash")[1].splitlines()[-1] == "3: any -> crash"
    assert run(capsys, "clear", plan)[1].splitlines() == [MODULE]
    assert run(capsys, "set", plan, "any -> exit")[1].splitlines() == [MODULE, "4: any -> exit"]
    assert run(capsys, "clear", plan, "1")[2] == "pyha: the plan has no entry 1\n"
    assert [line.split(" ", 2)[2] for line in run(capsys, "fired", plan)[1].splitlines()] == [
        "set+ 1: any -> hang",
        "set+ 2: any -> crash",
        "clear- 2: any -> crash",
        "add+ 3: any -> crash",
        "clear- 1: any -> hang",
        "clear- 3: any -> crash",
        "set+ 4: any -> exit",
    ]


def test_what_is_written_by_hand_stays(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.write_text(f"# our rehearsal\n{MODULE}\n\n  any once -> hang\n")
    assert run(capsys, "add", plan, "any -> crash")[0] == 0
    assert plan.read_text() == f"# our rehearsal\n{MODULE}\n\nany once -> hang\n1: any -> crash\n"
    assert plan.stat().st_mode & 0o777 == 0o644


def test_release_takes_what_has_fired_and_holds(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = ["C_Sign -> hang", "C_Digest -> hang", "any nth=9 -> dead", "any -> crash"]
    run(capsys, "set", plan, MODULE, *entries)
    with chaos_plan.journal_of(plan).open("a") as journal:
        for number, text in ((1, entries[0]), (4, entries[3])):
            journal.write(f"2026-01-01T00:00:00.000000Z 77 fired {number} 1 C_Sign: {text}\n")
    kept = run(capsys, "release", plan)[1].splitlines()
    assert kept == [MODULE, "2: C_Digest -> hang", "3: any nth=9 -> dead", "4: any -> crash"]
    assert run(capsys, "release", plan, "4")[2] == "pyha: entry 4 neither hangs nor is dead: any -> crash\n"
    assert run(capsys, "release", plan, "3")[1].splitlines() == [MODULE, "2: C_Digest -> hang", "4: any -> crash"]


def test_firings_of_all_processes_are_added() -> None:
    journal = [f"t {pid} fired 1 {count} C_Sign: any -> crash" for pid, count in ((7, 1), (8, 1), (7, 2), (7, 1))]
    journal += ["t 7 read 3 entries", "t 7 fired - 1 C_Sign: any -> crash", "t 7 fired 1 no", "half"]
    assert chaos_plan.fired(journal) == {(1, "any -> crash"): 4, (0, "any -> crash"): 1}


def test_the_module_is_where_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["chaos", "module-path"]) == 0
    assert Path(capsys.readouterr().out.strip()).name == "pyha-chaos.so"
