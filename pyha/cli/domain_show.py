"""`pyha domain show`: what each member tells of the domain keys, and whether it is what the configuration names.

Where the configuration names no fingerprints the members are compared with what most of them have.

Source: SEMANTICS.md section 5 (domain keys).
"""

import argparse
import json
from typing import Any

from pyha.cli.config import group_named
from pyha.cli.entering import SharedPin, candidate_of
from pyha.ha.fingerprints import Fingerprints, majority, objection
from pyha.runtime import domain_keys
from pyha.runtime.domain_keys import NotServable
from pyha.runtime.settings import GroupSettings


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 where every enabled member answers and holds the group's keys, else 1."""
    group = group_named(arguments.config, arguments.label)
    told: dict[str, Fingerprints] = {}
    trouble: dict[str, str] = {}
    with SharedPin(arguments.pin_source, f"User PIN of the members of {group.label}: ") as shared:
        for index, member in enumerate(group.members):
            if not member.enabled:
                continue
            try:
                with candidate_of(group, index) as candidate:
                    shared.enter(candidate, member.uri.pin_source)
                    told[member.name] = domain_keys.fingerprints(candidate.connection, group.id, candidate.deadline())
            except NotServable as reason:
                trouble[member.name] = str(reason)
    expected = group.domain or majority(list(told.values()))
    for name, fingerprints in told.items():
        phrase = objection(expected, fingerprints)
        if phrase is not None:
            trouble[name] = f"{name}: {phrase}"
    if arguments.json:
        print(json.dumps(_report(group, told, trouble), indent=2))
    else:
        _print(group, told, trouble)
    return 1 if trouble else 0


def _report(group: GroupSettings, told: dict[str, Fingerprints], trouble: dict[str, str]) -> dict[str, Any]:
    members = [
        {
            "name": member.name,
            "agrees": member.name not in trouble if member.enabled else None,
            "reason": trouble.get(member.name, "" if member.enabled else "disabled by the operator"),
            "domain-keys": _fields(told.get(member.name, {})),
        }
        for member in group.members
    ]
    return {"label": group.label, "id": group.id.hex(), "configured": _fields(group.domain), "members": members}


def _fields(fingerprints: Fingerprints) -> dict[str, dict[str, str]]:
    return {key.value: {"check": each.check.hex(), "proof": each.proof.hex()} for key, each in fingerprints.items()}


def _print(group: GroupSettings, told: dict[str, Fingerprints], trouble: dict[str, str]) -> None:
    print(f"{group.label}  id {group.id.hex()}")
    width = max(len(name) for name in ("configured", *(member.name for member in group.members)))
    rows = {"configured": group.domain} if group.domain else {}
    for name, fingerprints in {**rows, **told}.items():
        print(f"  {name:{width}}  {'  '.join(f'{key.value} {each}' for key, each in fingerprints.items()) or 'none'}")
    for sentence in trouble.values():
        print(sentence)
    if not group.domain:
        print("The configuration names no fingerprints: the members are compared with each other.")
    if not trouble:
        print("The members' domain keys agree.")
