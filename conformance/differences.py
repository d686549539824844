"""Comparing what a client saw on two targets, and which differences are meant to be.

Pure but for `load`. A difference is a hunk: lines of the plain token on one side, lines of the group on the other.
"""

import difflib
import fnmatch
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Tolerated:
    """A difference that is meant to be. `suite`, `step`: shell patterns. `reason`: one sentence. `targets`: where it
    may be. `sometimes`: it need not be seen in every run (a race in a client or in the plain token).

    `plain`, `group`: regular expressions that match the whole of a hunk's side, lines joined with newlines. With `each`
    it is one line at a time: what `plain` finds in it, replaced by the text `group`, is the group's line."""

    suite: str
    step: str
    plain: str
    group: str
    reason: str
    targets: tuple[str, ...] = ("group", "loss")
    sometimes: bool = False
    each: bool = False

    def speaks_of(self, suite: str, step: str, target: str) -> bool:
        """Whether it is about this step on this target."""
        return (
            target in self.targets and fnmatch.fnmatchcase(suite, self.suite) and fnmatch.fnmatchcase(step, self.step)
        )

    def covers(self, plain: str, group: str) -> bool:
        """Whether it explains this hunk."""
        return (
            not self.each
            and re.fullmatch(self.plain, plain) is not None
            and re.fullmatch(self.group, group) is not None
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """A hunk. `tolerated`: by which entry, None where it is not."""

    suite: str
    step: str
    target: str
    plain: str
    group: str
    tolerated: Tolerated | None = None


def load(path: Path) -> tuple[Tolerated, ...]:
    """The entries of a file. Raises ValueError where one is no good."""
    known = {"suite", "step", "plain", "group", "reason", "targets", "sometimes", "each"}
    entries = []
    for row in tomllib.loads(path.read_text()).get("difference", []):
        if unknown := set(row) - known:
            raise ValueError(f"unknown keys {', '.join(sorted(unknown))} in {row}")
        if missing := {"suite", "step", "plain", "group", "reason"} - set(row):
            raise ValueError(f"no {', '.join(sorted(missing))} in {row}")
        entries.append(Tolerated(**{**row, "targets": tuple(row.get("targets", ("group", "loss")))}))
    return tuple(entries)


def compare(
    suite: str, step: str, target: str, plain: Sequence[str], group: Sequence[str], entries: Iterable[Tolerated]
) -> list[Difference]:
    """The hunks in which the lines differ, each with the entry that covers it."""
    mine = [entry for entry in entries if entry.speaks_of(suite, step, target)]
    rewriting = [entry for entry in mine if entry.each]
    expected = [_rewrite(line, rewriting) for line in plain]

    def judged(plain_side: Sequence[str], group_side: Sequence[str]) -> Difference:
        left, right = "\n".join(plain_side), "\n".join(group_side)
        covering = next((entry for entry in mine if entry.covers(left, right)), None)
        return Difference(suite, step, target, left, right, covering)

    found: list[Difference] = []
    matcher = difflib.SequenceMatcher(None, [line for line, _ in expected], list(group), autojunk=False)
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        left, right = plain[start:end], group[other_start:other_end]
        if kind == "equal":
            for line, other, (_, entry) in zip(left, right, expected[start:end], strict=True):
                if line != other:
                    found.append(Difference(suite, step, target, line, other, entry))
            continue
        whole = judged(left, right)
        if whole.tolerated is None and len(left) == len(right):
            found += [judged([one], [other]) for one, other in zip(left, right, strict=True) if one != other]
        else:
            found.append(whole)
    return found


def _rewrite(line: str, entries: Iterable[Tolerated]) -> tuple[str, Tolerated | None]:
    """The line as the group is expected to give it, and the entry that says so."""
    last = None
    for entry in entries:
        changed = re.sub(entry.plain, entry.group, line)
        if changed != line:
            line, last = changed, entry
    return line, last


def unused(entries: Iterable[Tolerated], found: Iterable[Difference], suites: Iterable[str]) -> list[Tolerated]:
    """Entries about one of the suites that ran, of which nothing was seen: they are out of date. An entry with
    `sometimes` (a race in a client or in the plain token) may be missed."""
    seen = {id(difference.tolerated) for difference in found}
    ran = tuple(suites)
    return [
        entry
        for entry in entries
        if not entry.sometimes
        and id(entry) not in seen
        and any(fnmatch.fnmatchcase(suite, entry.suite) for suite in ran)
    ]
