"""`pyha group create`: from a label and some tokens to a configured group with its domain keys on every member.

Order: everything that can be wrong is looked at first; then the domain keys are made, the doors tried, the backup and
the configuration written. What fails on the way takes the domain keys back.

Source: SEMANTICS.md sections 1 and 5.
"""

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

from pyha.abi.codec import Codecs
from pyha.cli import config_edit, config_write, memory, new_member, pin, sealing, usage
from pyha.cli.config import chosen
from pyha.cli.errors import Mistake
from pyha.cli.interrupts import unbroken
from pyha.ha.domain import AES_KEYS, DomainKey
from pyha.ha.fingerprints import Fingerprints, objection
from pyha.ha.settings import Isolation, Role, TokenSnapshot
from pyha.runtime import config, domain_keys, founding
from pyha.runtime.assembly import connector
from pyha.runtime.domain_keys import Candidate, NotServable
from pyha.runtime.mechanisms import common_mechanisms, offered, snapshot_of
from pyha.runtime.member import MemberLost
from pyha.runtime.naming import group_serial
from pyha.runtime.restoring import refuse_strangers
from pyha.runtime.settings import Configuration, GroupSettings, MemberSettings

_QUESTION = "User PIN of the members: "
NEEDED = {0x2109: "CKM_AES_KEY_WRAP", 0x210A: "CKM_AES_KEY_WRAP_PAD"}
"""What every member has to offer."""


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0. Raises Mistake for all that stands in the way."""
    path = _configuration_path(arguments.config)
    config_write.prepare(path)
    with config_edit.at_tokens(path):
        return _run(path, arguments)


def _run(path: str, arguments: argparse.Namespace) -> int:
    before = config_edit.current(path)
    settings = _settings(arguments)
    _require_new(before, settings.label, path)
    sealing_key = sealing.public_key(arguments.backup_to) if arguments.backup_to else None
    backup = os.path.abspath(arguments.backup or f"{settings.label}.pyha-backup")
    if sealing_key is not None and os.path.exists(backup):
        raise Mistake(f"{backup} is there already")
    memory.protect()
    candidates = _candidates(settings)

    def added(configuration: Configuration) -> Configuration:
        _require_new(configuration, settings.label, path)
        return replace(configuration, groups=(*configuration.groups, settings))

    values = _random_values()
    try:
        settings = _examine(candidates, settings, arguments.pin_source, {group.serial for group in before.groups})
        config_edit.checked(replace(before, groups=(*before.groups, settings)))
        with unbroken() as check, ExitStack() as taken_back:
            taken_back.callback(domain_keys.remove_domain_keys, candidates, settings.id)
            pairs = domain_keys.put_domain_keys(candidates, settings.id, values, _takes_rsa(settings))
            check()
            settings = replace(settings, domain=_proved(candidates, settings.id, sealing.fingerprints(values, pairs)))
            _try_doors(candidates, arguments.allow_open_doors)
            for candidate in candidates:
                refuse_strangers(candidate, settings.id)  # somebody else may have been at it meanwhile
            if sealing_key is not None:
                sealed = sealing.seal(sealing_key, settings.id, settings.label, values, pairs)
                taken_back.callback(_forget, backup)
                config_write.write(backup, sealed, mode=0o600)
            check()
            config_edit.edit(path, added)
            taken_back.pop_all()
    except NotServable as reason:
        raise Mistake(str(reason)) from None
    finally:
        for value in values.values():
            memory.wipe(value)
        for candidate in candidates:
            candidate.connection.finish(candidate.deadline())
    print(usage.after_creation(settings, path, backup if sealing_key is not None else None))
    return 0


def _forget(backup: str) -> None:
    """The backup of keys that no token holds any more."""
    with suppress(OSError):
        os.unlink(backup)


def _require_new(configuration: Configuration, label: str, path: str) -> None:
    if any(group.label == label for group in configuration.groups):
        raise Mistake(f'{path} has a group "{label}" already')


def _configuration_path(named: str | None) -> str:
    try:
        return chosen(named)
    except Mistake:
        return config.SYSTEM if os.geteuid() == 0 else os.path.expanduser("~/.config/pyha/pyha.toml")


def _settings(arguments: argparse.Namespace) -> GroupSettings:
    members = [
        new_member.from_uri(text, arguments.environment, arguments.reserved, role)
        for role, texts in ((Role.ACTIVE, arguments.uri), (Role.STANDBY, arguments.standby))
        for text in texts
    ]
    new_member.require_used(arguments.reserved, members)
    return GroupSettings(
        arguments.label, secrets.token_bytes(16), "", tuple(members), isolation=Isolation(arguments.isolation)
    )


def _candidates(settings: GroupSettings) -> list[Candidate]:
    connect = connector(settings, Codecs())
    return [Candidate(connect(index, 1), settings.deadline) for index in range(len(settings.members))]


def _examine(candidates: Sequence[Candidate], settings: GroupSettings, source: str, others: set[str]) -> GroupSettings:
    """Log in everywhere and find out whether these tokens make a group: the settings with serials and token
    snapshot."""
    shared: bytearray | None = None
    offers = []
    members: list[MemberSettings] = []
    serials: dict[tuple[str, str], str] = {}
    try:
        for candidate, member in zip(candidates, settings.members, strict=True):
            own = member.uri.pin_source
            if own is None and shared is None:
                shared = pin.read(source, _QUESTION)
            user_pin = pin.read(own, _QUESTION) if own is not None else shared
            try:
                founding.enter(candidate, user_pin)
            finally:
                if own is not None and user_pin is not None:
                    user_pin[:] = bytes(len(user_pin))
            info = candidate.connection.token_info
            assert info is not None
            twin = serials.setdefault((info.serial, info.manufacturer), candidate.name)
            if twin != candidate.name or sum(info.serial == each.uri.serial for each in members):
                raise NotServable(f"{candidate.name}: this token is named twice")
            members.append(replace(member, uri=replace(member.uri, serial=info.serial, token=info.label)))
            held = founding.require_new(candidate)
            if held:
                print(
                    f"pyha: warning: {candidate.name} holds {held} objects, which are not replicated by making a group",
                    file=sys.stderr,
                )
            with unbroken():
                founding.check_records(candidate)
            try:
                offer = offered(candidate.connection, candidate.deadline())
            except MemberLost as loss:
                raise NotServable(f"{candidate.name}: {loss}") from None
            for mechanism, name in NEEDED.items():
                if mechanism not in offer:
                    raise NotServable(f"{candidate.name}: the module has no {name}, so that no key can be cloned")
            offers.append(offer)
    finally:
        if shared is not None:
            shared[:] = bytes(len(shared))
    first = candidates[0].connection.token_info
    serial = group_serial(first.serial if first is not None else "", _visible(candidates) | others)
    snapshot: TokenSnapshot = snapshot_of(first, common_mechanisms(offers))
    names = [member.name for member in members]
    unique = tuple(
        member if names.count(member.name) == 1 else replace(member, name=f"{member.name}-{member.uri.serial}")
        for member in members
    )
    return replace(settings, serial=serial, members=unique, token=snapshot)


def _visible(candidates: Sequence[Candidate]) -> set[str]:
    """The serials of all tokens that the members' modules show. Raises NotServable."""
    return {serial for candidate in candidates for serial in founding.visible_serials(candidate)}


