"""What a run found: the table for people, the same as JSON, and the exit status."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from conformance.differences import Difference, Tolerated, compare, unused
from conformance.scene import Result
from conformance.steps import Suite
from conformance.targets import GROUP, LOSS, PLAIN

_SHOWN = 20


@dataclass(slots=True)
class Outcome:
    """One suite. `missing`: why it did not run, "" where it did. `results`: target -> step -> result. `problems`: what
    is wrong and is no difference."""

    suite: Suite
    missing: str = ""
    results: dict[str, dict[str, Result]] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[Difference]:
        """Differences that nobody tolerates."""
        return [difference for difference in self.differences if difference.tolerated is None]


def judge(suite: Suite, results: Mapping[str, Mapping[str, Result]], entries: Sequence[Tolerated]) -> Outcome:
    """Compare a suite's results on the other targets with the plain one's."""
    outcome = Outcome(suite, results={target: dict(steps) for target, steps in results.items()})
    plain = results[PLAIN]
    for step in suite.steps:
        good = plain[step.name].good
        if good and step.fails and not step.unsteady:
            outcome.problems.append(f"{step.name}: works on plain SoftHSM, though it is said to fail ({step.fails})")
        if not good and not step.fails:
            outcome.problems.append(f"{step.name}: fails on plain SoftHSM: {plain[step.name].lines}")
        for target in (GROUP, LOSS):
            if target in results:
                seen = results[target][step.name].lines
                outcome.differences += compare(suite.name, step.name, target, plain[step.name].lines, seen, entries)
    if LOSS in results and not any(result.killed for result in results[LOSS].values()):
        outcome.problems.append("no helper was ever killed, so nothing is known of the loss of a member")
    return outcome


def table(outcomes: Sequence[Outcome]) -> str:
    """A line a suite. Seconds: of its steps, summed; suites run beside each other."""
    head = ("suite", "steps", "SoftHSM", "3 members", "loss of one", "killed in", "tolerated", "seconds", "differences")
    rows: list[tuple[str, ...]] = [head]
    for outcome in outcomes:
        if outcome.missing:
            rows.append((outcome.suite.name, "not installed", outcome.missing, *[""] * (len(head) - 3)))
            continue
        steps = len(outcome.suite.steps)
        lost = outcome.results.get(LOSS, {}).values()
        rows.append(
            (
                outcome.suite.name,
                str(steps),
                *(_good(outcome.results.get(target)) for target in (PLAIN, GROUP, LOSS)),
                f"{sum(result.killed > 0 for result in lost)} steps",
                str(len(outcome.differences) - len(outcome.wrong)),
                f"{sum(each.seconds for steps in outcome.results.values() for each in steps.values()):.0f}",
                str(len(outcome.wrong)) + (f" +{len(outcome.problems)} problems" if outcome.problems else ""),
            )
        )
    widths = [max(len(row[at]) for row in rows if row[1] != "not installed") for at in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


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
            "differences": [asdict(difference) for difference in outcome.differences],
            "problems": outcome.problems,
        }
        for outcome in outcomes
    ]
    path.write_text(json.dumps(document, indent=1))
