"""`pyha group add`: one more token for a group that is in use, or another one for a member that was replaced.

Order: everything that can be wrong is looked at first; then the domain keys are put on the token, and it is written
into the configuration as a disabled member. Once running applications know of it, so that it misses no deletion, what
it held is dealt with, it is resynchronised, and enabled. `--disabled` does no more than write it down, for a host
whose applications have to know it before another host fills it; a member that is disabled already is filled where it
stands, be it after that or after a command that was killed.

Source: SEMANTICS.md sections 4 (not a member any more) and 5 (domain keys, resync).
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from pyha.cli import config_edit, config_write, domain_restore, memory
from pyha.cli.config import chosen
from pyha.cli.config_edit import with_group, with_member
from pyha.cli.entering import SharedPin, candidate_of
from pyha.cli.errors import Mistake, warn
from pyha.cli.gathering import gathered
from pyha.cli.group_create import NEEDED
from pyha.cli.introducing import brought_along, introduce
from pyha.cryptoki import constants as ck
from pyha.ha.fingerprints import objection
from pyha.ha.settings import MechanismSnapshot, Role, TokenSnapshot
from pyha.ha.telling import conflicts_for_log
from pyha.runtime import domain_keys, emptying, founding
from pyha.runtime.domain_keys import Candidate, NotServable
from pyha.runtime.group import GroupRuntime
from pyha.runtime.mechanisms import common_mechanisms, offered
from pyha.runtime.member import MemberLost
from pyha.runtime.restoring import refuse_strangers
from pyha.runtime.settings import Configuration, GroupSettings, MemberSettings

FOLLOWED = 4.0
"""Seconds after which every running application of this host knows a configuration before it makes or deletes an object
(`pyha.runtime.reload`: a look a second, and one more to see that nobody is writing; and one to spare)."""


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 where the configuration has the member now. Raises Mistake for all that stands in the way."""
    path = chosen(arguments.config)
    config_write.prepare(path)
    if arguments.backup is not None and arguments.key is None:
        raise Mistake("--backup needs --key, the RSA private key that the backup is sealed to")
    if arguments.disabled:
        return _only_known(path, arguments)
    with config_edit.at_tokens(path):
        return _filled(path, arguments)


def _filled(path: str, arguments: argparse.Namespace) -> int:
    before = config_edit.current(path)
    group = config_edit.group_of(before, arguments.label)
    trial, index = domain_restore.with_further(group, arguments.uri, arguments.environment, arguments.reserved)
    further = trial.members[index]
    memory.protect()
    question = f"User PIN of the members of {group.label}: "
    try:
        with ExitStack() as open_ones:
            shared = open_ones.enter_context(SharedPin(arguments.pin_source, question))
            new = open_ones.enter_context(candidate_of(trial, index))
            shared.enter(new, further.uri.pin_source)
            member = _member(before, group, further, new, arguments)
            others = tuple(each for each in group.members if each.uri.serial != member.uri.serial)
            index = len(others)
            trial = replace(group, members=(*others, member))
            config_edit.checked(with_group(before, trial))
            runtime = open_ones.enter_context(gathered(path, trial, shared, without=index))
            if not runtime.value.present():
                raise Mistake(f'no member of "{group.label}" can be reached, with which the token could be compared')
            offer = _offer(new)
            _narrowed(group.token, new, offer, arguments.allow_fewer_mechanisms)
            _domain_keys(runtime, index, new, shared, arguments)

            def known(configuration: Configuration, now: GroupSettings) -> MemberSettings:
                return _member(configuration, now, further, new, arguments)

            def narrowed(now: GroupSettings) -> TokenSnapshot | None:
                return _narrowed(now.token, new, offer, arguments.allow_fewer_mechanisms)

            with _configured(path, group, known, narrowed):
                _existing(runtime, index, new, arguments.existing)
                outcome = introduce(runtime, index, new)
    except NotServable as reason:
        raise Mistake(str(reason)) from None
    for sentence in conflicts_for_log(outcome.left, outcome.names):
        warn(sentence)
    print(
        f'{member.name} (serial {member.uri.serial}) is in "{group.label}" as {member.role.value}: it was '
        f"resynchronised in {outcome.done} steps, and running applications take it in within seconds."
    )
    return 0


