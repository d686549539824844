"""What a configuration file may say: every key, its type, its range and what must agree with what.

Pure: reads a parsed TOML document, never a file. All errors are gathered, each under its key, so that an operator mends
a file in one go. Whether a module or a PIN file exists is not asked here: a missing one costs a member, not the whole
module.

Source: SEMANTICS.md sections 1, 4 and 5; docs/configuration.md.
"""

from collections.abc import Mapping
from typing import Any

from pyha.ha.domain import AES_KEYS, DomainKey
from pyha.ha.fingerprints import Fingerprint
from pyha.ha.settings import (
    Isolation,
    MechanismSnapshot,
    ParameterForm,
    RecoveryMode,
    RecoverySettings,
    Role,
    TokenSnapshot,
    Unreplicable,
)
from pyha.runtime import pinsource, uri
from pyha.runtime.settings import Configuration, GroupSettings, LogLevel, MemberSettings
from pyha.runtime.table import Check, Table

VENDOR_DEFINED = 0x80000000
"""CKM_VENDOR_DEFINED: the first mechanism whose parameter only the operator can know."""

_ULONG = (1 << 64) - 1
_LONGEST = 86_400.0
_WRITTEN = "`pyha group create` writes it"


def read(document: Mapping[str, Any]) -> tuple[Configuration, tuple[str, ...]]:
    """The configuration and all errors, "key: what is wrong" each. Where there are errors the configuration is what
    could be read (defaults elsewhere, members and groups at their own index), fit for further checks only."""
    errors: list[str] = []
    table = Table(document, "", errors)
    ha_only = table.flag("ha-only", True)
    status = table.text("status-directory", "", _absolute) or None
    with table.table("log") as log:
        to = log.text("to", "stderr", _log_target)
        level = log.choice("level", LogLevel, LogLevel.WARNING)
    groups = tuple(_group(entry) for entry in table.tables("group"))
    table.close()
    _distinct(groups, errors)
    configuration = Configuration(groups=groups, ha_only=ha_only, log=to, log_level=level, status_directory=status)
    return configuration, tuple(errors)


def _group(table: Table) -> GroupSettings:
    defaults = GroupSettings("", b"", "", ())
    with table:
        label = table.text("label", None, _field(32))
        identity = table.text("id", None, _hexadecimal, hint=_WRITTEN)
        serial = table.text("serial", None, _serial, hint=_WRITTEN)
        deadline = table.seconds("deadline", defaults.deadline, _LONGEST)
        slow = table.seconds("slow-deadline", max(defaults.slow_deadline, deadline), _LONGEST)
        if slow < deadline:
            table.complain("slow-deadline", f"is shorter than the deadline of ordinary calls, {deadline:g} s")
        members = tuple(_member(entry) for entry in table.tables("member"))
        group = GroupSettings(
            label=label,
            id=bytes.fromhex(identity) if _hexadecimal(identity) is None else b"",
            serial=serial,
            members=members,
            isolation=table.choice("isolation", Isolation, defaults.isolation),
            deadline=deadline,
            slow_deadline=slow,
            max_in_flight=table.whole("max-in-flight", defaults.max_in_flight, 1, 4096),
            journal_limit=table.whole("journal-limit", defaults.journal_limit, 0, 1 << 40),
            unreplicable=table.choice("unreplicable", Unreplicable, defaults.unreplicable),
            recovery=_recovery(table.table("recovery")),
            mechanisms=_declared(table.table("mechanisms")),
            token=_token(table.table("token")) if table.has("token") else None,
            domain=_domain(table.table("domain")) if table.has("domain") else {},
        )
        _members_agree(table, group)
    return group


def _member(table: Table) -> MemberSettings:
    with table:
        address = _uri(table)
        with table.table("environment") as environment:
            values = {name: environment.text(name, "", _no_zero) for name in environment.names()}
            for name in values:
                if not name or "=" in name or "\0" in name:
                    environment.complain(name, "is no name of an environment variable")
        return MemberSettings(
            uri=address,
            name=table.text("name", default_name(address), _field(64)),
            role=table.choice("role", Role, Role.ACTIVE),
            enabled=table.flag("enabled", True),
            recover=table.whole("recover", 0, 0, 1 << 62),
            reserved=table.text("reserved", "", _no_zero) if table.has("reserved") else None,
            environment=values,
        )


