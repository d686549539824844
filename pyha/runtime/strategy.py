"""The interface of a strategy of cloning: how a key comes from one member to another is behind it.

One strategy is shipped, wrapping under the group's domain keys; another one (a vendor's own) is put before it in
`strategies` of the group, and takes the keys that it can take. Creations, resync, and session keys that follow their
application ask here. A strategy knows one member at a time: where copies go, their proof and their records are the
caller's.

Source: SEMANTICS.md section 5 (cloning).
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Template
from pyha.ha.cloning import Carried, Reach, choose, provable, unclonable
from pyha.ha.identity import number
from pyha.runtime.bench import Bench
from pyha.runtime.group import GroupRuntime
from pyha.runtime.outcomes import Unreplicable
from pyha.runtime.proving import Proof
from pyha.runtime.wrapping import Wrapping


class Strategy(Reach, Protocol):
    """One way to clone keys. `Reach` says which; every method raises MemberLost, SessionRefused and SearchFailed."""

    def carry(
        self, bench: Bench, original: int, shown: Mapping[int, bytes], template: Template, proof: Proof | None
    ) -> Carried:
        """The form of a key (real handle, with the attributes `shown`) in which it comes to other members, for the
        object that `template` makes. What it makes are session objects of the bench's session, which the caller
        discards where there is a `proof`; that is how a copy is proved. Raises Unreplicable."""

    def carry_of_session(self, bench: Bench, original: int, shown: Mapping[int, bytes], template: Template) -> Carried:
        """The same of a new session key, on the session that holds it, where nothing may be left beside it. Raises
        Unreplicable."""

    def make(self, bench: Bench, carried: Carried, template: Template) -> tuple[int, int]:
        """The key with the attributes of `template`, made of its carried form: (CK_RV, real handle)."""

    def is_again(self, bench: Bench, real: int, carried: Carried) -> bool | None:
        """Whether the key (real handle) gives this very form again; None where it would not even if it is the same."""


_SHIPPED: tuple[Strategy, ...] = (Wrapping(),)


def strategies_of(group: GroupRuntime) -> Sequence[Strategy]:
    """The group's strategies, in the order in which they are asked."""
    return (*group.strategies, *_SHIPPED)


def require_strategy(group: GroupRuntime, shown: Mapping[int, bytes]) -> Strategy:
    """The strategy that takes a key with these attributes. Raises Unreplicable where none does."""
    object_class, key_type = number(shown.get(ck.CKA_CLASS)) or 0, number(shown.get(ck.CKA_KEY_TYPE)) or 0
    found = choose(strategies_of(group), object_class, key_type)
    if found is None:
        raise Unreplicable(unclonable((), object_class, key_type) or "")
    return found


def strategy_of(group: GroupRuntime, carried: Carried) -> Strategy:
    """The strategy that has made this form. Raises Unreplicable where it is not here."""
    for each in strategies_of(group):
        if each.name == carried.strategy:
            return each
    raise Unreplicable(f"it was carried by a strategy that is not here: {carried.strategy}")


def carry(bench: Bench, original: int, shown: Mapping[int, bytes], template: Template, proof: Proof | None) -> Carried:
    """`Strategy.carry` by the strategy that takes such a key."""
    return require_strategy(bench.group, shown).carry(bench, original, shown, template, proof)


def make_of(bench: Bench, carried: Carried, template: Template) -> tuple[int, int]:
    """`Strategy.make` by the strategy that has made the form."""
    return strategy_of(bench.group, carried).make(bench, carried, template)


def make_provable(bench: Bench, carried: Carried, needs: int | None) -> tuple[int, int]:
    """A session copy that has the usage flag `needs`, for a proof: (CK_RV, real handle). Raises as `make_of`."""
    return make_of(bench, carried, provable(carried.template, needs))
