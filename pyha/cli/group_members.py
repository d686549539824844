"""`pyha group remove | standby | unstandby | enable | disable | recover`: what only the configuration has to say.

No token is asked for anything: running applications follow the file (`pyha.runtime.reload`).

Source: SEMANTICS.md section 4.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

from pyha.cli import config_edit
from pyha.cli.config import chosen
from pyha.cli.config_edit import with_group, with_member
from pyha.cli.errors import Mistake
from pyha.ha.settings import Role
from pyha.runtime.settings import Configuration, GroupSettings, MemberSettings

_FOLLOW = "Running applications follow within seconds."


def run_remove(arguments: argparse.Namespace) -> int:
    """Exit status 0."""

    def change(group: GroupSettings) -> GroupSettings:
        index = config_edit.member_of(group, arguments.member)
        if len(group.members) == 1:
            raise Mistake(f'{group.members[index].name} is the only member of "{group.label}"')
        return replace(group, members=with_member(group, index))

    name = _changed(arguments, change)
    print(f'{name} is no member of "{arguments.label}" any more. {_FOLLOW}')
    print("Its objects, domain keys and records stay on the token: initialise it before it goes elsewhere.")
    return 0


def run_standby(arguments: argparse.Namespace) -> int:
    """Exit status 0."""
    name = _changed(arguments, _each(arguments, lambda member: replace(member, role=Role.STANDBY)))
    print(f'{name} is a standby member of "{arguments.label}". {_FOLLOW}')
    return 0


def run_unstandby(arguments: argparse.Namespace) -> int:
    """Exit status 0."""
    name = _changed(arguments, _each(arguments, lambda member: replace(member, role=Role.ACTIVE)))
    print(f'{name} is an active member of "{arguments.label}". {_FOLLOW}')
    return 0


def run_enable(arguments: argparse.Namespace) -> int:
    """Exit status 0."""
    name = _changed(arguments, _each(arguments, lambda member: replace(member, enabled=True)))
    print(f'{name} of "{arguments.label}" is enabled. {_FOLLOW}')
    return 0


def run_disable(arguments: argparse.Namespace) -> int:
    """Exit status 0."""
    name = _changed(arguments, _each(arguments, lambda member: replace(member, enabled=False)))
    print(f'{name} of "{arguments.label}" is disabled. {_FOLLOW}')
    return 0


def run_recover(arguments: argparse.Namespace) -> int:
    """Exit status 0 where applications were asked; whether the members came back is for `pyha status` to say."""
    asked: list[str] = []

    def change(group: GroupSettings) -> GroupSettings:
        only = None if arguments.member is None else config_edit.member_of(group, arguments.member)
        members = list(group.members)
        for index, member in enumerate(members):
            if only in (None, index) and member.enabled:
                members[index] = replace(member, recover=member.recover + 1)
                asked.append(member.name)
        if not asked:
            name = f"{members[only].name} is" if only is not None else "all members are"
            raise Mistake(f"{name} disabled: `pyha group enable` is meant")
        return replace(group, members=tuple(members))

    _edit(arguments, change)
    print(f'Applications that use "{arguments.label}" try {", ".join(asked)} now, where out; `pyha status` shows it.')
    return 0


def _each(
    arguments: argparse.Namespace, change: Callable[[MemberSettings], MemberSettings]
) -> Callable[[GroupSettings], GroupSettings]:
    def changed(group: GroupSettings) -> GroupSettings:
        index = config_edit.member_of(group, arguments.member)
        return replace(group, members=with_member(group, index, change(group.members[index])))

    return changed


def _changed(arguments: argparse.Namespace, change: Callable[[GroupSettings], GroupSettings]) -> str:
    """Change one member's group; the member's name. Raises Mistake where nobody would be left to serve."""
    names: list[str] = []

    def usable(group: GroupSettings) -> GroupSettings:
        names.append(group.members[config_edit.member_of(group, arguments.member)].name)
        after = change(group)
        if not any(member.enabled and member.role is Role.ACTIVE for member in after.members):
            raise Mistake(f'"{group.label}" would have no active member that is enabled')
        return after

    _edit(arguments, usable)
    return names[0]


def _edit(arguments: argparse.Namespace, change: Callable[[GroupSettings], GroupSettings]) -> None:
    def changed(configuration: Configuration) -> Configuration:
        return with_group(configuration, change(config_edit.group_of(configuration, arguments.label)))

    config_edit.edit(chosen(arguments.config), changed)