def default_name(address: uri.TokenUri) -> str:
    """What a member is called that the file gives no name."""
    return address.token or address.serial or ("" if address.slot_id is None else f"slot {address.slot_id}")


def _uri(table: Table) -> uri.TokenUri:
    text = table.text("uri", None)
    if not text:
        return uri.TokenUri()
    try:
        address = uri.parse(text)
    except uri.UriError as error:
        table.complain("uri", str(error))
        return uri.TokenUri()
    for complaint in uri_complaints(address):
        table.complain("uri", complaint)
    return address


_MEMBER_ATTRIBUTES = {
    "token", "manufacturer", "model", "serial", "slot-id", "module-path", "module-name", "pin-source", "pin-value",
}  # fmt: skip


def uri_complaints(address: uri.TokenUri) -> list[str]:
    """What is wrong with the URI of a member, a sentence each that does not name it."""
    found = [
        f"the attribute {name} has no place here: token, serial, manufacturer, model and slot-id name a token"
        for name in address.stated()
        if name not in _MEMBER_ATTRIBUTES
    ]
    if address.token is None and address.serial is None and address.slot_id is None:
        found.append("it names no token: token, serial or slot-id is needed")
    if address.module_name is not None:
        found.append("the attribute module-name is not used here: give the library's absolute path as module-path")
    elif address.module_path is None:
        found.append("the attribute module-path is missing: the absolute path of the token's PKCS #11 library")
    if address.module_path is not None and not address.module_path.startswith("/"):
        found.append("the attribute module-path is not an absolute path")
    if address.pin_value is not None:
        found.append("the attribute pin-value is refused, because this file is not secret: use pin-source")
    if address.pin_source is not None and (complaint := pinsource.complaint(address.pin_source)):
        found.append(f"the attribute pin-source {complaint}")
    return found


def _recovery(table: Table) -> RecoverySettings:
    defaults = RecoverySettings()
    with table:
        return RecoverySettings(
            mode=table.choice("mode", RecoveryMode, defaults.mode),
            interval=table.seconds("interval", defaults.interval, _LONGEST),
            attempts=table.whole("attempts", defaults.attempts, -1, 1 << 31),
        )


def _declared(table: Table) -> dict[int, ParameterForm]:
    """Vendor mechanisms only: what the specification names is known to the mechanism table, or left out there with a
    reason."""
    declared: dict[int, ParameterForm] = {}
    with table:
        for name in table.names():
            form = table.choice(name, ParameterForm, ParameterForm.NONE)
            digits = name.removeprefix("0x")
            if digits == name or not digits.isalnum() or digits.strip("0123456789abcdefABCDEF"):
                table.complain(name, "is no mechanism: its number is meant, such as 0x80000001")
                continue
            number = int(digits, 16)
            if not VENDOR_DEFINED <= number <= _ULONG:
                table.complain(name, f"is not a vendor's mechanism, {VENDOR_DEFINED:#x} or more")
            elif number in declared:
                table.complain(name, f"{number:#x} is there twice")
            declared[number] = form
    return declared


def _token(table: Table) -> TokenSnapshot:
    with table:
        rows = table.rows("mechanisms", 4, _ULONG)
        seen: set[int] = set()
        for at, row in enumerate(rows):
            if row[0] in seen:
                table.complain(f"mechanisms[{at}]", f"the mechanism {row[0]:#x} is there twice")
            seen.add(row[0])
        return TokenSnapshot(
            manufacturer=table.text("manufacturer", "", _field(32, empty=True)),
            model=table.text("model", "", _field(16, empty=True)),
            flags=table.whole("flags", 0, 0, _ULONG),
            pin_minimum=table.whole("pin-minimum", 0, 0, _ULONG),
            pin_maximum=table.whole("pin-maximum", 255, 0, _ULONG),
            hardware_version=_version(table.text("hardware-version", "0.0", _version_complaint)),
            firmware_version=_version(table.text("firmware-version", "0.0", _version_complaint)),
            mechanisms=tuple(MechanismSnapshot(*row) for row in rows),
        )


