"""`pyha status`: how the living processes see the members of their groups.

Asks no token and needs no configuration; `pyha.cli.status_reader` reads what they publish.
"""

import argparse
import json
import sys
import time
from contextlib import suppress
from typing import Any

from pyha.cli.config import chosen
from pyha.cli.errors import Mistake
from pyha.cli.status_reader import Reader, Seen, places
from pyha.cryptoki import constants as ck
from pyha.cryptoki.names import rv_name
from pyha.ha import status
from pyha.ha.status import MemberView
from pyha.runtime import config
from pyha.runtime.settings import Configuration

REFRESH = 1.0
"""Seconds between two looks of --watch."""

_COLUMNS = ("PROCESS", "MEMBER", "ROLE", "STATE", "GENERATION", "IN FLIGHT", "SERVED", "LOST", "ATTEMPTS", "ERRORS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`[LABEL] [--watch] [--json]`."""
    parser.add_argument("label", nargs="?", help="only the group with this label")
    parser.add_argument("--watch", action="store_true", help="show it again and again, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="for programs (with --watch, one line a look)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 where every member is CKR_OK in every process, else 1."""
    reader = Reader(places(_configuration().status_directory))
    while True:
        groups = _groups(_configuration(), reader.look(), arguments.label)
        if arguments.json:
            text = json.dumps([_json(*group) for group in groups], indent=None if arguments.watch else 2)
        else:
            text = "\n\n".join(_text(*group) for group in groups) or "No process uses a group."
        if not arguments.watch:
            print(text)
            return 0 if all(rv == ck.CKR_OK for _, _, seen in groups for each in seen for rv in each.codes) else 1
        _show(text, in_place=not arguments.json and sys.stdout.isatty())
        time.sleep(REFRESH)


def _configuration() -> Configuration:
    """What is configured now, for what it is good for here: nothing, where the file is not to be used."""
    with suppress(Mistake, config.ConfigurationError):
        return config.load(chosen(None))
    return Configuration()


def _show(text: str, in_place: bool) -> None:
    if in_place:
        # Each line is overwritten and its rest cleared, then what is below: nothing flickers.
        text = "\033[H" + "".join(f"{line}\033[K\n" for line in text.splitlines()) + "\033[J"
        print(text, end="", flush=True)
    else:
        print(text, flush=True)


def _groups(configuration: Configuration, all_seen: list[Seen], label: str | None) -> list[tuple[str, str, list[Seen]]]:
    """(label, serial, views) a group: those of the configuration in its order, then others that are in use. Raises
    Mistake for a label that none has."""
    groups: dict[tuple[str, str], list[Seen]] = {}
    for settings in configuration.groups:
        groups[settings.label, settings.serial] = []
    for seen in all_seen:
        groups.setdefault((seen.view.label, seen.view.serial), []).append(seen)
    found = [(*key, views) for key, views in groups.items() if label in (None, key[0])]
    if label is not None and not found:
        raise Mistake(f'there is no group "{label}"')
    return found


# -- showing ------------------------------------------------------------------------------------------------------


def _printable(text: str) -> str:
    """Files of other users may say anything; a terminal must not obey it."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _errors(member: MemberView) -> str:
    named = ((("others" if rv == status.OTHERS else rv_name(rv)), count) for rv, count in member.errors)
    return ", ".join(f"{name} {count}" for name, count in named)


def _state(member: MemberView, now: float) -> str:
    words = member.state.value + (", unsynchronised" if member.unsynchronised else "")
    return f"{words} for {_duration(now - member.since)}" if member.since else words


def _duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 6000 else f"{whole // 3600} h"


def _text(label: str, serial: str, views: list[Seen]) -> str:
    lines = [f"HA group {_printable(serial)} status:"]
    if not views:
        return "\n".join([*lines, f'   no process uses it ("{_printable(label)}")'])
    lines += [f"   HSM {name:<18} - {codes}" for name, codes in _summary(views)]
    processes_ = "1 process" if len(views) == 1 else f"{len(views)} processes"
    served = sum(member.served for seen in views for member in seen.view.members)
    lines.append(f'   "{_printable(label)}" in {processes_}: {served} served, {_failovers(views)} failovers')
    now = time.time()
    rows: list[tuple[str, ...]] = [_COLUMNS]
    reasons = []
    for seen in views:
        process = f"{seen.view.pid} {_printable(seen.view.program)}"
        for member in seen.view.members:
            attempts = f"{member.attempts}" + (f" ({member.failed_attempts} failed)" if member.failed_attempts else "")
            numbers = (member.generation, member.in_flight, member.served, member.losses)
            name = _printable(member.name)
            words = (process, name, member.role.value, _state(member, now), *map(str, numbers), attempts)
            rows.append((*words, _errors(member) or "-"))
            if member.reason:
                reasons.append(f"   {seen.view.pid} {name}: {_printable(member.reason)}")
    return "\n".join([*lines, "", *_table(rows), *reasons])


def _summary(views: list[Seen]) -> list[tuple[str, str]]:
    """(serial or name, codes) a member: where processes differ, each code with how many see it."""
    counted: dict[tuple[str, str], dict[int, int]] = {}
    for seen in views:
        for member, rv in zip(seen.view.members, seen.codes, strict=True):
            counts = counted.setdefault((member.name, member.serial), {})
            counts[rv] = counts.get(rv, 0) + 1
    rows = []
    for (name, serial), counts in counted.items():
        several = ", ".join(f"{rv_name(rv)} in {count}" for rv, count in sorted(counts.items()))
        rows.append((_printable(serial or name), rv_name(next(iter(counts))) if len(counts) == 1 else several))
    return rows


def _failovers(views: list[Seen]) -> int:
    return sum(seen.view.failovers for seen in views)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "   " + "  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _json(label: str, serial: str, views: list[Seen]) -> dict[str, Any]:
    return {
        "label": label,
        "serial": serial,
        "members": [{"hsm": name, "status": codes} for name, codes in _summary(views)],
        "processes": [_process(seen) for seen in views],
    }


def _process(seen: Seen) -> dict[str, Any]:
    view = seen.view
    return {
        "pid": view.pid,
        "program": view.program,
        "written": seen.written,
        "recovery-mode": view.mode.value,
        "failovers": view.failovers,
        "members": [_member(member, rv) for member, rv in zip(view.members, seen.codes, strict=True)],
    }


def _member(member: MemberView, rv: int) -> dict[str, Any]:
    return {
        "name": member.name,
        "serial": member.serial,
        "status": rv_name(rv),
        "role": member.role.value,
        "state": member.state.value,
        "since": member.since,
        "cause": member.cause.value if member.cause else None,
        "reason": member.reason,
        "unsynchronised": member.unsynchronised,
        "generation": member.generation,
        "losses": member.losses,
        "attempts": member.attempts,
        "failed-attempts": member.failed_attempts,
        "in-flight": member.in_flight,
        "served": member.served,
        "errors": {"others" if code == status.OTHERS else rv_name(code): count for code, count in member.errors},
    }
