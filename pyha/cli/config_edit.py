"""Changing a configuration: read, change, check, write, with one command at a time and no edit lost.

Commands exclude each other by a lock beside the file; whoever edits by hand does not know that lock, so the file is
compared right before it is replaced. Knows nothing of what is changed; `config_write` has how a file is written.
"""

import fcntl
import os
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from pyha.cli import config_write
from pyha.cli.errors import Mistake, warn
from pyha.runtime import config, schema, trusted
from pyha.runtime.settings import Configuration, GroupSettings, MemberSettings

Change = Callable[[Configuration], Configuration]

_BEFORE = ".before"
"""Ends the name of the file that keeps the text of the last version with comments."""


def edit(path: str, change: Change) -> Configuration:
    """Put what `change` makes of the configuration in its place; a file that is not there yet is an empty one. Gives
    the new configuration back. Raises Mistake, also what `change` raises, and then the file is as it was."""
    config_write.prepare(path)
    with _locked(path, "lock", fcntl.LOCK_EX):
        text = _text(path)
        before = _configuration(path, text)
        after = change(before)
        if text is not None and after == before:
            return before
        written = checked(after)
        if text is not None and _commented(text):
            config_write.write(path + _BEFORE, text)
            warn(f"comments are not kept: the file as it was is {path}{_BEFORE}")
        if _text(path) != text:
            raise Mistake(f"{path} was changed by somebody else meanwhile: nothing is written, try again")
        config_write.write(path, written)
    return after


def current(path: str) -> Configuration:
    """The configuration that `edit` would change. Raises Mistake."""
    return _configuration(path, _text(path))


def checked(configuration: Configuration) -> str:
    """The text to write, once the module itself would take it. Raises Mistake."""
    text = config_write.render(configuration)
    _, errors = schema.read(tomllib.loads(text))
    if errors:
        raise Mistake("; ".join(errors))
    return text


def group_of(configuration: Configuration, label: str) -> GroupSettings:
    """Raises Mistake."""
    for group in configuration.groups:
        if group.label == label:
            return group
    raise Mistake(f'there is no group "{label}"')


def member_of(group: GroupSettings, text: str) -> int:
    """The index of the member with this name or serial. Raises Mistake."""
    found = [index for index, member in enumerate(group.members) if text in (member.name, member.uri.serial)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(member.name for member in group.members)
    if found:
        raise Mistake(f'"{text}" is the name of one member of "{group.label}" and the serial of another')
    raise Mistake(f'"{group.label}" has no member "{text}": it has {names}')


def with_group(configuration: Configuration, group: GroupSettings) -> Configuration:
    """The configuration with the group of this label replaced."""
    groups = tuple(group if each.label == group.label else each for each in configuration.groups)
    return replace(configuration, groups=groups)


def with_member(group: GroupSettings, index: int, *members: MemberSettings) -> tuple[MemberSettings, ...]:
    """The members with these in place of the one at `index`."""
    return (*group.members[:index], *members, *group.members[index + 1 :])


@contextmanager
def at_tokens(path: str) -> Iterator[None]:
    """While the block lasts no other command that writes this file makes a token a member: two that fill one token
    would take back what the other has made. Raises Mistake where one is at it."""
    with _locked(path, "tokens.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


@contextmanager
def _locked(path: str, ending: str, operation: int) -> Iterator[None]:
    directory, name = os.path.split(path)
    lock = os.path.join(directory, f".{name}.{ending}")
    try:
        # Not the file itself: whoever may read that could hold its lock for ever.
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Mistake(f"{lock} cannot be opened: {error.strerror}") from None
    try:
        if os.geteuid() == 0:
            # Root may change a user's file, and the user must be able to do so afterwards.
            owner = os.stat(directory)
            with suppress(OSError):
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        try:
            fcntl.flock(descriptor, operation)
        except BlockingIOError:
            raise Mistake(f"another command makes tokens members in {path} now: wait until it has ended") from None
        yield
    finally:
        os.close(descriptor)


def _text(path: str) -> str | None:
    """The file's text; None where there is none. Raises Mistake."""
    if not os.path.lexists(path):
        return None
    try:
        return trusted.read(path, config.LIMIT).decode()
    except trusted.FileRefused as error:
        raise Mistake(f"{path} {error}") from None
    except UnicodeDecodeError:
        raise Mistake(f"{path} is not UTF-8") from None


def _configuration(path: str, text: str | None) -> Configuration:
    if text is None:
        return Configuration()
    try:
        return config.load(path)
    except config.ConfigurationError as error:
        raise Mistake(f"{error} (mend that first; nothing is written)") from None


def _commented(text: str) -> bool:
    return any(line.lstrip().startswith("#") for line in text.splitlines())