def _only_known(path: str, arguments: argparse.Namespace) -> int:
    """Write it into the configuration as a disabled member, and touch nothing else. Raises Mistake."""
    if arguments.backup is not None or arguments.existing != "refuse":
        raise Mistake(
            "--disabled only writes the member into the configuration: no backup, nothing existing is touched"
        )
    group = config_edit.group_of(config_edit.current(path), arguments.label)
    trial, index = domain_restore.with_further(group, arguments.uri, arguments.environment, arguments.reserved)
    known: list[MemberSettings] = []
    with candidate_of(trial, index) as new:
        try:
            new.connection.connect(new.deadline())
        except MemberLost as loss:
            raise Mistake(f"{new.name}: {loss}") from None
        info = new.connection.token_info
        if info is None or not info.flags & ck.CKF_TOKEN_INITIALIZED:
            raise Mistake(f"{new.name}: the token is not initialised")

        def changed(configuration: Configuration, now: GroupSettings) -> GroupSettings:
            member = _member(configuration, now, trial.members[index], new, arguments)
            if any(each.uri.serial == member.uri.serial for each in now.members):
                known.append(member)
                return now
            return replace(now, members=(*now.members, replace(member, enabled=False)))

        after = config_edit.edit(path, _of_group(group, changed))
    if known:
        print(f'{known[0].name} (serial {known[0].uri.serial}) is a disabled member of "{group.label}" already.')
        return 0
    member = config_edit.group_of(after, group.label).members[-1]
    print(
        f'{member.name} (serial {member.uri.serial}) is a disabled member of "{group.label}": running applications of '
        f"this host know it within {FOLLOWED:g} seconds. `pyha group add` without --disabled, on one host, fills it."
    )
    return 0


def _member(
    configuration: Configuration,
    group: GroupSettings,
    further: MemberSettings,
    new: Candidate,
    arguments: argparse.Namespace,
) -> MemberSettings:
    """The member as this configuration, in which the group stands, will have it. Raises Mistake."""
    info = new.connection.token_info
    assert info is not None
    known: MemberSettings | None = None  # as a disabled member already
    for other in configuration.groups:
        if other.serial == info.serial:
            raise Mistake(f'{new.name}: its serial {info.serial} is that of the group "{other.label}"')
        for each in other.members:
            if each.uri.serial == info.serial:
                if other.id != group.id or each.enabled:
                    raise Mistake(f'{new.name}: its token is the member {each.name} of "{other.label}" already')
                known = each
    taken = {each.name for each in group.members if each is not known}
    if arguments.name in taken:
        raise Mistake(f'"{group.label}" has a member "{arguments.name}" already')
    name = arguments.name or (known.name if known is not None else further.name)
    standby = arguments.standby or (known is not None and known.role is Role.STANDBY)
    return replace(
        further,
        uri=replace(further.uri, serial=info.serial, token=info.label),
        name=name if name not in taken else f"{name}-{info.serial}",
        role=Role.STANDBY if standby else Role.ACTIVE,
    )


def _offer(new: Candidate) -> Mapping[int, MechanismSnapshot]:
    """The mechanisms of its token. Raises NotServable."""
    try:
        offer = offered(new.connection, new.deadline())
    except MemberLost as loss:
        raise NotServable(f"{new.name}: {loss}") from None
    for mechanism, name in NEEDED.items():
        if mechanism not in offer:
            raise NotServable(f"{new.name}: the module has no {name}, so that no key can be cloned")
    return offer


def _narrowed(
    token: TokenSnapshot | None, new: Candidate, offer: Mapping[int, MechanismSnapshot], fewer: bool
) -> TokenSnapshot | None:
    """What the group's token offers with this member. Raises Mistake."""
    if token is None:
        return None
    before = {each.type: each for each in token.mechanisms}
    after = common_mechanisms([before, offer])
    narrower = [kind for kind in before if after.get(kind) != before[kind]]
    if narrower and not fewer:
        raise Mistake(
            f"{new.name} does not offer all that the group offers ({len(narrower)} mechanisms, such as "
            f"{narrower[0]:#x}): applications may use those (--allow-fewer-mechanisms takes it all the same)"
        )
    return replace(token, mechanisms=tuple(after.values()))


