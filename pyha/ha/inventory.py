"""Whether two members hold the same objects.

Pure: from the identities of what each holds. What may differ between a key and its copies (check value, what could not
be read) does not count. How a difference is mended is decided elsewhere.

Source: SEMANTICS.md section 4 (a returned member serves only after it has been resynchronised).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pyha.cryptoki import constants as ck
from pyha.ha.identity import Identity

_Name = tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """How many objects only the returned member has (`surplus`), and how many only the others have (`missing`)."""

    missing: int
    surplus: int

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus)


def compare(reference: Iterable[Identity], returned: Iterable[Identity]) -> Difference:
    """What the token objects of a returned member lack or have too many against those of a member that serves."""
    expected = Counter(_name(identity) for identity in reference if identity.token)
    found = Counter(_name(identity) for identity in returned if identity.token)
    return Difference((expected - found).total(), (found - expected).total())


def _name(identity: Identity) -> _Name:
    told = tuple(pair for pair in identity.attributes if pair[0] != ck.CKA_CHECK_VALUE)
    return (*told, (-1, identity.value_hash or b""), (-2, identity.twin or b""))
