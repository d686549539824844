"""`pyha domain restore`: the domain keys of a sealed backup onto one token.

The backup is believed only where it agrees with the members that hold the keys: whoever can write the file could have
sealed other keys to the same public key. `restoring.restore_onto` does the work on the token.

Source: SEMANTICS.md section 5 (domain keys).
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from pyha.cli import memory, new_member, pin, sealing
from pyha.cli.config import group_named
from pyha.cli.entering import SharedPin, candidate_of
from pyha.cli.errors import Mistake, warn
from pyha.cli.interrupts import unbroken
from pyha.ha.fingerprints import Fingerprints
from pyha.runtime import domain_keys
from pyha.runtime.domain_keys import Candidate, NotServable
from pyha.runtime.restoring import Backup, restore_onto
from pyha.runtime.settings import GroupSettings

_PREFIX = "pkcs11:"


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 where the token holds the keys now. Raises Mistake."""
    group = group_named(arguments.config, arguments.label)
    group, target = _with_target(group, arguments.target, arguments.environment, arguments.reserved)
    memory.protect()
    with (
        opened(arguments) as backup,
        SharedPin(arguments.pin_source, f"User PIN of the members of {group.label}: ") as shared,
    ):
        try:
            compared = believed(group, backup, arguments.backup)
            with candidate_of(group, target) as candidate:
                shared.enter(candidate, group.members[target].uri.pin_source)
                restore(group, target, candidate, shared, backup, compared, arguments.allow_open_doors)
        except NotServable as reason:
            raise Mistake(str(reason)) from None
    return 0


def believed(group: GroupSettings, backup: Backup, file: str) -> bool:
    """Whether the configuration says that these are the group's domain keys. Raises Mistake where the backup is another
    group's, NotServable where its keys are others."""
    if backup.group_id != group.id:
        raise Mistake(
            f'{file} is of group "{backup.label}" (id {backup.group_id.hex()}), '
            f'not of "{group.label}" (id {group.id.hex()})'
        )
    return _agree("the configuration names", group.domain, backup)


def restore(
    group: GroupSettings,
    target: int,
    candidate: Candidate,
    shared: SharedPin,
    backup: Backup,
    compared: bool,
    allow_open_doors: bool,
) -> None:
    """The backup's domain keys onto the logged-in member `target` of the group, once no other member disagrees; says
    what was done. `compared`: `believed` said so. Raises NotServable."""
    info = candidate.connection.token_info
    asked = _compare(group, target, info.serial if info is not None else "", shared, backup)
    with unbroken():
        restored = restore_onto(candidate, backup, allow_open_doors)
    if not compared and not asked:
        warn("nothing says whether these are the group's domain keys: the backup was believed")
    for door in restored.open_doors:
        warn(f"{candidate.name}: {door}")
    if restored.put:
        print(f"{candidate.name}: restored {', '.join(restored.put)}")
    else:
        print(f"{candidate.name}: holds the domain keys already")


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Backup]:
    """The backup that `--backup`, `--key` and `--key-passphrase-source` name, opened, and wiped at the end; the
    passphrase is wiped at once. Raises Mistake."""
    source = arguments.key_passphrase_source
    passphrase = pin.read(source, f"Passphrase of {arguments.key}: ") if source is not None else None
    try:
        backup = sealing.open_backup(arguments.backup, arguments.key, passphrase)
    finally:
        if passphrase is not None:
            memory.wipe(passphrase)
    with backup:
        yield backup


def _with_target(
    group: GroupSettings, text: str, environment: list[str], reserved: list[str]
) -> tuple[GroupSettings, int]:
    """The group and the index of the member that is meant, which is a further one where a URI was given. Raises
    Mistake."""
    for index, member in enumerate(group.members):
        if member.name == text:
            if environment or reserved:
                raise Mistake("--environment and --reserved are for a token that is named by its URI")
            return group, index
    if not text.startswith(_PREFIX):
        names = ", ".join(member.name for member in group.members)
        raise Mistake(f'"{group.label}" has no member {text} (it has {names}), and it is no PKCS #11 URI')
    return with_further(group, text, environment, reserved)


def with_further(
    group: GroupSettings, text: str, environment: list[str], reserved: list[str]
) -> tuple[GroupSettings, int]:
    """The group with one member more, which this URI names, and its index. Raises Mistake."""
    further = new_member.from_uri(text, environment, reserved)
    new_member.require_used(reserved, (further,))
    return replace(group, members=(*group.members, further)), len(group.members)


def _compare(group: GroupSettings, target: int, serial: str, shared: SharedPin, backup: Backup) -> int:
    """How many other members hold the backup's keys; who cannot be asked is named. Raises NotServable where one holds
    others."""
    compared = 0
    for index, member in enumerate(group.members):
        if index == target or member.uri.serial == serial or not member.enabled:
            continue
        try:
            with candidate_of(group, index) as other:
                shared.enter(other, member.uri.pin_source)
                told = domain_keys.fingerprints(other.connection, group.id, other.deadline())
        except NotServable as reason:
            warn(f"not compared: {reason}")
            continue
        compared += _agree(f"{member.name} holds", told, backup)
    return compared


def _agree(who: str, told: Fingerprints, backup: Backup) -> bool:
    """Whether there was anything to compare. Raises NotServable where a key is another than the backup's."""
    compared = False
    for key, expected in backup.fingerprints.items():
        agreed = told[key].agrees(expected) if key in told else None
        if agreed is False:
            raise NotServable(f"{who} another {key.value} domain key than the backup: {told[key]}, expected {expected}")
        compared |= agreed is True
    return compared
