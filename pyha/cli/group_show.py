"""`pyha group list` and `pyha group show`: what is configured, and what each member says.

`list` reads the configuration only. `show` connects to every member of one group by itself; with a PIN source it logs
in and compares the domain keys' check values.
"""

import argparse
import json
from typing import Any

from pyha.cli import pin
from pyha.cli.config import chosen
from pyha.cli.errors import Mistake
from pyha.ha.domain import AES_KEYS, RSA_KEYS
from pyha.runtime import config, domain_keys, founding
from pyha.runtime.assembly import codecs_for, connector
from pyha.runtime.domain_keys import Candidate, NotServable
from pyha.runtime.housekeeping import SearchFailed
from pyha.runtime.member import MemberLost, SessionRefused
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
    """Exit status 0 where every member answers and their domain keys agree, else 1."""
    found = [group for group in _load(arguments).groups if group.label == arguments.label]
    if not found:
        raise Mistake(f'there is no group "{arguments.label}"')
    group = found[0]
    members = [_member(group, index, arguments.pin_source) for index in range(len(group.members))]
    agreed = _agree(members)
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
        print("The members' domain keys differ.")
    return 0 if well else 1


def _member(group: GroupSettings, index: int, source: str | None) -> dict[str, Any]:
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
    candidate = Candidate(connector(group, codecs_for((group,)))(index, 1), group.deadline)
    connection = candidate.connection
    source = settings.uri.pin_source or source
    try:
        if source is None:
            connection.connect(candidate.deadline())
        else:
            founding.enter(candidate, pin.read(source, f"User PIN of {settings.name}: "))
            values = domain_keys.fingerprints(connection, group.id, candidate.deadline())
            # RSA pairs are not in every group: they are shown where there are any.
            shown = [*AES_KEYS, *(key for key in RSA_KEYS if key in values)]
            report["domain-keys"] = {key.value: str(values[key]) if key in values else None for key in shown}
    except (MemberLost, NotServable, SearchFailed, SessionRefused) as reason:
        report["state"], report["reason"] = "CKR_TOKEN_NOT_PRESENT", str(reason)
    finally:
        connection.finish(candidate.deadline())
    return report


def _agree(members: list[dict[str, Any]]) -> bool:
    told = [tuple(sorted(member["domain-keys"].items())) for member in members if member["domain-keys"]]
    return len(set(told)) <= 1 and all(value is not None for keys in told for _, value in keys)
