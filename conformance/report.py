"""What a run found: the table for people, the same as JSON, and the exit status."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from conformance.differences import Difference, Tolerated, compare, unused
from conformance.scene import Result
from conformance.steps import Step, Suite
from conformance.targets import AGAIN, GROUP, LOSS, PLAIN

_SHOWN = 20
_REFUSED = re.compile(r"(.+?): (?:failed|WRONG|False|false)\b")


@dataclass(slots=True)
class Outcome:
    """One suite. `missing`: why it did not run, "" where it did. `results`: target -> step -> result. `unsteady`: steps
    that do not come out the same each time on plain SoftHSM. `problems`: what is wrong and is no difference."""

    suite: Suite
    missing: str = ""
    results: dict[str, dict[str, Result]] = field(default_factory=dict)
    unsteady: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[Difference]:
        """Differences that nobody tolerates."""
        return [difference for difference in self.differences if difference.tolerated is None]


def judge(suite: Suite, results: Mapping[str, Mapping[str, Result]], entries: Sequence[Tolerated]) -> Outcome:
    """Compare a suite's results on the other targets with the plain one's: where that is not the same twice, with what
    it is more like."""
    outcome = Outcome(suite, results={target: dict(steps) for target, steps in results.items()})
    plain, again = results[PLAIN], results.get(AGAIN, results[PLAIN])
    for step in suite.steps:
        bare = [plain[step.name], again[step.name]]
        outcome.unsteady += [step.name] if step.unsteady or bare[0].lines != bare[1].lines else []
        outcome.problems += [f"{step.name}: {problem}" for problem in _problems(step, bare)]
        for target in (GROUP, LOSS):
            if target in results:
                seen = results[target][step.name]
                found = [compare(suite.name, step.name, target, each.lines, seen.lines, entries) for each in bare]
                outcome.differences += min(found, key=lambda each: sum(one.tolerated is None for one in each))
                if step.unsteady and not seen.good:
                    outcome.problems.append(f"{step.name}: fails on {target}, where it must not: {seen.lines}")
    if LOSS in results and not any(result.killed for result in results[LOSS].values()):
        outcome.problems.append("no helper was ever killed, so nothing is known of the loss of a member")
    return outcome


def _problems(step: Step, bare: Sequence[Result]) -> Iterator[str]:
    """What plain SoftHSM does otherwise than the step says."""
    if step.fails and not step.unsteady and any(each.good for each in bare):
        yield f"works on plain SoftHSM, though it is said to fail ({step.fails})"
    if not step.fails and not all(each.good for each in bare):
        yield f"fails on plain SoftHSM: {next(each.lines for each in bare if not each.good)}"
    if step.refused is not None:
        refused = {match[1] for each in bare for line in each.lines if (match := _REFUSED.match(line))}
        if refused != set(step.refused):
            yield f"refused on plain SoftHSM: {sorted(refused)}, and said to be: {sorted(step.refused)}"


def table(outcomes: Sequence[Outcome]) -> str:
    """A line a suite. Killed in: the numbers of the steps in which a member was seen to die. Seconds: of its steps,
    summed; suites run beside each other."""
    head = (
        *("suite", "steps", "SoftHSM", "3 members", "loss of one", "unsteady", "tolerated", "seconds", "differences"),
        "killed in",
    )
    rows: list[tuple[str, ...]] = [head]
    for outcome in outcomes:
        if outcome.missing:
            rows.append((outcome.suite.name, "not installed", outcome.missing, *[""] * (len(head) - 3)))
            continue
        lost = outcome.results.get(LOSS, {})
        rows.append(
            (
                outcome.suite.name,
                str(len(outcome.suite.steps)),
                *(_good(outcome.results.get(target)) for target in (PLAIN, GROUP, LOSS)),
                str(len(outcome.unsteady)),
                str(len(outcome.differences) - len(outcome.wrong)),
                f"{sum(each.seconds for steps in outcome.results.values() for each in steps.values()):.0f}",
                str(len(outcome.wrong)) + (f" +{len(outcome.problems)} problems" if outcome.problems else ""),
                spans([at for at, step in enumerate(outcome.suite.steps, 1) if _killed(lost, step)]) or "no step",
            )
        )
    widths = [max(len(row[at]) for row in rows if row[1] != "not installed") for at in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _killed(lost: Mapping[str, Result], step: Step) -> bool:
    return step.name in lost and lost[step.name].killed > 0


def spans(numbers: Sequence[int]) -> str:
    """Rising numbers, runs of them as "first-last"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _good(results: Mapping[str, Result] | None) -> str:
    if results is None:
        return "-"
    good = sum(result.good for result in results.values())
    return f"{good} ok" + (f", {len(results) - good} not" if good < len(results) else "")


