"""Secret keys of one name, told by a mark of their value: where members hold more and fewer of them, or only some of
them tell their check value.

Pure. A mark is what a member's module makes of the key's whole value and a challenge, in one of several ways: equal
ones, made in one way, are of equal values. Marks are compared within one plan, and kept nowhere.

Source: SEMANTICS.md section 5 (duplicates are merged the same way everywhere).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from pyha.cryptoki import constants as ck
from pyha.cryptoki.plain import replace
from pyha.ha.inventory import Held, Inventory, Name, Side, name_of

Marks = tuple[bytes, ...]
"""Those of one key, by way; empty where the module does not go it."""


def look_alikes(sides: Sequence[Side]) -> frozenset[Name]:
    """The names of secret keys that a member holds several of, and another one more or fewer; or where some tell their
    check value, and others do not."""
    secrets = [_secrets(side.inventory) for side in sides]
    counts = [Counter(name_of(held.identity) for held in each) for each in secrets]
    several = {name for each in counts for name, count in each.items() if count > 1}
    if not several:
        return frozenset()
    telling: dict[Name, set[bool]] = {}
    for held in (held for each in secrets for held in each):
        name = name_of(held.identity)
        if name in several:
            telling.setdefault(name, set()).add(bool(held.identity.get(ck.CKA_CHECK_VALUE)))
    return frozenset(name for name in several if len(telling[name]) > 1 or len({each[name] for each in counts}) > 1)


def of_names(side: Side, names: frozenset[Name]) -> list[int]:
    """The handles of a member's secret keys that are called so."""
    return [held.real for held in _secrets(side.inventory) if name_of(held.identity) in names]


def marked(sides: Sequence[Side], names: frozenset[Name], marks: Sequence[Mapping[int, Marks]]) -> list[Side]:
    """The members with the marks of these keys: of each name in the first way that all went with it. `marks`: by
    handle, for each member."""
    ways: dict[Name, list[bool]] = {}
    for side, of in zip(sides, marks, strict=True):
        for held in _secrets(side.inventory):
            name = name_of(held.identity)
            if name in names:
                gone = [bool(each) for each in of.get(held.real, ())]
                ways[name] = [a and b for a, b in zip(ways.get(name, gone), gone, strict=False)]
    chosen = {name: went.index(True) for name, went in ways.items() if True in went}

    def with_mark(held: Held, of: Mapping[int, Marks]) -> Held:
        way = chosen.get(name_of(held.identity)) if held.real in of else None
        return held if way is None else replace(held, mark=of[held.real][way])

    return [
        replace(
            side,
            inventory=replace(side.inventory, objects=tuple(with_mark(held, of) for held in side.inventory.objects)),
        )
        for side, of in zip(sides, marks, strict=True)
    ]


def _secrets(inventory: Inventory) -> list[Held]:
    return [held for held in inventory.objects if held.identity.object_class == ck.CKO_SECRET_KEY]
