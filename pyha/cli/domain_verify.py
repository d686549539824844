"""`pyha domain verify`: tries on each member whether the domain keys could be misused, and says which doors are shut.

Leaves nothing behind: trial keys are session objects, and what a door that stands open let happen is undone.

Source: SEMANTICS.md section 5 (domain keys; the doors).
"""

import argparse
import json

from pyha.cli.config import group_named
from pyha.cli.entering import SharedPin, candidate_of
from pyha.cli.interrupts import unbroken
from pyha.ha.domain import AES_KEYS
from pyha.runtime.admission import NotAdmitted, read_domain_keys
from pyha.runtime.domain_keys import Candidate, NotServable
from pyha.runtime.doors import Door, DoorState, Way, try_doors
from pyha.runtime.housekeeping import SearchFailed
from pyha.runtime.member import MemberLost, SessionRefused


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 where every door of every enabled member was tried and is shut, else 1."""
    group = group_named(arguments.config, arguments.label)
    tried: dict[str, tuple[Door, ...]] = {}
    trouble: dict[str, str] = {}
    with SharedPin(arguments.pin_source, f"User PIN of the members of {group.label}: ") as shared:
        for index, member in enumerate(group.members):
            if not member.enabled:
                continue
            try:
                with candidate_of(group, index) as candidate:
                    shared.enter(candidate, member.uri.pin_source)
                    tried[member.name] = _try(candidate, group.id)
            except NotServable as reason:
                trouble[member.name] = str(reason)
    if arguments.json:
        members = [
            {"name": name, "doors": [{"key": each.key, "way": each.way, "state": each.state} for each in doors]}
            for name, doors in tried.items()
        ]
        silent = [{"name": name, "reason": reason} for name, reason in trouble.items()]
        print(json.dumps({"label": group.label, "members": members, "not-tried": silent}, indent=2))
    else:
        for name, doors in tried.items():
            _print(name, doors)
        for sentence in trouble.values():
            print(sentence)
    shut = all(door.state is DoorState.SHUT for doors in tried.values() for door in doors)
    return 0 if shut and not trouble else 1


def _try(candidate: Candidate, group_id: bytes) -> tuple[Door, ...]:
    """Raises NotServable."""
    connection = candidate.connection
    try:
        found = read_domain_keys(connection, group_id, candidate.deadline())
    except (NotAdmitted, SearchFailed, SessionRefused, MemberLost) as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None
    for key in AES_KEYS:
        if key not in found:
            raise NotServable(f"{candidate.name}: its {key.value} domain key is missing")
    connection.domain.update({key: on_token.handles for key, on_token in found.items()})
    with unbroken():  # what an open door let happen is undone
        return try_doors(candidate)


def _print(name: str, doors: tuple[Door, ...]) -> None:
    print(name)
    for way in Way:
        for state in DoorState:
            keys = [door.key.value for door in doors if door.way is way and door.state is state]
            if keys:
                print(f"  {state.value:9}  {way.value}: {', '.join(keys)}")
