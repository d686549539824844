"""`pyha chaos`: a plan of faults for rehearsals - shown, edited while it is obeyed, and what of it fired.

Knows which lines each action adds or takes; `pyha.cli.chaos_plan` knows the file, `docs/chaos.md` what a line may say.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from pyha.cli import chaos_plan
from pyha.cli.chaos_plan import Line
from pyha.cli.errors import Mistake

_EXAMPLE = "such as 'C_Sign nth=3 -> hang'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`show`, `set`, `add`, `clear`, `release`, `fired` and `module-path`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(
        name: str, run: Callable[[argparse.Namespace], int], about: str, plan: bool = True
    ) -> argparse.ArgumentParser:
        command = actions.add_parser(name, help=about, description=about)
        command.set_defaults(run=run)
        if plan:
            command.add_argument("plan", help="the plan's file")
        return command

    entry = f"{_EXAMPLE} (one argument each)"
    action("show", _show, "the entries, and how often each fired")
    command = action("set", _set, "make a plan, or put other entries in place of all that it has")
    command.add_argument("entry", nargs="*", help=f"{entry}; in a new plan also 'module /path/of/the/wrapped/module'")
    command = action("add", _add, "entries after those that the plan has")
    command.add_argument("entry", nargs="+", help=entry)
    command = action("clear", _clear, "take entries out of the plan")
    command.add_argument("number", nargs="*", type=int, help="as `show` says it; without any, all entries")
    command = action("release", _release, "let go what hangs or is dead: takes those entries that have fired")
    command.add_argument("number", nargs="*", type=int, help="only these entries, fired or not")
    action("fired", _fired, "what happened, in its order: changes of the plan, what fired, what was released")
    action("module-path", _module_path, "print where the module is that obeys plans", plan=False)


def _plan(arguments: argparse.Namespace) -> Path:
    return Path(os.path.abspath(arguments.plan))


def _lines(arguments: argparse.Namespace) -> list[Line]:
    """What the command line says. Raises Mistake for a line with a number: numbers are ours to give."""
    lines = [Line.read(text) for text in arguments.entry]
    for line, text in zip(lines, arguments.entry, strict=True):
        if line.number or not line.text or "\n" in text:
            raise Mistake(f"{text!r} is not one entry without a number, {_EXAMPLE}")
    return lines


def _print(lines: list[Line]) -> None:
    for line in lines:
        print(line)


def _show(arguments: argparse.Namespace) -> int:
    plan = _plan(arguments)
    fired = chaos_plan.fired(chaos_plan.read_journal(plan))
    for line in chaos_plan.load(plan):
        print(f"{line}    (fired {fired.get(line.key, 0)})" if line.entry else line)
    return 0


def _set(arguments: argparse.Namespace) -> int:
    lines = _lines(arguments)
    module = [line for line in lines if not line.entry]

    def edit(before: list[Line], _: list[str]) -> list[Line]:
        kept = [line for line in before if not line.entry and not (module and line.text.startswith("module"))]
        if not before and not module:
            raise Mistake("a new plan needs the line 'module /path', which names the module that it wraps")
        return [*kept, *lines]

    _print(chaos_plan.change(_plan(arguments), "set", edit))
    return 0


def _add(arguments: argparse.Namespace) -> int:
    lines = _lines(arguments)
    _print(chaos_plan.change(_existing(arguments), "add", lambda before, _: [*before, *lines]))
    return 0


def _existing(arguments: argparse.Namespace) -> Path:
    plan = _plan(arguments)
    if not plan.exists():
        raise Mistake(f"there is no plan {plan}: `pyha chaos set` makes one")
    return plan


def _without(before: list[Line], numbers: list[int], otherwise: Callable[[Line], bool]) -> list[Line]:
    missing = sorted(set(numbers) - {line.number for line in before if line.entry})
    if missing:
        raise Mistake(f"the plan has no entry {missing[0]}")
    if numbers:
        return [line for line in before if line.number not in numbers or not line.entry]
    return [line for line in before if not line.entry or not otherwise(line)]


def _clear(arguments: argparse.Namespace) -> int:
    def edit(before: list[Line], _: list[str]) -> list[Line]:
        return _without(before, arguments.number, lambda _: True)

    _print(chaos_plan.change(_existing(arguments), "clear", edit))
    return 0


def _release(arguments: argparse.Namespace) -> int:
    def edit(before: list[Line], journal: list[str]) -> list[Line]:
        fired = chaos_plan.fired(journal)
        for line in before:
            if line.number in arguments.number and not line.holds:
                raise Mistake(f"entry {line.number} neither hangs nor is dead: {line.text}")
        return _without(before, arguments.number, lambda line: line.holds and line.key in fired)

    _print(chaos_plan.change(_existing(arguments), "release", edit))
    return 0


def _fired(arguments: argparse.Namespace) -> int:
    for line in chaos_plan.read_journal(_existing(arguments)):
        print(line)
    return 0


def _module_path(arguments: argparse.Namespace) -> int:
    print(chaos_plan.chaos_module())
    return 0
