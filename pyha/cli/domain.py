"""`pyha domain restore | show | verify`: their arguments.

What the commands do is in modules of their own, which need the built shim and are imported when they run.
"""

import argparse
from importlib import import_module

from pyha.cli.errors import Mistake


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`restore`, `show` and `verify`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    about = "put the domain keys of a backup onto a member that lacks them"
    restore = actions.add_parser("restore", help=about, description=about)
    restore.add_argument("label", help="label of the group")
    restore.add_argument("target", metavar="MEMBER|URI", help="a member's name, or a token's PKCS #11 URI")
    restore.add_argument("--backup", metavar="FILE", required=True, help="what `pyha group create --backup-to` wrote")
    restore.add_argument("--key", metavar="PEM", required=True, help="the RSA private key that the backup is sealed to")
    restore.add_argument(
        "--key-passphrase-source", metavar="SOURCE", help="of the private key: file:/path, env:NAME or prompt"
    )
    restore.add_argument(
        "--environment",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set for the helper of a token that is named by its URI",
    )
    restore.add_argument(
        "--reserved",
        metavar="MODULE=STRING",
        action="append",
        default=[],
        help="what the module at this path wants as C_Initialize's pReserved",
    )
    restore.add_argument("--allow-open-doors", action="store_true", help="warn where a domain key could be misused")
    _common(restore)
    restore.set_defaults(run=_run_restore)
    about = "the domain keys' fingerprints on each member, and whether they agree"
    show = actions.add_parser("show", help=about, description=about)
    show.add_argument("label", help="label of the group")
    show.add_argument("--json", action="store_true", help="for programs")
    _common(show)
    show.set_defaults(run=_run_show)
    about = "try every way in which the domain keys could be misused, on each member"
    verify = actions.add_parser("verify", help=about, description=about)
    verify.add_argument("label", help="label of the group")
    verify.add_argument("--json", action="store_true", help="for programs")
    _common(verify)
    verify.set_defaults(run=_run_verify)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pin-source",
        metavar="SOURCE",
        default="prompt",
        help="the members' user PIN: file:/path, env:NAME or prompt (the default)",
    )
    parser.add_argument("--config", metavar="FILE", help="the configuration (default: the module's)")


def _run_restore(arguments: argparse.Namespace) -> int:
    return _run("domain_restore", "run", arguments)


def _run_show(arguments: argparse.Namespace) -> int:
    return _run("domain_show", "run", arguments)


def _run_verify(arguments: argparse.Namespace) -> int:
    return _run("domain_verify", "run", arguments)


def _run(module: str, function: str, arguments: argparse.Namespace) -> int:
    try:
        command = import_module(f"pyha.cli.{module}")
    except FileNotFoundError as error:  # the shim is not built
        raise Mistake(str(error)) from None
    return int(getattr(command, function)(arguments))
