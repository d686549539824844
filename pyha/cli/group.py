"""`pyha group create | list | show | sync | remove | standby ...`: their arguments.

What the commands do is in modules of their own, which need the built shim and are imported when they run.
"""

import argparse
from importlib import import_module

from pyha.cli.errors import Mistake
from pyha.ha.settings import Isolation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`create`, `list`, `show` and `sync`, and what changes one member."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    about = "make a group of tokens: one virtual token over all of them"
    create = actions.add_parser("create", help=about, description=about)
    create.add_argument("label", help="label of the virtual token")
    create.add_argument("uri", nargs="+", help="PKCS #11 URI of an active member, with module-path")
    create.add_argument("--standby", metavar="URI", action="append", default=[], help="a standby member")
    create.add_argument(
        "--pin-source",
        metavar="SOURCE",
        default="prompt",
        help="the members' user PIN: file:/path, env:NAME or prompt (the default)",
    )
    create.add_argument(
        "--environment",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set for the members' helpers, whatever the application's environment",
    )
    create.add_argument(
        "--reserved",
        metavar="MODULE=STRING",
        action="append",
        default=[],
        help="what the module at this path wants as C_Initialize's pReserved",
    )
    create.add_argument("--isolation", choices=[each.value for each in Isolation], default=Isolation.PROCESS.value)
    create.add_argument("--backup-to", metavar="PEM", help="seal a backup of the domain keys to this RSA public key")
    create.add_argument("--backup", metavar="FILE", help="where the backup goes (default: LABEL.pyha-backup)")
    create.add_argument("--config", metavar="FILE", help="the configuration to write (default: the module's)")
    create.add_argument("--allow-open-doors", action="store_true", help="warn where a domain key could be misused")
    create.set_defaults(run=_run_create)
    about = "the configured groups"
    listing = actions.add_parser("list", help=about, description=about)
    _common(listing)
    listing.set_defaults(run=_run_list)
    about = "a group's members, their state, and the check values of the domain keys"
    show = actions.add_parser("show", help=about, description=about)
    show.add_argument("label", help="label of the group")
    show.add_argument(
        "--pin-source", metavar="SOURCE", help="log in and compare domain keys: file:/path, env:NAME or prompt"
    )
    _common(show)
    show.set_defaults(run=_run_show)
    _add_add(actions)
    _add_sync(actions)
    for name, alias, about in _MEMBER_ACTIONS:
        action = actions.add_parser(name, aliases=alias, help=about, description=about)
        action.add_argument("label", help="label of the group")
        optional = name == "recover"
        action.add_argument("member", nargs="?" if optional else None, help="name or serial" + _ALL * optional)
        _file(action)
        action.set_defaults(run=_run_on_member, action=name)


def _add_add(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = "take one more token into a group, or another one for a member that was replaced"
    add = actions.add_parser("add", aliases=["addmember"], help=about, description=about)
    add.add_argument("label", help="label of the group")
    add.add_argument("uri", help="PKCS #11 URI of the token, with module-path")
    add.add_argument("--standby", action="store_true", help="as a standby member")
    add.add_argument(
        "--disabled",
        action="store_true",
        help="only write it into the configuration, as a disabled member: on each host, before one of them fills it",
    )
    add.add_argument("--name", help="what commands and logs call it (default: the token's label)")
    add.add_argument(
        "--existing",
        choices=("refuse", "keep", "remove"),
        default="refuse",
        help="objects of the token that the group does not hold: refuse the token (the default), give them to every "
        "member, or destroy all that the token holds",
    )
    add.add_argument("--backup", metavar="FILE", help="put the domain keys of this sealed backup on the token")
    add.add_argument("--key", metavar="PEM", help="the RSA private key that the backup is sealed to")
    add.add_argument(
        "--key-passphrase-source", metavar="SOURCE", help="of the private key: file:/path, env:NAME or prompt"
    )
    add.add_argument(
        "--pin-source",
        metavar="SOURCE",
        default="prompt",
        help="the members' user PIN: file:/path, env:NAME or prompt (the default)",
    )
    add.add_argument("--environment", metavar="NAME=VALUE", action="append", default=[], help="set for its helper")
    add.add_argument(
        "--reserved",
        metavar="MODULE=STRING",
        action="append",
        default=[],
        help="what the module at this path wants as C_Initialize's pReserved",
    )
    add.add_argument("--allow-open-doors", action="store_true", help="warn where a domain key could be misused")
    add.add_argument(
        "--allow-fewer-mechanisms", action="store_true", help="though the group will offer fewer because of it"
    )
    _file(add)
    add.set_defaults(run=_run_add)


def _add_sync(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = "make all members hold the same objects, or say what differs"
    sync = actions.add_parser("sync", aliases=["synchronize"], help=about, description=about)
    sync.add_argument("label", help="label of the group")
    sync.add_argument("--dry-run", action="store_true", help="only say what would be done; exit status 1 if anything")
    sync.add_argument("--member", metavar="NAME", help="change this member only (name or serial)")
    sync.add_argument(
        "--pin-source",
        metavar="SOURCE",
        default="prompt",
        help="the members' user PIN: file:/path, env:NAME or prompt (the default)",
    )
    _common(sync)
    sync.set_defaults(run=_run_sync)


_ALL = "; without it, every member that is out"
_MEMBER_ACTIONS: tuple[tuple[str, list[str], str], ...] = (
    ("remove", ["removemember"], "take a member out of a group for good; the group's serial stays"),
    ("standby", ["addstandby"], "let a member serve only while no active one is left"),
    ("unstandby", ["removestandby"], "make a standby member an active one"),
    ("disable", [], "take a member out until it is enabled"),
    ("enable", [], "take a disabled member in again"),
    ("recover", [], "let every running application try members that are out now, in every recovery mode"),
)
"""Name, what an administrator of Luna calls it, what it does."""


def _common(parser: argparse.ArgumentParser) -> None:
    _file(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="the configuration (default: the module's)")


def _run_create(arguments: argparse.Namespace) -> int:
    return _run("group_create", "run", arguments)


def _run_list(arguments: argparse.Namespace) -> int:
    return _run("group_show", "run_list", arguments)


def _run_show(arguments: argparse.Namespace) -> int:
    return _run("group_show", "run_show", arguments)


def _run_add(arguments: argparse.Namespace) -> int:
    return _run("group_add", "run", arguments)


def _run_sync(arguments: argparse.Namespace) -> int:
    return _run("group_sync", "run", arguments)


def _run_on_member(arguments: argparse.Namespace) -> int:
    return _run("group_members", f"run_{arguments.action}", arguments)


def _run(module: str, function: str, arguments: argparse.Namespace) -> int:
    try:
        command = import_module(f"pyha.cli.{module}")
    except FileNotFoundError as error:  # the shim is not built
        raise Mistake(str(error)) from None
    return int(getattr(command, function)(arguments))
