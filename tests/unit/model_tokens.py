"""Tokens as plain values, to carry plans out on without any module: what a step should do, and nothing else."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import count
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute
from pyha.ha.domain import DomainKey
from pyha.ha.identity import Identity, identity_of, ulong
from pyha.ha.inventory import Held, HeldRecord, HeldTombstone, Inventory, Settings, Side
from pyha.ha.records import EscrowRecord, fingerprint_of, record_label
from pyha.ha.resync import plan
from pyha.ha.steps import Change, Clear, Copy, Delete, Plan, Step, Write
from pyha.ha.tombstones import Tombstone

GROUP = bytes(16)
NAMES = ("a", "b", "c")
_handles = count(1)

STAYS: Settings = ((ck.CKA_SENSITIVE, b"\1"), (ck.CKA_EXTRACTABLE, b"\0"), (ck.CKA_SIGN, b"\1"))
LEAVES: Settings = ((ck.CKA_SENSITIVE, b"\1"), (ck.CKA_EXTRACTABLE, b"\1"), (ck.CKA_SIGN, b"\1"))


def data(label: bytes, value: bytes = b"value") -> Identity:
    """A data object."""
    attributes = {ck.CKA_CLASS: ulong(ck.CKO_DATA), ck.CKA_TOKEN: b"\1", ck.CKA_LABEL: label, ck.CKA_PRIVATE: b"\1"}
    return identity_of(attributes, sha256(value).digest())


def secret(label: bytes, check_value: bytes = b"", key_id: bytes = b"") -> Identity:
    """A secret key; without check value it cannot be told from others of its name."""
    attributes = {
        ck.CKA_CLASS: ulong(ck.CKO_SECRET_KEY),
        ck.CKA_TOKEN: b"\1",
        ck.CKA_KEY_TYPE: ulong(ck.CKK_AES),
        ck.CKA_ID: key_id,
        ck.CKA_LABEL: label,
        ck.CKA_PRIVATE: b"\1",
    }
    if check_value:
        attributes[ck.CKA_CHECK_VALUE] = check_value
    return identity_of(attributes)


def rsa(label: bytes, modulus: bytes = b"n") -> Identity:
    """A private RSA key."""
    attributes = {
        ck.CKA_CLASS: ulong(ck.CKO_PRIVATE_KEY),
        ck.CKA_TOKEN: b"\1",
        ck.CKA_KEY_TYPE: ulong(ck.CKK_RSA),
        ck.CKA_ID: b"1",
        ck.CKA_LABEL: label,
        ck.CKA_PRIVATE: b"\1",
        ck.CKA_MODULUS: modulus,
    }
    return identity_of(attributes)


def record_of(identity: Identity, settings: Settings = STAYS, blob: bytes = b"") -> EscrowRecord:
    """The escrow record of a key."""
    template = tuple(Attribute(kind, value) for kind, value in settings)
    mark = fingerprint_of(identity)
    own = blob or b"blob of " + mark
    return EscrowRecord(GROUP, DomainKey.SEALED, ck.CKM_AES_KEY_WRAP, own, template, mark)


@dataclass
class Token:
    """One member's token."""

    objects: dict[int, tuple[Identity, Settings]] = field(default_factory=dict)
    records: dict[int, tuple[bytes, EscrowRecord]] = field(default_factory=dict)
    tombstones: dict[int, Tombstone] = field(default_factory=dict)

    def add(self, identity: Identity, settings: Settings = LEAVES, record: EscrowRecord | None = None) -> int:
        """An object, with its record."""
        real = next(_handles)
        self.objects[real] = (identity, settings)
        if record is not None:
            self.records[next(_handles)] = (record_label(identity), record)
        return real

    def bury(self, tombstone: Tombstone) -> None:
        """A tombstone."""
        self.tombstones[next(_handles)] = tombstone

    def inventory(self) -> Inventory:
        """As it would be read."""
        return Inventory(
            tuple(Held(real, *each) for real, each in self.objects.items()),
            tuple(HeldRecord(real, *each) for real, each in self.records.items()),
            tuple(HeldTombstone(real, each) for real, each in self.tombstones.items()),
        )

    def content(self) -> tuple[Any, ...]:
        """All that is on it, without handles; a check value that one member does not tell does not count."""
        objects = Counter((_told(identity), settings) for identity, settings in self.objects.values())
        return objects, Counter(self.records.values()), Counter(self.tombstones.values())


def _told(identity: Identity) -> Identity:
    kept = tuple(each for each in identity.attributes if each[0] != ck.CKA_CHECK_VALUE)
    return replace(identity, attributes=kept)


def planned(tokens: list[Token], whole: bool = True, only: int | None = None, names: Sequence[str] = NAMES) -> Plan:
    """The plan for these tokens. `whole`: they are all that are configured."""
    sides = [Side(name, name, token.inventory()) for name, token in zip(names, tokens, strict=False)]
    configured = set(names[: len(tokens)]) | (set() if whole else {*NAMES, "elsewhere"})
    return plan(sides, frozenset(configured), only)


def carry_out(tokens: list[Token], step: Step) -> None:
    """One step."""
    token = tokens[step.member]
    if isinstance(step, Delete):
        assert token.objects.pop(step.real)[0] == step.identity
    elif isinstance(step, Change):
        identity, settings = token.objects[step.real]
        assert identity == step.identity
        if step.fetched:
            assert step.origin is not None
            origin, real = step.origin
            assert tokens[origin].objects[real][0].value_hash == step.after.value_hash
        said = {each.type: each.value for each in step.changes}
        token.objects[step.real] = (step.after, tuple((kind, said.get(kind, value)) for kind, value in settings))
    elif isinstance(step, Copy):
        source, _ = tokens[step.source].objects[step.real]
        assert _told(source) == _told(step.identity)
        shown = dict(tokens[step.source].objects[step.real][1])
        assert (
            step.record is not None or step.identity.object_class == ck.CKO_DATA or shown[ck.CKA_EXTRACTABLE] == b"\1"
        )
        token.add(step.identity, step.settings)
    elif isinstance(step, Write):
        if isinstance(step.record, Tombstone):
            token.bury(step.record)
        else:
            token.records[next(_handles)] = (step.label, step.record)
    else:
        assert isinstance(step, Clear)
        held = token.tombstones if isinstance(step.record, Tombstone) else token.records
        del held[step.real]


def resync(tokens: list[Token], whole: bool = True) -> Plan:
    """Carry out what there is to do; the plan that was made."""
    made = planned(tokens, whole)
    for step in made.steps:
        carry_out(tokens, step)
    return made
