"""What an object is, whatever handle a member gives it: the attributes that tell it from others.

Pure. From attributes read on one member it makes the search that finds the same object on another, and decides whether
what was found there is the same. Only attributes that replication keeps alike take part.

Sources: SEMANTICS.md section 2 (binding); REPLICATION.md (identity and finding).
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Literal

from pyha.cryptoki import constants as ck
from pyha.cryptoki.plain import dataclass
from pyha.cryptoki.values import Attribute, Template

_CLASS = ck.CKA_CLASS
_SEARCHED = (
    ck.CKA_CLASS,
    ck.CKA_TOKEN,
    ck.CKA_KEY_TYPE,
    ck.CKA_CERTIFICATE_TYPE,
    ck.CKA_ID,
    ck.CKA_LABEL,
    ck.CKA_APPLICATION,
)
_PUBLIC_PART = (
    ck.CKA_MODULUS,
    ck.CKA_PUBLIC_EXPONENT,
    ck.CKA_EC_PARAMS,
    ck.CKA_EC_POINT,
    ck.CKA_PRIME,
    ck.CKA_ISSUER,
    ck.CKA_SERIAL_NUMBER,
    ck.CKA_SUBJECT,
    ck.CKA_OBJECT_ID,
)

_COMPARED = (*_SEARCHED, ck.CKA_PRIVATE, *_PUBLIC_PART)

_LASTING = frozenset({ck.CKA_CLASS, ck.CKA_KEY_TYPE, ck.CKA_MODULUS, ck.CKA_EC_POINT})
"""What every module shows, and no change alters."""

_FLAGS = (ck.CKA_TOKEN, ck.CKA_PRIVATE)

READ = (*_SEARCHED, ck.CKA_PRIVATE, *_PUBLIC_PART, ck.CKA_CHECK_VALUE)
"""Attributes to read for an identity. CKA_VALUE is read besides for the classes in `WITH_VALUE` only, where it is no
secret key."""

WITH_VALUE = frozenset({ck.CKO_PUBLIC_KEY, ck.CKO_DATA, ck.CKO_CERTIFICATE})

NATIVE: Literal["little"] = "little"
"""Byte order of CK_ULONG attributes in memory on the machines we run on."""


def ulong(value: int) -> bytes:
    """A CK_ULONG as attribute value (LP64)."""
    return value.to_bytes(8, NATIVE)


def number(value: bytes | None) -> int | None:
    """The CK_ULONG in an attribute value, None where there is none."""
    return int.from_bytes(value, NATIVE) if value is not None and len(value) == 8 else None


def flag(value: bytes | None) -> bool:
    """The CK_BBOOL in an attribute value; what is absent is false."""
    return value is not None and value not in (b"", b"\0")


@dataclass(frozen=True, slots=True)
class Identity:
    """`attributes`: (type, value) of every attribute of `READ` that the object has. `value_hash`: SHA-256 of CKA_VALUE
    for `WITH_VALUE` classes. `twin`: for an EC private key, the CKA_EC_POINT of the public key with its CKA_ID."""

    attributes: tuple[tuple[int, bytes], ...]
    value_hash: bytes | None = None
    twin: bytes | None = None

    def get(self, attribute: int) -> bytes | None:
        """The value of an attribute, None where the object has none."""
        for kind, value in self.attributes:
            if kind == attribute:
                return value
        return None

    @property
    def object_class(self) -> int | None:
        """CKA_CLASS."""
        if self.attributes:
            kind, value = self.attributes[0]  # the first of `READ`
            if kind == _CLASS and len(value) == 8:
                return int.from_bytes(value, NATIVE)
        return number(self.get(_CLASS))

    @property
    def key_type(self) -> int | None:
        """CKA_KEY_TYPE."""
        return number(self.get(ck.CKA_KEY_TYPE))

    @property
    def token(self) -> bool:
        """CKA_TOKEN."""
        return flag(self.get(ck.CKA_TOKEN))

    @property
    def private(self) -> bool:
        """CKA_PRIVATE."""
        return flag(self.get(ck.CKA_PRIVATE))

    @property
    def certain(self) -> bool:
        """Whether there is something in it that no other key or value has: two objects that agree in it are twins."""
        parts = (self.value_hash, self.twin, *map(self.get, (ck.CKA_MODULUS, ck.CKA_EC_POINT, ck.CKA_CHECK_VALUE)))
        return any(parts)

    def surely(self, other: "Identity") -> bool:
        """Whether `other`, which is the same as far as can be seen, shows a part that no other key or value has."""
        pairs = (
            (self.value_hash, other.value_hash),
            (self.twin, other.twin),
            *((self.get(kind), other.get(kind)) for kind in (ck.CKA_MODULUS, ck.CKA_EC_POINT, ck.CKA_CHECK_VALUE)),
        )
        return any(a and a == b for a, b in pairs)

    @property
    def kind(self) -> bytes:
        """The same for this object whatever C_SetAttributeValue makes of it, and different for most others."""
        return b"".join(b"%d=%s;" % (kind, value) for kind, value in self.attributes if kind in _LASTING)

    def after(self, changes: Template) -> "Identity":
        """The identity after C_SetAttributeValue with this template."""
        if not changes:
            return self
        said = {each.type: bytes(each.value or b"") for each in changes if not isinstance(each.value, tuple)}
        attributes = dict(self.attributes)
        attributes.update({kind: said[kind] for kind in READ if kind in said})
        value_hash = self.value_hash
        if ck.CKA_VALUE in said and self.object_class in WITH_VALUE:
            value_hash = sha256(said[ck.CKA_VALUE]).digest() if said[ck.CKA_VALUE] else None
        return identity_of(attributes, value_hash, self.twin)

    def search(self) -> Template:
        """The template that finds the object, and perhaps others like it, on any member."""
        return tuple(Attribute(kind, value) for kind, value in self.attributes if kind in _SEARCHED)

    def may_match(self, template: Template) -> bool:
        """Whether a search with this template may find the object, as far as is known of it."""
        mine = dict(self.attributes)
        for each in template:
            known = mine.get(each.type)
            if known is None or isinstance(each.value, tuple):
                continue
            if each.type in _FLAGS:
                if flag(known) != flag(each.value):
                    return False
            elif known != bytes(each.value or b""):
                return False
        return True

    def same(self, other: "Identity") -> bool:
        """Whether `other`, read on another member, is this object. CKA_CHECK_VALUE, the value and the twin count where
        both have them (a module may leave a copy's check value empty)."""
        if self.attributes != other.attributes:
            mine, theirs = dict(self.attributes), dict(other.attributes)
            for kind in _COMPARED:
                if mine.get(kind) != theirs.get(kind):
                    return False
            if not _agree(mine.get(ck.CKA_CHECK_VALUE), theirs.get(ck.CKA_CHECK_VALUE)):
                return False
        return _agree(self.value_hash, other.value_hash) and _agree(self.twin, other.twin)


def _agree(one: bytes | None, other: bytes | None) -> bool:
    return one == other or not (one and other)


def identity_of(
    attributes: Mapping[int, bytes], value_hash: bytes | None = None, twin: bytes | None = None
) -> Identity:
    """The identity of an object whose attributes of `READ` were read (absent ones left out)."""
    return Identity(tuple([(kind, attributes[kind]) for kind in READ if kind in attributes]), value_hash, twin)


def with_twins(
    objects: Sequence[tuple[Mapping[int, bytes], bytes | None]],
    tell: Callable[[int, set[bytes]], bytes | None] = lambda position, points: min(points) if len(points) < 2 else None,
) -> list[Identity]:
    """The identities of all objects of a token at once: (attributes of `READ`, hash of the value) each. Gives private
    EC keys their twins without a search for each. `tell`: which of several points that of the object at this position
    is, or whether the only one is, which has another label: its own may have been deleted. What it raises is raised."""
    points: dict[tuple[bytes, bytes], dict[bytes, set[bytes]]] = {}  # with the labels of each
    for attributes, _ in objects:
        if number(attributes.get(ck.CKA_CLASS)) == ck.CKO_PUBLIC_KEY and attributes.get(ck.CKA_EC_POINT):
            pair = (attributes.get(ck.CKA_ID, b""), attributes.get(ck.CKA_EC_PARAMS, b""))
            labels = points.setdefault(pair, {}).setdefault(attributes[ck.CKA_EC_POINT], set())
            labels.add(attributes.get(ck.CKA_LABEL, b""))
    found = []
    for position, (attributes, value_hash) in enumerate(objects):
        twin = None
        if number(attributes.get(ck.CKA_CLASS)) == ck.CKO_PRIVATE_KEY and attributes.get(ck.CKA_ID):
            own = points.get((attributes[ck.CKA_ID], attributes.get(ck.CKA_EC_PARAMS, b"")), {})
            label = attributes.get(ck.CKA_LABEL, b"")
            if len(own) == 1 and all(label in labels for labels in own.values()):
                twin = min(own)
            elif own:
                twin = tell(position, set(own))
        found.append(identity_of(attributes, value_hash, twin))
    return found
