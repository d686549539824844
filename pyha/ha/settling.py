"""What the attributes of one object have to be on every member, where members show different ones.

Pure. A member on which a tombstone is still to be applied follows the others. Where no tombstone says which is newer, a
protection is what the strongest member has: resync makes nothing weaker that nobody asked to be weaker. What protects
nothing is as the first member has it.

Source: SEMANTICS.md section 5 (protections never get weaker).
"""

from collections.abc import Sequence

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import PROTECTIONS
from pyha.cryptoki.keys import USAGE
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.arrays import ARRAYS, DATES, attribute_of, strongest
from pyha.ha.identity import READ, Identity, flag
from pyha.ha.inventory import COMPARED, Settings
from pyha.ha.matching import Slot
from pyha.ha.superseding import Item

_RENAMES = (
    ck.CKA_ID,
    ck.CKA_LABEL,
    ck.CKA_SUBJECT,
    ck.CKA_APPLICATION,
    ck.CKA_OBJECT_ID,
    ck.CKA_ISSUER,
    ck.CKA_SERIAL_NUMBER,
)
"""Of what an identity has: what C_SetAttributeValue may change."""

_USAGE = frozenset(usage for usages in USAGE.values() for usage in usages)
_BOTH_WAYS = _USAGE | {
    ck.CKA_CERTIFICATE_CATEGORY,
    ck.CKA_URL,
    ck.CKA_HASH_OF_SUBJECT_PUBLIC_KEY,
    ck.CKA_HASH_OF_ISSUER_PUBLIC_KEY,
    ck.CKA_PUBLIC_KEY_INFO,
    ck.CKA_ALLOWED_MECHANISMS,
    *DATES,
}
_TO_STRONGER = frozenset({ck.CKA_SENSITIVE, ck.CKA_EXTRACTABLE, ck.CKA_WRAP_WITH_TRUSTED, ck.CKA_COPYABLE})
"""What can only be made stronger by C_SetAttributeValue (section 4.1 and the tables of the object classes)."""


def settled(slot: Slot) -> Settings:
    """The attributes of `COMPARED` as every member should have them; one that no member shows is left out."""
    items = _in_order(slot)
    shown = items[0].held.settings
    if all(item.held.settings == shown and not item.yields for item in items):
        return shown  # most objects of most members
    return tuple((kind, value) for kind in COMPARED if (value := _settle(slot, kind)) is not None)


def _settle(slot: Slot, kind: int) -> bytes | None:
    shown = [(item, value) for item in _in_order(slot) if (value := _of(item, kind)) is not None]
    told = [value for item, value in shown if kind not in item.yields] or [value for _, value in shown]
    if not told:
        return None
    if kind == ck.CKA_ALLOWED_MECHANISMS:
        return _narrowest(told)
    if kind in ARRAYS:
        return strongest(told)
    if kind == ck.CKA_PUBLIC_KEY_INFO:
        # Empty is what a module shows that does not work it out by itself.
        return next((value for value in told if value), b"")
    stronger = PROTECTIONS.get(kind)
    if stronger is None:
        return told[0]
    return next((value for value in told if flag(value) == stronger), told[0])


def _in_order(slot: Slot) -> list[Item]:
    return [slot.items[member] for member in sorted(slot.items)]


def _of(item: Item, kind: int) -> bytes | None:
    return next((value for each, value in item.held.settings if each == kind), None)


def _narrowest(lists: Sequence[bytes]) -> bytes:
    """The list that allows least; an empty one allows all. Of two that each allow what the other does not, the
    first: on the other member it is a conflict, because such a list cannot be set."""
    named = [each for each in lists if each]
    if not named:
        return lists[0]
    return min(named, key=lambda each: len(_mechanisms(each)))


def _mechanisms(value: bytes) -> frozenset[bytes]:
    return frozenset(value[at : at + 8] for at in range(0, len(value), 8))


def renaming(item: Item) -> Template:
    """What has to be set so that the object's identity is what it should be."""
    if item.identity is item.held.identity:
        return ()
    return tuple(
        Attribute(kind, item.identity.get(kind) or b"")
        for kind in _RENAMES
        if (item.held.identity.get(kind) or b"") != (item.identity.get(kind) or b"")
    )


def differing(item: Item, wanted: Settings) -> Template:
    """The attributes of this object that are not as they should be, arrays packed; what is not shown is left alone."""
    if item.held.settings == wanted:
        return ()
    shown = dict(item.held.settings)
    return tuple(
        Attribute(kind, value) for kind, value in wanted if kind in shown and not _same(kind, shown[kind], value)
    )


def _same(kind: int, first: bytes, second: bytes) -> bool:
    if kind == ck.CKA_ALLOWED_MECHANISMS:
        return _mechanisms(first) == _mechanisms(second)
    return flag(first) == flag(second) if kind in PROTECTIONS else first == second


def cannot_be_set(change: Attribute) -> bool:
    """Whether no module takes this by C_SetAttributeValue."""
    if change.type in _TO_STRONGER:
        return flag(change.value) != PROTECTIONS[change.type]
    return change.type not in _BOTH_WAYS


def weakens(changes: Template) -> bool:
    """Whether an object that is *not* given these lacks a protection that it should have, or the proof that it is the
    key."""
    return any(
        each.type in (ck.CKA_ALLOWED_MECHANISMS, ck.CKA_CHECK_VALUE, *ARRAYS)
        or (each.type in PROTECTIONS and flag(each.value) == PROTECTIONS[each.type])
        for each in changes
    )


def unmendable(item: Item) -> bool:
    """Whether the identity itself would have to become another one, in a part that cannot be set."""
    before, after = item.held.identity, item.identity
    return any(before.get(kind) != after.get(kind) for kind in READ if kind not in (*_RENAMES, ck.CKA_CHECK_VALUE))


def template_of(identity: Identity, settings: Settings) -> Template:
    """Name and settings as attributes."""
    named = tuple(Attribute(kind, identity.get(kind) or b"") for kind in (ck.CKA_ID, ck.CKA_LABEL, ck.CKA_SUBJECT))
    return (*named, *(attribute_of(kind, value) for kind, value in settings))