def _domain(table: Table) -> dict[DomainKey, Fingerprint]:
    found = {}
    with table:
        for key in DomainKey:
            if key in AES_KEYS:
                check, proof = (
                    table.text(key, None, _digits(6), hint=_WRITTEN),
                    table.text(f"{key}-proof", "", _digits(32)),
                )
            elif table.has(key):
                check, proof = table.text(key, None, _digits(32)), ""
            else:
                continue
            found[key] = Fingerprint(bytes.fromhex(check), bytes.fromhex(proof))
    return found


def _members_agree(table: Table, group: GroupSettings) -> None:
    if not group.members:
        table.complain("member", "is missing: one [[group.member]] for each token")
    elif not any(member.role is Role.ACTIVE for member in group.members):
        table.complain("member", "no member has the role active")
    for at, member in enumerate(group.members):
        if member.uri.serial is not None and member.uri.serial == group.serial:
            table.complain("serial", f"is the serial of member[{at}], the group needs its own: {_WRITTEN}")
        for before, other in enumerate(group.members[:at]):
            if one_token(member, other):
                table.complain(f"member[{at}].uri", f"may name the token of member[{before}]: state the serial of each")
            elif member.name and member.name == other.name:
                table.complain(f"member[{at}].name", f"member[{before}] has the same: give each a name of its own")


def one_token(one: MemberSettings, other: MemberSettings) -> bool:
    """Do two members name one token, or do their URIs at least not keep two tokens apart?"""
    a, b = one.uri, other.uri
    same_library = a.module_path == b.module_path and one.environment == other.environment
    names = ["token", "manufacturer", "model", "serial", *(["slot_id"] if same_library else [])]
    both = [name for name in names if getattr(a, name) is not None and getattr(b, name) is not None]
    if any(getattr(a, name) != getattr(b, name) for name in both):
        return False
    # One serial is one token however it is reached; without both serials another library is another place to look.
    return "serial" in both or (same_library and a != uri.TokenUri())


def _distinct(groups: tuple[GroupSettings, ...], errors: list[str]) -> None:
    for at, group in enumerate(groups):
        for before, other in enumerate(groups[:at]):
            for key in ("label", "id", "serial"):
                if getattr(group, key) and getattr(group, key) == getattr(other, key):
                    errors.append(f"group[{at}].{key}: group[{before}] has the same")


def _field(limit: int, *, empty: bool = False) -> Any:
    """A check for text that goes into a blank-padded field of `limit` bytes."""

    def check(text: str) -> str | None:
        if not text and not empty:
            return "is empty"
        if not text.isprintable():
            return "has a character that cannot be printed"
        if text != text.strip():
            return "begins or ends with a blank, which PKCS #11 takes for padding"
        if len(text.encode()) > limit:
            return f"is longer than {limit} bytes of UTF-8"
        return None

    return check


def _serial(text: str) -> str | None:
    return _field(16)(text) or (None if text.isascii() else "is not ASCII")


def _digits(count: int) -> Check:
    """A check for so many hexadecimal digits."""

    def check(text: str) -> str | None:
        good = len(text) == count and not text.strip("0123456789abcdefABCDEF")
        return None if good else f"is not {count} hexadecimal digits"

    return check


_hexadecimal = _digits(32)


def _no_zero(text: str) -> str | None:
    return "has a zero byte" if "\0" in text else None


def _log_target(text: str) -> str | None:
    if text in ("stderr", "syslog", "none") or (text.startswith("file:/") and "\0" not in text):
        return None
    return "is none of stderr, syslog, none, file:/absolute/path"


def _absolute(text: str) -> str | None:
    return None if text.startswith("/") and "\0" not in text else "is not an absolute path"


def _version_complaint(text: str) -> str | None:
    parts = text.split(".")
    good = all(part.isascii() and part.isdigit() and len(part) < 4 and int(part) < 256 for part in parts)
    return None if good and len(parts) == 2 else "is no version such as 2.40"


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)
