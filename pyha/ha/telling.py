"""Plans in words, one line a step.

Pure texts. A label may be any bytes: what is not printable is shown by its code, so that a name cannot forge a line.

Source: SEMANTICS.md section 5 (a plan can be printed as a dry run).
"""

from collections.abc import Iterable, Sequence

from pyha.cryptoki import constants as ck
from pyha.cryptoki.names import name_of
from pyha.cryptoki.values import Template
from pyha.ha.identity import Identity
from pyha.ha.steps import Change, Conflict, Copy, Delete, Step, Write
from pyha.ha.tombstones import Tombstone

_CLASSES = {
    ck.CKO_DATA: "data object",
    ck.CKO_CERTIFICATE: "certificate",
    ck.CKO_PUBLIC_KEY: "public key",
    ck.CKO_PRIVATE_KEY: "private key",
    ck.CKO_SECRET_KEY: "secret key",
    ck.CKO_DOMAIN_PARAMETERS: "domain parameters",
}


def told(identity: Identity) -> str:
    """An object in a few words for people."""
    kind = _CLASSES.get(identity.object_class or 0, "object")
    if identity.object_class is None:
        kind = "object"
    key_id = identity.get(ck.CKA_ID)
    shown = f" id {key_id.hex()}" if key_id else ""
    return f'{kind} "{_text(identity.get(ck.CKA_LABEL) or b"")}"{shown}'


def _text(label: bytes) -> str:
    plain = label.decode(errors="backslashreplace")
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in plain)


def attribute_names(template: Template) -> str:
    """The names of what a template sets."""
    return type_names(each.type for each in template)


def type_names(types: Iterable[int]) -> str:
    """The names of attributes, by their CKA_ values."""
    return ", ".join(name_of("CKA_", each) for each in types)


def action(step: Step) -> str:
    """The kind of step in one word."""
    return type(step).__name__.lower()


def line(step: Step, names: tuple[str, ...]) -> str:
    """One line for people. `names`: of the members."""
    here = names[step.member]
    if isinstance(step, Delete):
        why = "deleted meanwhile" if step.superseded else "one of several equal ones"
        return f"delete {told(step.identity)} on {here} ({why})"
    if isinstance(step, Change):
        set_to = ", ".join(name_of("CKA_", each) for each in (*(each.type for each in step.changes), *step.fetched))
        why = "changed meanwhile" if step.superseded else "drift"
        return f"change {told(step.identity)} on {here}: {set_to} ({why})"
    if isinstance(step, Copy):
        how = " from its escrow record" if step.record is not None else f" from {names[step.source]}"
        return f"copy {told(step.identity)} to {here}{how}"
    kind = "tombstone" if isinstance(step.record, Tombstone) else "escrow record"
    of = f" of {told(step.record.was)}" if isinstance(step.record, Tombstone) else f" {step.label.decode()}"
    if isinstance(step, Write):
        return f"write {kind}{of} on {here}"
    return f"clear {kind}{of} on {here}{' (no key has it)' if step.orphan else ''}"


def conflict_line(conflict: Conflict, names: tuple[str, ...]) -> str:
    """One line for people."""
    return f"conflict {told(conflict.identity)} on {names[conflict.member]}: {conflict.reason}"


_MOST = 3
"""Conflicts that a log gets at once: a token that was in use before may have thousands."""


def conflicts_for_log(conflicts: Sequence[Conflict], names: tuple[str, ...]) -> list[str]:
    """Lines for a log: the first of them, and how many there are besides."""
    lines = [conflict_line(each, names) for each in conflicts[:_MOST]]
    if len(conflicts) > _MOST:
        lines.append(f"and {len(conflicts) - _MOST} more (pyha group sync --dry-run names all)")
    return lines
