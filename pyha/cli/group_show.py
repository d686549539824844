"""`pyha group list` and `pyha group show`: what is configured, and what each member says.

`list` reads the configuration only. `show` connects to every member of one group by itself; with a PIN source it logs
in and compares the domain keys.
"""

import argparse
import json
from contextlib import ExitStack
from typing import Any

from pyha.cli.config import chosen, group_named
from pyha.cli.entering import SharedPin, candidate_of
from pyha.cli.errors import Mistake
from pyha.ha.domain import AES_KEYS, RSA_KEYS
from pyha.ha.fingerprints import Fingerprints, majority, objection
from pyha.runtime import config, domain_keys
from pyha.runtime.domain_keys import NotServable
from pyha.runtime.member import MemberLost
from pyha.runtime.settings import Configuration, GroupSettings


def _load(arguments: argparse.Namespace) -> Configuration:
    try:
        return config.load(chosen(arguments.config))
    except config.ConfigurationError as error:
        raise Mistake(str(error)) from None


def run_list(arguments: argparse.Namespace) -> int:
    """Exit status 0."""
    groups = [
        {
            "label": group.label,
            "serial": group.serial,
            "id": group.id.hex(),
            "members": [
                {"name": member.name, "role": member.role.value, "enabled": member.enabled} for member in group.members
            ],
        }
        for group in _load(arguments).groups
    ]
    if arguments.json:
        print(json.dumps(groups, indent=2))
        return 0
    for group in groups:
        members = group["members"]
        assert isinstance(members, list)
        print(f"{group['label']}  serial {group['serial']}  {len(members)} members")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Exit status 0 where every member answers and, if they were looked at, holds the group's domain keys; else 1."""
    group = group_named(arguments.config, arguments.label)
    told: dict[str, Fingerprints] = {}
    with ExitStack() as open_ones:
        shared = None
        if arguments.pin_source is not None:
            question = f"User PIN of the members of {group.label}: "
            shared = open_ones.enter_context(SharedPin(arguments.pin_source, question))
        members = [_member(group, index, shared, told) for index in range(len(group.members))]
    expected = group.domain or majority(list(told.values()))
    agreed = all(objection(expected, fingerprints) is None for fingerprints in told.values())
    well = agreed and all(member["state"] == "CKR_OK" for member in members)
    report = {"label": group.label, "serial": group.serial, "id": group.id.hex(), "members": members}
    if arguments.json:
        print(json.dumps(report, indent=2))
        return 0 if well else 1
    print(f"{group.label}  serial {group.serial}  id {group.id.hex()}")
    for member in members:
        values = "  ".join(f"{key} {value or 'missing'}" for key, value in member["domain-keys"].items())
        reason = f"  ({member['reason']})" if member["reason"] else ""
        role = member["role"] + ("" if member["enabled"] else ", disabled")
        print(f"  {member['name']}  {member['serial']}  {role}  {member['state']}{reason}  {values}".rstrip())
    if not agreed:
        print("The members' domain keys differ: `pyha domain show` says which.")
    return 0 if well else 1


def _member(
    group: GroupSettings, index: int, shared: SharedPin | None, told: dict[str, Fingerprints]
) -> dict[str, Any]:
    """The report on one member; what it tells of its domain keys goes into `told`. Without `shared` only members with
    a PIN source of their own are logged in to."""
    settings = group.members[index]
    report: dict[str, Any] = {
        "name": settings.name,
        "serial": settings.uri.serial or "",
        "role": settings.role.value,
        "enabled": settings.enabled,
        "state": "CKR_OK",
        "reason": "",
        "domain-keys": {},
    }
    own = settings.uri.pin_source
    if own is not None and shared is None:
        shared = SharedPin(own, "")
    try:
        with candidate_of(group, index) as candidate:
            if shared is None:
                candidate.connection.connect(candidate.deadline())
                return report
            shared.enter(candidate, own)
            values = domain_keys.fingerprints(candidate.connection, group.id, candidate.deadline())
            told[settings.name] = values
            # RSA pairs are not in every group: they are shown where there are any.
            shown = [*AES_KEYS, *(key for key in RSA_KEYS if key in values)]
            report["domain-keys"] = {key.value: str(values[key]) if key in values else None for key in shown}
    except (MemberLost, NotServable) as reason:
        report["state"], report["reason"] = "CKR_TOKEN_NOT_PRESENT", str(reason)
    return report