def _takes_rsa(settings: GroupSettings) -> bool:
    """Whether the group gets RSA domain keys; says so where it cannot."""
    takes = settings.token is not None and domain_keys.takes_rsa(settings.token)
    if not takes:
        print(
            "pyha: warning: the modules have no RSA-OAEP: secret keys whose length is no multiple of 8 bytes, or less "
            "than 16, cannot be on every member",
            file=sys.stderr,
        )
    return takes


def _proved(candidates: Sequence[Candidate], group_id: bytes, expected: Fingerprints) -> Fingerprints:
    """The fingerprints of the new domain keys, once every token has told them. Raises NotServable."""
    for candidate in candidates:
        told = domain_keys.fingerprints(candidate.connection, group_id, candidate.deadline())
        refusal = objection(expected, told)
        if refusal is not None:
            raise NotServable(f"{candidate.name}: {refusal}, though the group's was put there")
    return expected


def _try_doors(candidates: Sequence[Candidate], allowed: bool) -> None:
    for candidate in candidates:
        for door in founding.open_doors(candidate):
            if not allowed:
                raise NotServable(f"{candidate.name}: {door} (--allow-open-doors takes the token all the same)")
            print(f"pyha: warning: {candidate.name}: {door}", file=sys.stderr)


def _random_values() -> dict[DomainKey, memoryview]:
    """Random values for the AES domain keys, in one locked page."""
    size = 32
    page = memory.locked_page()
    with open("/dev/urandom", "rb", buffering=0) as source:
        read = source.readinto(page[: size * len(AES_KEYS)])
    if read != size * len(AES_KEYS):
        raise Mistake("/dev/urandom gave too little")
    return {key: page[at * size : (at + 1) * size] for at, key in enumerate(AES_KEYS)}
