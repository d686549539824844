"""`pyha config check`: everything that is wrong with a configuration file, each error with its key.

Beyond what the module itself refuses (`pyha.runtime.schema`), looks at the files that the configuration names. At run
time a missing library costs one member; here, where the operator is listening, it is an error.
"""

import argparse
import os
import stat
import sys
from collections.abc import Iterator

from pyha.cli.errors import Mistake
from pyha.runtime import config, pinsource
from pyha.runtime.settings import Configuration, GroupSettings, MemberSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`check [FILE]`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    check = actions.add_parser(
        "check", help="report every error of the file", description="Report every error of the file."
    )
    check.add_argument("file", nargs="?", help="the file; without it, the one that the module would use")
    check.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Errors on stderr and 1, or one line that begins with OK. Warnings go to stderr and change nothing."""
    path = chosen(arguments.file)
    try:
        configuration, errors = config.read(path)
    except config.ConfigurationError as error:
        print(f"pyha: {error}", file=sys.stderr)
        return 1
    missing = tuple(unreachable(configuration))
    for line in (*errors, *missing):
        print(f"{path}: {line}", file=sys.stderr)
    for line in () if errors else doubtful(configuration):
        print(f"{path}: warning: {line}", file=sys.stderr)
    if errors or missing:
        return 1
    print(f"OK: {path}: {_summary(configuration)}")
    return 0


def chosen(file: str | None) -> str:
    """The absolute path of the file a command is about: the one named, or the one that the module would use."""
    if file is not None:
        return os.path.abspath(file)
    path = config.find(os.environ, secure=False)
    if path is None:
        raise Mistake(
            f"there is no configuration: neither $PYHA_CONF, nor ~/.config/pyha/pyha.toml, nor {config.SYSTEM}"
        )
    return path


def group_named(file: str | None, label: str) -> GroupSettings:
    """The group of this label in the file that `chosen` finds. Raises Mistake."""
    try:
        groups = config.load(chosen(file)).groups
    except config.ConfigurationError as error:
        raise Mistake(str(error)) from None
    for group in groups:
        if group.label == label:
            return group
    raise Mistake(f'there is no group "{label}"')


def _members(configuration: Configuration) -> Iterator[tuple[str, GroupSettings, MemberSettings]]:
    for at, group in enumerate(configuration.groups):
        for index, member in enumerate(group.members):
            yield f"group[{at}].member[{index}]", group, member


def unreachable(configuration: Configuration) -> Iterator[str]:
    """What the configuration names and is not there, "key: what is wrong" each."""
    for key, _, member in _members(configuration):
        module = member.uri.module_path
        if module is not None and os.path.isabs(module):
            try:
                if not stat.S_ISREG(os.stat(module).st_mode):
                    yield f"{key}.uri: the module {module} is not a regular file"
                elif not os.access(module, os.R_OK):
                    yield f"{key}.uri: the module {module} may not be read by this user"
            except OSError as error:
                yield f"{key}.uri: the module {module} cannot be found: {error.strerror}"
        source = member.uri.pin_source
        if source is not None and source.startswith("file:") and pinsource.complaint(source) is None:
            try:
                pin = pinsource.read(source, {})
                pin[:] = bytes(len(pin))
            except pinsource.PinUnavailable as error:
                yield f"{key}.uri: {error}"
    if configuration.log.startswith("file:"):
        directory = os.path.dirname(configuration.log.removeprefix("file:"))
        if not os.path.isdir(directory):
            yield f"log.to: there is no directory {directory}"


def doubtful(configuration: Configuration) -> Iterator[str]:
    """What is allowed and probably not meant, "key: what follows from it" each."""
    if not configuration.groups:
        yield "group: there is no group, so the module shows no virtual slot"
    for key, group, member in _members(configuration):
        if member.uri.serial is None:
            yield f"{key}.uri: without a serial a re-initialised token is not told from the old one"
        if not configuration.ha_only and member.uri.token == group.label:
            yield f"{key}.uri: with ha-only off two slots show the label {group.label!r}"
        source = member.uri.pin_source
        if source is not None and source.startswith("env:") and source.removeprefix("env:") not in os.environ:
            yield f"{key}.uri: the environment variable of pin-source {source} is not set here"


def _summary(configuration: Configuration) -> str:
    groups = [f"{group.label} ({len(group.members)} members)" for group in configuration.groups]
    return f"{len(groups)} {'group' if len(groups) == 1 else 'groups'}{': ' if groups else ''}{', '.join(groups)}"