def _domain_keys(
    runtime: GroupRuntime, index: int, new: Candidate, shared: SharedPin, arguments: argparse.Namespace
) -> None:
    """See to it that the token holds the group's domain keys. Raises NotServable, Mistake."""
    group = runtime.settings
    refuse_strangers(new, group.id)
    founding.check_records(new)
    if arguments.backup is not None:
        with domain_restore.opened(arguments) as backup:
            compared = domain_restore.believed(group, backup, arguments.backup)
            domain_restore.restore(group, index, new, shared, backup, compared, arguments.allow_open_doors)
    told = domain_keys.fingerprints(new.connection, group.id, new.deadline())
    _, reference = runtime.present()[0]
    expected = group.domain or domain_keys.fingerprints(reference, group.id, runtime.deadline())
    refusal = objection(expected, told)
    if refusal is not None:
        hint = "" if arguments.backup is not None else " (--backup FILE --key PEM restores the domain keys)"
        raise NotServable(f"{new.name}: {refusal}{hint}")


def _existing(runtime: GroupRuntime, index: int, new: Candidate, existing: str) -> None:
    """Deal with what the token holds and would bring to the others. Raises NotServable."""
    if existing == "keep":
        return
    found = brought_along(runtime, index, new)
    if not found:
        return
    if existing == "refuse":
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise NotServable(
            f"{new.name} holds what the group does not, or otherwise: {found[0]}{more} (--existing keep gives it to "
            "every member, --existing remove destroys all that the token holds)"
        )
    destroyed = emptying.destroy_all(new, runtime.settings.id)
    print(f"pyha: {new.name}: {destroyed} objects were destroyed", file=sys.stderr)


@contextmanager
def _configured(
    path: str,
    group: GroupSettings,
    member: Callable[[Configuration, GroupSettings], MemberSettings],
    token: Callable[[GroupSettings], TokenSnapshot | None],
) -> Iterator[None]:
    """While the block lasts the member is configured and disabled, and running applications know it: they write down
    for it what they delete and change. At its end it is enabled; where it fails, nothing is left of it in the file, or
    what was there of it before. `member`, `token`: of the configuration as it is when it is written; what others make
    of it meanwhile stays. Raises Mistake."""
    placed: list[MemberSettings] = []
    earlier: list[MemberSettings] = []

    def known(configuration: Configuration, now: GroupSettings) -> GroupSettings:
        disabled = replace(member(configuration, now), enabled=False)
        at = [index for index, each in enumerate(now.members) if each.uri.serial == disabled.uri.serial]
        earlier[:], placed[:] = [now.members[index] for index in at], [disabled]
        return replace(now, members=with_member(now, at[0] if at else len(now.members), disabled))

    def wanted(_: Configuration, now: GroupSettings) -> GroupSettings:
        (disabled,) = placed
        at = [index for index, each in enumerate(now.members) if each.uri.serial == disabled.uri.serial]
        if not at:
            raise Mistake(f'{disabled.name} was taken out of "{group.label}" by somebody else meanwhile')
        enabled = replace(now.members[at[0]], enabled=True)
        return replace(now, members=with_member(now, at[0], enabled), token=token(now))

    def unknown(_: Configuration, now: GroupSettings) -> GroupSettings:
        if placed[0] not in now.members:
            return now  # somebody else has said what is to become of it
        return replace(now, members=with_member(now, now.members.index(placed[0]), *earlier))

    config_edit.edit(path, _of_group(group, known))
    enabled = False
    try:
        time.sleep(FOLLOWED)
        yield
        config_edit.edit(path, _of_group(group, wanted))
        enabled = True
    finally:
        if not enabled:
            config_edit.edit(path, _of_group(group, unknown))


def _of_group(
    group: GroupSettings, change: Callable[[Configuration, GroupSettings], GroupSettings]
) -> config_edit.Change:
    def changed(configuration: Configuration) -> Configuration:
        now = config_edit.group_of(configuration, group.label)
        if now.id != group.id:
            raise Mistake(f'"{group.label}" has become another group meanwhile')
        return with_group(configuration, change(configuration, now))

    return changed
