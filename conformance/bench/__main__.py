"""`python -m conformance.bench [--quick]`: all side by side in one run; tables, JSON and plots in build/bench/."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from conformance.bench.measure import PARTS, SPEED, Bench, Plan
from conformance.bench.page import with_part
from conformance.bench.result import OPERATIONS, Result
from conformance.bench.sections import render, sections
from conformance.bench.targets import TARGETS

ROOT = Path(__file__).parents[2]
MEMORY = Path("/dev/shm")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m conformance.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run: for a look, not for the page")
    parser.add_argument("--part", nargs="+", choices=PARTS, help="only these")
    parser.add_argument("--rounds", type=int, help="slices of each target (7; quick: 3)")
    parser.add_argument("--slice", type=int, help="milliseconds of one slice (200; quick: 60)")
    parser.add_argument("--threads", type=int, nargs="+", help="(1 4 16; quick: 1 4)")
    parser.add_argument("--objects", type=int, help="in the store for searches (10000; quick: 1000; 0: no searches)")
    parser.add_argument("--filled", type=int, nargs="+", help="objects that a member lacks (2000 10000; quick: 500)")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=TARGETS, help="only these")
    parser.add_argument(
        "--only", nargs="+", choices=[one.name for one in OPERATIONS], default=[], help="of speed only these"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="a directory (build/bench)")
    parser.add_argument("--page", type=Path, help="a Markdown file; the tables of the parts that ran are replaced")
    return parser.parse_args()


def _plan(given: argparse.Namespace) -> Plan:
    quick = given.quick
    return Plan(
        parts=given.part or ([SPEED] if given.only else PARTS),
        targets=given.target,
        rounds=given.rounds or (3 if quick else 7),
        milliseconds=given.slice or (60 if quick else 200),
        threads=given.threads or ((1, 4) if quick else (1, 4, 16)),
        objects=(1000 if quick else 10000) if given.objects is None else given.objects,
        only=given.only,
        latency_milliseconds=500 if quick else 1500,
        pauses=1 if quick else 3,
        idle=10 if quick else 20,
        filled=given.filled or ((500,) if quick else (2000, 10000)),
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(result: Result, directory: Path, page: Path | None) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    text = render(result)
    (directory / "bench.md").write_text(text)
    (directory / "bench.json").write_text(json.dumps(result.document(), indent=1) + "\n")
    if page is not None:
        for part, tables in sections(result).items():
            page.write_text(with_part(page.read_text(), part, tables))
    print(text)
    try:
        from conformance.bench.plots import draw
    except ImportError as missing:
        _say(f"no plots: {missing} (make bench installs it)")
    else:
        draw(result, directory)
    _say(f"written to {directory}")


def main() -> int:
    """Exit status. What could not be measured is named in the result."""
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="pyha-bench-", dir=MEMORY if MEMORY.is_dir() else None) as directory:
        result = Bench(_plan(given), Path(directory), _say).run()
    _write(result, given.out, given.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
