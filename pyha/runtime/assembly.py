"""From the configuration to groups that are ready to be contacted.

Reads the configuration once; starts no helper and no thread.

Source: SEMANTICS.md section 1; docs/configuration.md.
"""

import os
from collections.abc import Callable
from functools import partial

from pyha.abi.codec import Codecs
from pyha.abi.link import Link, keep_environment, open_local, open_process
from pyha.cryptoki.mechanisms import MECHANISMS, declared
from pyha.cryptoki.plain import replace
from pyha.ha.settings import Isolation
from pyha.runtime import log, pinsource
from pyha.runtime.config import ConfigurationError, find, load
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from pyha.runtime.naming import slot_id
from pyha.runtime.noticeboard import Preferred, runtime_directory
from pyha.runtime.reload import Reload, signature
from pyha.runtime.resident import resident
from pyha.runtime.settings import Configuration, GroupSettings, MemberSettings


class ConfigurationUnusable(Exception):
    """Why there is no configuration to work with: one sentence."""


def assemble(secure: bool) -> tuple[list[GroupRuntime], Codecs, Reload]:
    """The groups of the configuration, in the order of the slot list, the codecs for all calls, and what lets the
    groups follow their configuration. `secure`: the process runs under AT_SECURE. Raises ConfigurationUnusable."""
    path = find(os.environ, secure)
    if path is None:
        raise ConfigurationUnusable(
            "there is no configuration: neither $PYHA_CONF, nor ~/.config/pyha/pyha.toml, nor /etc/pyha/pyha.toml"
        )
    seen = signature(path)
    try:
        configuration = load(path)
    except ConfigurationError as error:
        raise ConfigurationUnusable(str(error)) from None
    keep_environment()
    log.direct(configuration.log, configuration.log_level.value)
    codecs = codecs_for(configuration.groups)
    groups = groups_of(configuration, codecs, secure)
    for group in groups:
        if not group.raw:
            group.changes.beside(path)

    def rewire(group: GroupRuntime, settings: GroupSettings) -> None:
        group.new_connection = connector(settings, codecs)
        group.own_pin = own_pins(settings, secure)

    return groups, codecs, Reload(path, seen, groups, rewire)


def codecs_for(groups: tuple[GroupSettings, ...]) -> Codecs:
    """Codecs that know the table's mechanisms and those that the configuration declares."""
    extra = {kind: declared(form.value) for group in groups for kind, form in group.mechanisms.items()}
    return Codecs({**MECHANISMS, **extra}) if extra else Codecs()


def groups_of(configuration: Configuration, codecs: Codecs, secure: bool = False) -> list[GroupRuntime]:
    """A runtime group a slot: with HA-only off the members' own slots first, then the virtual ones."""
    taken: set[int] = set()
    virtual = []
    for settings in configuration.groups:
        slot = slot_id(settings.serial, taken)
        taken.add(slot)
        group = GroupRuntime(settings, slot, connector(settings, codecs), own_pin=own_pins(settings, secure))
        group.status.begin(slot, Preferred(configuration.status_directory, runtime_directory(os.environ, secure)))
        virtual.append(group)
    if configuration.ha_only:
        return virtual
    own = []
    for settings in configuration.groups:
        for member in settings.members:
            # What was written down about the group's token is the best guess at this one until it is reached.
            alone = replace(
                settings,
                label=member.uri.token or member.name,
                serial=member.uri.serial or member.name,
                members=(member,),
            )
            slot = slot_id(f"own {alone.serial}", taken)
            taken.add(slot)
            own.append(GroupRuntime(alone, slot, connector(alone, codecs), raw=True))
    return own + virtual


def connector(settings: GroupSettings, codecs: Codecs) -> Callable[[int, int], Connection]:
    """Makes connections of a group's members."""

    def connect(index: int, generation: int) -> Connection:
        member = settings.members[index]
        reserved = member.reserved.encode() if member.reserved is not None else None
        inside = settings.isolation is Isolation.NONE
        return Connection(
            member.name,
            generation,
            link_opener(settings, member),
            member.uri,
            codecs,
            reserved,
            resident=resident(member.uri.module_path or "") if inside else None,
        )

    return connect


def own_pins(settings: GroupSettings, secure: bool) -> Callable[[int], bytearray | None]:
    """Reads the PIN of a member that has a source of its own, when it is to log in."""

    def own_pin(index: int) -> bytearray | None:
        source = settings.members[index].uri.pin_source
        return pinsource.read(source, os.environ, secure=secure) if source is not None else None

    return own_pin


def link_opener(settings: GroupSettings, member: MemberSettings) -> Callable[[float], Link]:
    """Starts a member's link: a helper process, or the module inside this one where the operator chose that."""
    module = member.uri.module_path or ""
    if settings.isolation is Isolation.NONE:
        return lambda deadline: open_local(module)
    title = f"{settings.label}/{member.name}"
    return partial(_open_helper, module, dict(member.environment), settings.max_in_flight, title)


def _open_helper(module: str, environment: dict[str, str], max_in_flight: int, title: str, deadline: float) -> Link:
    return open_process(module, environment, deadline, max_in_flight, title)
