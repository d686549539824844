"""`pyha group sync`: what the members of a group hold differently, and making it the same.

Logs in to every member that can be reached, plans with creations and changes of all processes of this host excluded,
and carries the plan out. Killed at any moment it can be run again: the next plan goes on from what is there.

Exit status: 0 all members hold the same; 1 something differs (with --dry-run) or is left; 3 those that were reached
hold the same, and some member was not reached; 2, as everywhere, it could not be done.

Source: SEMANTICS.md section 5; docs/resync.md.
"""

import argparse
import gc
import json
from contextlib import ExitStack
from typing import Any

from pyha.abi import pins
from pyha.cli import config_edit, memory, pin
from pyha.cli.config import chosen
from pyha.cli.errors import Mistake, warn
from pyha.cli.progress import Progress
from pyha.cryptoki import constants as ck
from pyha.ha.group import State
from pyha.ha.steps import Conflict, Copy, Plan, Step, Write
from pyha.ha.telling import action, conflict_line, line
from pyha.runtime import config, log
from pyha.runtime.admission import admit
from pyha.runtime.afresh import Unreadable
from pyha.runtime.assembly import codecs_for, connector, own_pins
from pyha.runtime.group import GroupRuntime, NobodyLeft
from pyha.runtime.member import LoginRefused, MemberLost, SessionRefused
from pyha.runtime.pinsource import PinUnavailable
from pyha.runtime.resync import LostMeanwhile, Outcome
from pyha.runtime.settings import GroupSettings
from pyha.runtime.turns import Occupied, resync_group

_DIFFERS, _NOT_REACHED = 1, 3


def run(arguments: argparse.Namespace) -> int:
    """The exit status. Raises Mistake."""
    path = chosen(arguments.config)
    try:
        settings = config_edit.group_of(config.load(path), arguments.label)
    except config.ConfigurationError as error:
        raise Mistake(str(error)) from None
    only = config_edit.member_of(settings, arguments.member) if arguments.member is not None else None
    memory.protect()
    group = GroupRuntime(settings, 0, connector(settings, codecs_for((settings,))), own_pin=own_pins(settings, False))
    group.changes.beside(path)
    with ExitStack() as stack:
        if gc.isenabled():
            # What is known of thousands of objects is held to the end: nothing of it is found to be garbage.
            gc.disable()
            stack.callback(gc.enable)
        log.direct("none")  # what there is to say is said here
        stack.callback(log.direct, "stderr")
        stack.callback(lambda: group.close(group.deadline()))
        _enter(group, arguments.pin_source)
        outcome = _resynchronised(group, only, arguments.dry_run)
    out = [(member.name, member.reason) for member in group.value.members if member.state is not State.IN]
    if arguments.json:
        print(json.dumps(_report(settings, outcome, out, arguments.dry_run), indent=2))
    else:
        _tell(outcome, out, arguments.dry_run)
    if _differs(outcome, arguments.dry_run):
        return _DIFFERS
    return _NOT_REACHED if out else 0


def _enter(group: GroupRuntime, source: str) -> None:
    """Connect and log in to every member; one that cannot be is out. Raises Mistake."""
    try:
        group.contact()
        _keep_pin(group, source)
        group.user = ck.CKU_USER
        for index, connection in group.login_order():
            deadline = group.deadline()
            try:
                connection.anchor(deadline)
                group.log_in_returning(index, connection, deadline)
            except LoginRefused as refusal:
                if group.settings.members[index].uri.pin_source is None:
                    # One try of one PIN: it is not carried on to the other tokens.
                    raise Mistake(f"{group.name(index)}: {refusal}") from None
                group.lost(index, connection.generation, str(refusal))
            except (MemberLost, SessionRefused, PinUnavailable) as failure:
                group.lost(index, connection.generation, str(failure))
        admit(group)
        group.present()
    except NobodyLeft:
        reasons = "; ".join(f"{member.name}: {member.reason}" for member in group.value.members)
        raise Mistake(f'no member of "{group.settings.label}" can be reached: {reasons}') from None


def _keep_pin(group: GroupRuntime, source: str) -> None:
    """The PIN of the members that have no source of their own."""
    if all(group.settings.members[index].uri.pin_source is not None for index, _ in group.present()):
        return
    read = pin.read(source, f"User PIN of the members of {group.settings.label}: ")
    try:
        group.pin = pins.keep_buffer(read)
    finally:
        memory.wipe(read)


def _resynchronised(group: GroupRuntime, only: int | None, dry: bool) -> Outcome:
    """Raises Mistake."""
    if only is not None and group.connections[only] is None:
        raise Mistake(f"{group.name(only)} cannot be reached: {group.value.members[only].reason}")
    while True:
        try:
            with Progress() as progress:
                return resync_group(group, only, dry, progress, progress.reads)
        except LostMeanwhile as loss:
            group.lost(loss.index, loss.connection.generation, str(loss))
            if loss.index == only:
                raise Mistake(f"{group.name(loss.index)}: {loss}") from None
            warn(f"{group.name(loss.index)} was lost, and the others go on: {loss}")
        except (Occupied, Unreadable) as reason:
            raise Mistake(str(reason)) from None
        except NobodyLeft:
            raise Mistake("the last member was lost") from None


def _differs(outcome: Outcome, dry: bool) -> bool:
    return bool(outcome.first) if dry else bool(outcome.left) or not outcome.finished


def _tell(outcome: Outcome, out: list[tuple[str, str]], dry: bool) -> None:
    shown = outcome.first if dry else Plan((), outcome.left)
    for step in shown.steps:
        print(line(step, outcome.names))
    for conflict in shown.conflicts:
        print(conflict_line(conflict, outcome.names))
    for name, reason in out:
        warn(f"{name} was not compared: {reason}")
    if dry:
        count = len(shown.steps)
        print(f"{_counted(count)} to carry out." if shown else "Nothing differs.")
    elif not outcome.finished:
        print(f"{_counted(outcome.done)} carried out; objects change all the time, and not all is done.")
    else:
        print(f"{_counted(outcome.done)} carried out." if outcome.done else "Nothing was to be done.")
    if shown.conflicts:
        print(f"{len(shown.conflicts)} left for you to decide (docs/resync.md, What is left).")


def _counted(count: int) -> str:
    return f"{count} step{'' if count == 1 else 's'}"


def _report(settings: GroupSettings, outcome: Outcome, out: list[tuple[str, str]], dry: bool) -> dict[str, Any]:
    names = outcome.names
    shown = outcome.first if dry else Plan(outcome.first.steps, outcome.left)
    return {
        "group": settings.label,
        "members": list(names),
        "not-compared": [{"member": name, "reason": reason} for name, reason in out],
        "steps": [_step(step, names) for step in shown.steps],
        "conflicts": [_conflict(each, names) for each in shown.conflicts],
        "done": outcome.done,
        "finished": outcome.finished,
    }


def _step(step: Step, names: tuple[str, ...]) -> dict[str, Any]:
    found = {"action": action(step), "member": names[step.member], "text": line(step, names)}
    if isinstance(step, Copy):
        found["source"] = names[step.source]
    if isinstance(step, Write):
        found["label"] = step.label.decode(errors="replace")
    return found


def _conflict(conflict: Conflict, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "member": names[conflict.member],
        "reason": conflict.reason,
        "keeps-out": conflict.bars,
        "pinnable": conflict.pinnable,
        "text": conflict_line(conflict, names),
    }