def details(outcomes: Sequence[Outcome], entries: Sequence[Tolerated], old: Sequence[Tolerated]) -> str:
    """Every difference that is not tolerated, every problem, each tolerated kind with its reason, and `old` entries."""
    lines: list[str] = []
    for outcome in outcomes:
        told: dict[tuple[str, str, str], list[Difference]] = {}
        for difference in outcome.wrong:
            told.setdefault((difference.step, difference.plain, difference.group), []).append(difference)
        for (step, plain, group), same in told.items():
            lines += ["", f"{outcome.suite.name}: {step}: on {' and '.join(each.target for each in same)}"]
            lines += [f"    - {line}" for line in _some(plain.splitlines())]
            lines += [f"    + {line}" for line in _some(group.splitlines())]
            said = outcome.results[same[0].target][step].said
            lines += [f"    log: {line}" for line in said.splitlines()[-5:]]
        lines += [f"\n{outcome.suite.name}: {problem}" for problem in outcome.problems]
        reasons = {step.name: step.fails for step in outcome.suite.steps if step.unsteady}
        lines += [
            f"\n{outcome.suite.name}: unsteady on plain SoftHSM: {step}: {reasons.get(step, 'not the same twice')}"
            for step in outcome.unsteady
        ]
    for entry in entries:
        times = sum(difference.tolerated is entry for outcome in outcomes for difference in outcome.differences)
        if times:
            lines += ["", f"tolerated, {times} times: {entry.suite}: {entry.step}", f"    {entry.reason}"]
    for entry in old:
        lines += ["", f"tolerated, but not seen any more: {entry.suite}: {entry.step}: {entry.reason}"]
    return "\n".join(lines)


def _some(lines: Sequence[str]) -> list[str]:
    """The first lines: all are in the JSON."""
    return [*lines[:_SHOWN], f"... ({len(lines) - _SHOWN} more)"] if len(lines) > _SHOWN else list(lines)


def stale(outcomes: Sequence[Outcome], entries: Sequence[Tolerated]) -> list[Tolerated]:
    """Entries that are out of date, where every target ran."""
    complete = [outcome for outcome in outcomes if {PLAIN, GROUP, LOSS} <= set(outcome.results)]
    found = [difference for outcome in complete for difference in outcome.differences]
    return unused(entries, found, [outcome.suite.name for outcome in complete])


def status(outcomes: Sequence[Outcome], old: Sequence[Tolerated]) -> int:
    """The exit status: 1 where anything differs that is not tolerated, or an entry is `old`."""
    return int(any(outcome.wrong or outcome.problems for outcome in outcomes) or bool(old))


def write(path: Path, outcomes: Sequence[Outcome]) -> None:
    """All of it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = [
        {
            "suite": outcome.suite.name,
            "missing": outcome.missing,
            "results": {
                target: [asdict(result) for result in results.values()] for target, results in outcome.results.items()
            },
            "unsteady": outcome.unsteady,
            "differences": [asdict(difference) for difference in outcome.differences],
            "problems": outcome.problems,
        }
        for outcome in outcomes
    ]
    path.write_text(json.dumps(document, indent=1))
