"""Writing the configuration file: the text for a Configuration, and putting it in place in one step.

The reverse of `pyha.runtime.schema`: `schema.read(tomllib.loads(render(c))) == (c, ())`. Keeps the content of a file,
not its comments or layout. Values that are the default are left out.
"""

import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from pyha.cli.errors import Mistake
from pyha.runtime import trusted, uri
from pyha.runtime.schema import default_name
from pyha.runtime.settings import Configuration, GroupSettings, MemberSettings
from pyha.runtime.table import is_bare


def render(configuration: Configuration) -> str:
    """The TOML text. It holds what the configuration holds: a `pin_value`, which loading would refuse, is refused here
    too (ValueError)."""
    defaults = Configuration()
    lines = [_pair("ha-only", configuration.ha_only)]
    if configuration.status_directory is not None:
        lines.append(_pair("status_directory", configuration.status_directory))
    log = [_pair("to", configuration.log)] if configuration.log != defaults.log else []
    if configuration.log_level != defaults.log_level:
        log.append(_pair("level", configuration.log_level.value))
    if log:
        lines += ["", "[log]", *log]
    for group in configuration.groups:
        lines += _group(group)
    return "\n".join(lines) + "\n"


def _group(group: GroupSettings) -> Iterator[str]:
    defaults = GroupSettings("", b"", "", ())
    yield ""
    yield "[[group]]"
    yield _pair("label", group.label)
    yield _pair("id", group.id.hex())
    yield _pair("serial", group.serial)
    names = ("isolation", "deadline", "slow_deadline", "max_in_flight", "journal_limit", "unreplicable")
    yield from _changed(group, defaults, names)
    if group.recovery != defaults.recovery:
        yield "\n[group.recovery]"
        yield from _changed(group.recovery, defaults.recovery, ("mode", "interval", "attempts"))
    if group.mechanisms:
        yield "\n[group.mechanisms]"
        for mechanism, form in sorted(group.mechanisms.items()):
            yield f"{mechanism:#x} = {_value(form)}"
    for member in group.members:
        yield from _member(member)
    if group.domain:
        yield "\n[group.domain]"
        for key, fingerprint in group.domain.items():
            yield _pair(key, fingerprint.check.hex())
            if fingerprint.proof:
                yield _pair(f"{key}-proof", fingerprint.proof.hex())
    if group.token is not None:
        yield "\n[group.token]"
        for name in ("manufacturer", "model", "flags", "pin_minimum", "pin_maximum"):
            yield _pair(name, getattr(group.token, name))
        for name in ("hardware_version", "firmware_version"):
            yield _pair(name, ".".join(map(str, getattr(group.token, name))))
        yield "mechanisms = ["
        for offer in group.token.mechanisms:
            yield f"    [{offer.type:#x}, {offer.minimum}, {offer.maximum}, {offer.flags:#x}],"
        yield "]"


def _member(member: MemberSettings) -> Iterator[str]:
    if member.uri.pin_value is not None:
        raise ValueError("a PIN is not written into a configuration")
    yield "\n[[group.member]]"
    yield _pair("uri", uri.format(member.uri))
    if member.name != default_name(member.uri):
        yield _pair("name", member.name)
    yield from _changed(member, MemberSettings(member.uri, ""), ("role", "enabled", "recover", "reserved"))
    yield from _environment(member.environment)


def _environment(environment: Mapping[str, str]) -> Iterator[str]:
    if environment:
        yield "\n[group.member.environment]"
        for name, value in environment.items():
            yield f"{name if is_bare(name) else _value(name)} = {_value(value)}"


def _changed(settings: Any, defaults: Any, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        value = getattr(settings, name)
        if value != getattr(defaults, name):
            yield _pair(name, value)


def _pair(name: str, value: Any) -> str:
    return f"{name.replace('_', '-')} = {_value(value)}"


def _value(value: str | bool | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(_escaped(character) for character in value) + '"'
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return f"\\u{ord(character):04X}" if ord(character) < 32 or ord(character) == 127 else character


def prepare(path: str) -> None:
    """Makes the directory of `path` if it is not there, and finds out whether a configuration could be put there that
    would be believed. Raises Mistake. To be asked before anything is done that a failed `write` would leave
    half-made."""
    if not os.path.isabs(path):
        raise Mistake(f"{path} is not an absolute path")
    directory = os.path.dirname(path)
    try:
        if not os.path.isdir(directory):
            os.makedirs(directory)
            os.chmod(directory, 0o755)  # whatever the umask: one that others may write to is not believed
        holder, name = trusted.holding(path)
        try:
            if not os.access(directory, os.W_OK | os.X_OK):
                raise Mistake(f"{path} cannot be written: the directory {directory} is not yours to write to")
            _present(holder, name, path)
        finally:
            os.close(holder)
    except trusted.FileRefused as error:
        raise Mistake(f"{path} {error}") from None
    except OSError as error:
        raise Mistake(f"{path} cannot be written: {error.strerror}") from None


def write(path: str, text: str, mode: int = 0o644) -> None:
    """Puts `text` at the absolute `path`: the old file or the new one is there at any moment, a power cut included. A
    file that is replaced hands on its owner and mode; a new one gets `mode`, by default readable by every user, since
    the programs of other users load it and it holds no secret. Raises Mistake."""
    prepare(path)
    try:
        holder, name = trusted.holding(path)
    except trusted.FileRefused as error:
        raise Mistake(f"{path} {error}") from None
    draft = f".{name}.{secrets.token_hex(4)}"
    try:
        before = _present(holder, name, path)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=holder)
        try:
            with open(descriptor, "wb") as file:
                if before is not None and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, mode if before is None else stat.S_IMODE(before.st_mode))
                file.write(text.encode())
                file.flush()
                os.fsync(descriptor)
            os.replace(draft, name, src_dir_fd=holder, dst_dir_fd=holder)
        except OSError:
            os.unlink(draft, dir_fd=holder)
            raise
        directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=holder)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise Mistake(f"{path} cannot be written: {error.strerror}") from None
    finally:
        os.close(holder)


def _present(holder: int, name: str, path: str) -> os.stat_result | None:
    try:
        status = os.stat(name, dir_fd=holder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise Mistake(f"{path} is not a regular file")
    return status
