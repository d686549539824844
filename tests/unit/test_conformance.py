"""The conformance harness itself: what is a difference, what is tolerated, and how a step ends. No client runs."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from build_shim import ROOT
from conformance import __main__ as command
from conformance import differences, report, tree
from conformance.differences import Difference, Tolerated, compare, load, unused
from conformance.scene import Result, Scene, sorted_blocks
from conformance.steps import Failed, Step, Suite
from conformance.suites import SUITES
from conformance.targets import AGAIN, GROUP, LABEL, LOSS, PIN, PLAIN, SO_PIN, Target

SLOT = Tolerated("tool", "list*", "SoftHSM slot", "HA slot", "Its own description.")
LOCAL = Tolerated("tool", "*", ", local$", "", "A copy is not local.", each=True)


def hunks(plain: Sequence[str], group: Sequence[str], *entries: Tolerated, step: str = "list") -> list[Difference]:
    return compare("tool", step, GROUP, plain, group, entries)


def test_equal_lines_are_no_difference() -> None:
    assert hunks(["exit 0", "one"], ["exit 0", "one"], SLOT, LOCAL) == []


def test_what_nobody_tolerates_is_a_difference() -> None:
    (found,) = hunks(["exit 0", "one"], ["exit 1", "one"], SLOT, LOCAL)
    assert (found.plain, found.group, found.tolerated) == ("exit 0", "exit 1", None)


@pytest.mark.parametrize(("plain", "group"), [(["one"], []), ([], ["one"]), (["one", "two"], ["two", "one"])])
def test_missing_added_and_moved_lines_are_differences(plain: list[str], group: list[str]) -> None:
    assert [each.tolerated for each in hunks(plain, group)] == [None] * len(hunks(plain, group)) != []


def test_a_tolerated_difference_names_its_entry() -> None:
    (found,) = hunks(["SoftHSM slot"], ["HA slot"], SLOT)
    assert found.tolerated is SLOT


@pytest.mark.parametrize(
    ("plain", "group", "step"),
    [
        ("SoftHSM slot 1", "HA slot", "list"),
        ("SoftHSM slot", "HA slot 1", "list"),
        ("SoftHSM slot", "HA slot", "sign"),
    ],
)
def test_an_entry_covers_nothing_else(plain: str, group: str, step: str) -> None:
    (found,) = hunks([plain], [group], SLOT, step=step)
    assert found.tolerated is None


def test_an_entry_may_be_for_one_target_only() -> None:
    entry = Tolerated("tool", "*", "a", "b", "why", targets=(LOSS,))
    assert compare("tool", "x", LOSS, ["a"], ["b"], [entry])[0].tolerated is entry
    assert compare("tool", "x", GROUP, ["a"], ["b"], [entry])[0].tolerated is None


def test_lines_side_by_side_are_judged_one_by_one() -> None:
    found = hunks(["SoftHSM slot", "one"], ["HA slot", "two"], SLOT)
    assert [each.tolerated for each in found] == [SLOT, None]


def test_a_rewritten_line_must_be_the_groups_line() -> None:
    assert [each.tolerated for each in hunks(["key, local"], ["key"], LOCAL)] == [LOCAL]
    assert [each.tolerated for each in hunks(["key, local"], ["kee"], LOCAL)] == [None]


def test_a_line_that_could_be_rewritten_may_also_be_the_same() -> None:
    assert hunks(["key, local"], ["key, local"], LOCAL) == []


def test_entries_that_nothing_needs_are_found_for_the_suites_that_ran() -> None:
    found = hunks(["SoftHSM slot"], ["HA slot"], SLOT)
    race = Tolerated("tool", "*", "a", "b", "why", sometimes=True)
    assert unused([SLOT, LOCAL, race], found, ["tool"]) == [LOCAL]
    assert unused([LOCAL], [], ["another"]) == []


@pytest.mark.parametrize("row", ['suite = "a"\nstep = "b"\nplain = ""\ngroup = ""', 'suit = "a"'])
def test_an_entry_needs_a_reason_and_no_other_keys(tmp_path: Path, row: str) -> None:
    (tmp_path / "file").write_text(f"[[difference]]\n{row}\n")
    with pytest.raises(ValueError, match=r"reason|unknown keys"):
        load(tmp_path / "file")


def test_the_file_of_tolerated_differences_speaks_of_suites_that_there_are() -> None:
    names = {suite.name for suite in SUITES}
    for entry in load(command.HERE / "differences.toml"):
        assert entry.suite in names
        assert entry.reason.endswith(".")


def test_steps_have_names_of_their_own() -> None:
    for suite in SUITES:
        names = [step.name for step in suite.steps]
        assert len(names) == len(set(names))


# -- judging a run ----------------------------------------------------------------------------------------------


def result(step: str, *lines: str, killed: int = 0) -> Result:
    return Result(step, lines, "\n".join(lines), 2.0, killed, "")


def judged(plain: str, group: str, loss: str, killed: int = 1, fails: str = "") -> report.Outcome:
    suite = Suite("tool", [Step("list", "true", fails=fails)])
    results = {
        PLAIN: {"list": result("list", plain)},
        GROUP: {"list": result("list", group)},
        LOSS: {"list": result("list", loss, killed=killed)},
    }
    return report.judge(suite, results, [])


def test_a_step_that_differs_fails_the_run_and_is_reported() -> None:
    outcome = judged("exit 0", "exit 0", "exit 1")
    assert report.status([outcome], []) == 1
    row = ["tool", "1", "1", "ok", "1", "ok", "0", "ok,", "1", "not", "0", "0", "6", "1", "1"]
    assert "tool: list: on loss\n    - exit 0\n    + exit 1" in report.details([outcome], [], [])
    assert report.table([outcome]).splitlines()[1].split() == row


def test_a_run_without_differences_is_good() -> None:
    assert report.status([judged("exit 0", "exit 0", "exit 0")], []) == 0


def test_a_step_that_fails_everywhere_needs_a_reason() -> None:
    assert judged("exit 1", "exit 1", "exit 1").problems == ["list: fails on plain SoftHSM: ('exit 1',)"]
    assert judged("exit 1", "exit 1", "exit 1", fails="it always does").problems == []
    assert len(judged("exit 0", "exit 0", "exit 0", fails="it always does").problems) == 1


def test_what_plain_softhsm_answers_by_chance_is_called_unsteady() -> None:
    suite = Suite("tool", [Step("list", "true")])
    plain, again = result("list", "exit 0", "one"), result("list", "exit 0", "two")
    same = {PLAIN: {"list": plain}, AGAIN: {"list": again}, GROUP: {"list": again}}
    outcome = report.judge(suite, same, [])
    assert (outcome.unsteady, outcome.differences, outcome.problems) == (["list"], [], [])
    assert "unsteady on plain SoftHSM: list" in report.details([outcome], [], [])
    other = report.judge(suite, {**same, GROUP: {"list": result("list", "exit 0", "three")}}, [])
    assert other.wrong != []


def test_a_step_that_is_unsteady_on_plain_softhsm_is_well_on_the_slot() -> None:
    suite = Suite("tool", [Step("list", "true", fails="it hangs at times", unsteady=True)])
    hangs = {"list": result("list", "hang")}
    assert len(report.judge(suite, {PLAIN: hangs, GROUP: hangs}, []).problems) == 1
    assert report.judge(suite, {PLAIN: hangs, GROUP: {"list": result("list", "exit 0")}}, []).problems == []


def test_what_a_program_is_refused_has_to_be_meant() -> None:
    lines = {"list": result("list", "exit 0", "login: ok", "login again: failed: it is", "verify: false")}
    for refused, problems in (
        (("login again", "verify"), 0),
        (("login again",), 1),
        (("login again", "verify", "login"), 1),
    ):
        step = Step("list", "true", refused=dict.fromkeys(refused, "why"))
        assert len(report.judge(Suite("tool", [step]), {PLAIN: lines}, []).problems) == problems


def test_the_steps_in_which_a_member_died_are_named() -> None:
    assert report.spans([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert report.spans([]) == ""


def test_a_loss_that_never_happened_is_a_problem() -> None:
    assert judged("exit 0", "exit 0", "exit 0", killed=0).problems != []


def test_a_client_that_is_not_installed_is_named() -> None:
    suite = Suite("tool", [], programs=("sh", "no-such-program"), imports=("no_such_module",))
    assert command.missing(suite) == "no-such-program, no_such_module"
    outcome = report.Outcome(suite, missing=command.missing(suite))
    assert "not installed  no-such-program, no_such_module" in report.table([outcome])


def test_an_old_entry_fails_the_run() -> None:
    assert report.status([judged("exit 0", "exit 0", "exit 0")], [SLOT]) == 1


# -- playing a step -----------------------------------------------------------------------------------------------


def scene(directory: Path, suite: Suite | None = None) -> Scene:
    target = Target(PLAIN, "/lib/module.so", LABEL, PIN, SO_PIN, "0123456789abcdef", 77123, directory, {})
    return Scene(suite or Suite("tool", []), target, directory / "scratch")


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("true", "exit 0"),
        ("exit 3", "exit 3"),
        ("kill -SEGV $$", "signal 11"),
        ("bash -c 'kill -ABRT $$'", "signal 6"),
        ("false | cat", "exit 1"),
    ],
)
def test_how_a_step_ends(tmp_path: Path, line: str, first: str) -> None:
    assert scene(tmp_path).play(Step("one", line)).lines[0] == first


def test_a_hang_is_a_result_and_what_hangs_is_ended(tmp_path: Path) -> None:
    played = scene(tmp_path).play(Step("one", "echo before; sleep 1000 & sleep 1000", limit=0.5))
    assert played.lines == ("hang", "before")


def test_what_differs_from_target_to_target_by_nature_is_hidden(tmp_path: Path) -> None:
    line = f"echo $MODULE $SERIAL 77123 0x12d43 $PWD/x; echo {'ab' * 20}; echo random: 7"
    lines = scene(tmp_path).play(Step("one", line, hide="(?<=random: ).*")).lines
    assert lines[1:] == ("<module> <serial> <slot> <slot> <scratch>/x", "<bytes>", "random: <random>")


def test_only_what_a_step_keeps_is_compared(tmp_path: Path) -> None:
    line = "echo one; echo two >&2"
    kept = {keep: scene(tmp_path).play(Step("one", line, keep=keep)).lines[1:] for keep in (None, "", "^t")}
    assert kept == {None: ("one", "two"), "": (), "^t": ("two",)}


def test_lists_are_compared_in_any_order() -> None:
    lines = ["b", "  2", "a", "  1", "b", "  1"]
    assert sorted_blocks(lines) == ["a", "  1", "b", "  1", "b", "  2"]


def test_a_function_may_fail(tmp_path: Path) -> None:
    def fail(scene: Scene) -> Sequence[str]:
        raise Failed("no server\ncame")

    assert scene(tmp_path).play(Step("one", fail)).lines == ("failed", "no server", "came")


def test_files_and_variables_are_filled_in(tmp_path: Path) -> None:
    suite = Suite("tool", [], files={"conf": "$MODULE $other"}, environment={"NAME": "$TOKEN", "P": "$PIN"})
    played = scene(tmp_path, suite).play(Step("one", "cat conf; echo; echo $NAME $P"))
    assert played.lines[1:] == ("<module> $other", f"{LABEL} {PIN}")


def test_servers_end_with_their_step(tmp_path: Path) -> None:
    stage = scene(tmp_path)
    started = []

    def serve(scene: Scene) -> Sequence[str]:
        started.append(scene.start(["sleep", "1000"], "log"))
        return ["up"]

    assert stage.play(Step("one", serve)).lines == ("exit 0", "up")
    assert started[0].returncode is not None


def test_differences_has_no_more_to_do_with_targets_than_their_names() -> None:
    assert differences.Tolerated.__dataclass_fields__["targets"].default == (GROUP, LOSS)


def test_what_is_tried_is_this_trees_own(tmp_path: Path) -> None:
    tree.write_command(tmp_path / "bin")
    for words in (tree.PYHA, (str(tmp_path / "bin" / "pyha"),)):
        asked = subprocess.run([*words, "module-path"], capture_output=True, text=True, cwd=tmp_path, env={})
        assert (asked.returncode, asked.stdout.strip(), asked.stderr) == (0, tree.module(), "")
    assert Path(tree.module()).is_relative_to(ROOT)
