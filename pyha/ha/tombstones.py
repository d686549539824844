"""Tombstones: what a configured member missed, so that nothing that was deleted comes back and no change is lost.

Written by whoever deletes or changes an object while a configured member is not in; applied by the resync that brings
the member back. docs/records.md has the rules in full.

Pure: values to bytes and back, and which tombstones a new one takes the place of.

Source: SEMANTICS.md section 5.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import is_secret
from pyha.cryptoki.plain import dataclass, replace
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.identity import Identity
from pyha.ha.recording import data_object, fields_of, name_digest, number_from, plain_template, sealed, template_from

VERSION = 1

_LABEL = b"tombstone "


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What became of one object.

    `was`: the object as the pending members may still hold it. `now`: what it is since; None: deleted. `changes`: the
    attributes that were set, where their values are no secret. `pending`: the members (`MemberSettings.recorded_as`)
    that have not applied it. `made`: when, ns since 1970; always later than that of what it follows upon. `count`: of a
    deletion, how many such objects went; a pending member that holds more has some that this one does not speak of.
    """

    group_id: bytes
    was: Identity
    now: Identity | None
    changes: Template
    pending: frozenset[str]
    made: int
    count: int = 1

    @property
    def filed_under(self) -> Identity:
        """What the object was called last: by this name its next change finds this one."""
        return self.now if self.now is not None else self.was

    @property
    def of_making(self) -> bool:
        """Whether it says of an object only that it was made: an earlier one of the same name is another's."""
        return self.now == self.was and not self.changes

    def is_copy_of(self, other: "Tombstone") -> bool:
        """Whether both, read on two members, are the same one; which members have applied it may differ."""
        return replace(self, pending=other.pending) == other

    def applied_by(self, *members: str) -> "Tombstone":
        """The same one after these members have applied it; when none is pending any more it goes."""
        return replace(self, pending=self.pending - frozenset(members))


def tombstone_label(identity: Identity) -> bytes:
    """CKA_LABEL of the tombstones of an object that is (or was last) this one: found by one search."""
    return _LABEL + name_digest(identity)


def is_tombstone_label(label: bytes) -> bool:
    """Whether a record of this CKA_LABEL is a tombstone."""
    return label.startswith(_LABEL)


def tombstone_template(tombstone: Tombstone) -> Template:
    """The data object that holds it: as private as the object that it speaks of, because a public object may be
    deleted without login, when nothing private can be written."""
    label = tombstone_label(tombstone.filed_under)
    return data_object(label, encode(tombstone), private=tombstone.was.private)


def believable(tombstone: Tombstone, private: bool) -> bool:
    """Whether a tombstone may speak of what it speaks of. `private`: CKA_PRIVATE of the data object that it was read
    from. Anybody can write a public one, without login: about a public object, which he could delete as well."""
    return private or not tombstone.was.private


def recordable(changes: Template, object_class: int | None) -> Template:
    """What may be written down of a C_SetAttributeValue template."""
    return tuple(
        Attribute(each.type, each.value if isinstance(each.value, tuple) else bytes(each.value or b""))
        for each in changes
        if each.type != ck.CKA_VALUE and not is_secret(each.type, object_class)
    )


def united(copies: Iterable[Tombstone]) -> list[Tombstone]:
    """The tombstones that these copies from several members are: who has applied one in any of them has applied it."""
    found: dict[Tombstone, frozenset[str]] = {}
    for copy in copies:
        one = replace(copy, pending=frozenset())
        found[one] = found.get(one, copy.pending) & copy.pending
    return [replace(one, pending=pending) for one, pending in found.items()]


def behind(found: Mapping[str, Iterable[Tombstone]]) -> frozenset[str]:
    """Who has not applied a tombstone that another member holds. `found`: what each member holds, by its name as
    records call it."""
    pending: dict[Tombstone, frozenset[str]] = {}
    holders: dict[Tombstone, set[str]] = {}
    for holder, copies in found.items():
        for copy in copies:
            one = replace(copy, pending=frozenset())
            pending[one] = pending.get(one, copy.pending) & copy.pending
            holders.setdefault(one, set()).add(holder)
    return frozenset(member for one, named in pending.items() for member in named if holders[one] - {member})


# -- following upon one another -----------------------------------------------------------------------------------


def laid_upon(new: Tombstone, found: Iterable[Tombstone]) -> tuple[Tombstone, tuple[Tombstone, ...]]:
    """A new tombstone as it is to be written, and those of `found` that it takes the place of. `found`: tombstones of
    the group filed under what `new` calls `was`."""
    earlier = sorted(
        (each for each in found if each.group_id == new.group_id and each.filed_under.same(new.was)),
        key=lambda each: each.made,
    )
    if not earlier:
        return new, ()
    new = replace(new, made=max(new.made, earlier[-1].made + 1))
    if new.of_making:
        return new, ()
    if new.now is None:
        gone = tuple(each for each in earlier if _says_less(each, new))
        deleted = sum(each.count for each in gone if each.now is None)
        return replace(new, count=new.count + deleted), gone
    last = earlier[-1]
    if last.now is None or last.pending != new.pending or (last.was != last.now and new.was != new.now):
        return new, ()
    # One step of two that is no renaming: a member that has made the first one alone is found by `now`.
    return replace(new, was=last.was, changes=_over(last.changes, new.changes)), (last,)


def _says_less(earlier: Tombstone, deletion: Tombstone) -> bool:
    """Whether a deletion leaves nothing for the earlier one to do: the same object, and no member of its own."""
    renamed = earlier.now is not None and earlier.was != earlier.now
    return not renamed and earlier.pending <= deletion.pending


def _over(first: Template, second: Template) -> Template:
    said = {each.type for each in second}
    return (*(each for each in first if each.type not in said), *second)


# -- as bytes -----------------------------------------------------------------------------------------------------


def encode(tombstone: Tombstone) -> bytes:
    """The tombstone as CKA_VALUE."""
    return sealed(
        {
            "pyha": VERSION,
            "group": tombstone.group_id.hex(),
            "was": _plain(tombstone.was),
            "now": None if tombstone.now is None else _plain(tombstone.now),
            "changes": plain_template(tombstone.changes),
            "pending": sorted(tombstone.pending),
            "made": tombstone.made,
            "count": tombstone.count,
        }
    )


def decode(data: bytes) -> Tombstone:
    """The tombstone in a CKA_VALUE. Raises RecordDamaged."""
    with fields_of(data, VERSION) as fields:
        pending = fields["pending"]
        if not isinstance(pending, list) or not all(isinstance(each, str) for each in pending):
            raise TypeError("no list of members")
        return Tombstone(
            bytes.fromhex(fields["group"]),
            _identity(fields["was"]),
            None if fields["now"] is None else _identity(fields["now"]),
            template_from(fields["changes"]),
            frozenset(pending),
            number_from(fields["made"]),
            number_from(fields["count"]),
        )


def _plain(identity: Identity) -> dict[str, Any]:
    return {
        "attributes": [[kind, value.hex()] for kind, value in identity.attributes],
        "value": identity.value_hash.hex() if identity.value_hash is not None else None,
        "twin": identity.twin.hex() if identity.twin is not None else None,
    }


def _identity(fields: dict[str, Any]) -> Identity:
    value, twin = fields["value"], fields["twin"]
    return Identity(
        tuple((number_from(kind), bytes.fromhex(text)) for kind, text in fields["attributes"]),
        None if value is None else bytes.fromhex(value),
        None if twin is None else bytes.fromhex(twin),
    )
