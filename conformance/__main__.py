"""`make conformance`: every client on plain SoftHSM, on a group of three, and on a group that loses a member midway.

    python -m conformance [--steps PATTERN] [--targets softhsm,group] [--keep DIRECTORY] [SUITE ...]

Prints a table and every difference; exit status 1 where one is not in differences.toml. All of it as JSON in
build/conformance/results.json.
"""

import argparse
import fnmatch
import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from conformance import differences, report, targets
from conformance.scene import Result, Scene
from conformance.steps import NODE_MODULES, Suite
from conformance.suites import SUITES

HERE = Path(__file__).parent
_AT_ONCE = 2


def missing(suite: Suite) -> str:
    """What of a client is not here, "" where all is."""
    lacking = [program for program in suite.programs if shutil.which(program, path=targets.PATH) is None]
    lacking += [module for module in suite.imports if importlib.util.find_spec(module) is None]
    if suite.engine and not list(Path("/usr/lib").glob("*/engines-3/pkcs11.so")):
        lacking.append("OpenSSL's pkcs11 engine")
    lacking += [package for package in suite.node if not (NODE_MODULES / package).is_dir()]
    lacking += [path for path in suite.paths if not Path(path).exists()]
    return ", ".join(lacking)


def play(suite: Suite, name: str, directory: Path) -> dict[str, Result]:
    """A suite on a new target: step -> result."""
    scene = Scene(suite, targets.make(name, directory / "target", suite.pinned), directory / "scratch")
    results = {}
    for step in suite.steps:
        results[step.name] = scene.play(step)
        print("." if results[step.name].good else "x", end="", file=sys.stderr, flush=True)
    return results


def run(
    suites: Sequence[Suite], names: Sequence[str], directory: Path, entries: Sequence[differences.Tolerated]
) -> list[report.Outcome]:
    """All suites on all targets, two at a time."""
    outcomes = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = {
            suite.name: {name: pool.submit(play, suite, name, directory / suite.name / name) for name in names}
            for suite in suites
            if not missing(suite)
        }
        for suite in suites:
            if suite.name in running:
                results = {name: future.result() for name, future in running[suite.name].items()}
                outcomes.append(report.judge(suite, results, entries))
            else:
                outcomes.append(report.Outcome(suite, missing=missing(suite)))
    return outcomes


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__.splitlines()[0])
    parser.add_argument("suite", nargs="*", help=f"one of {', '.join(suite.name for suite in SUITES)}; all by default")
    parser.add_argument("--steps", action="append", help="only steps whose names fit this shell pattern, or another")
    parser.add_argument("--targets", default=",".join(targets.TARGETS), help="the plain one has to be among them")
    parser.add_argument("--keep", type=Path, help="an empty directory to work in, which is left as it is")
    parser.add_argument("--json", type=Path, default=HERE.parent / "build" / "conformance" / "results.json")
    arguments = parser.parse_args()
    known = {suite.name: suite for suite in SUITES}
    if unknown := set(arguments.suite) - set(known):
        parser.error(f"no suite {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    chosen = [known[name] for name in arguments.suite or known]
    if arguments.steps:
        chosen = [
            replace(suite, steps=[step for step in suite.steps if _fits(step.name, arguments.steps)])
            for suite in chosen
        ]
    start = time.monotonic()
    entries = differences.load(HERE / "differences.toml")
    with tempfile.TemporaryDirectory(prefix="pyha-", ignore_cleanup_errors=True) as scratch:
        outcomes = run(chosen, arguments.targets.split(","), arguments.keep or Path(scratch), entries)
    report.write(arguments.json, outcomes)
    # A part of the steps says nothing of entries that were not seen.
    old = report.stale(outcomes, entries) if not arguments.steps else []
    print(f"\n{report.table(outcomes)}\n{report.details(outcomes, entries, old)}\n{time.monotonic() - start:.0f} s")
    return report.status(outcomes, old)


if __name__ == "__main__":
    sys.exit(main())
