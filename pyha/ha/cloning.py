"""Keys on their way from member to member: what is carried of one, and what a strategy of cloning can be known to do.

Pure. A strategy is one way to clone keys: C_WrapKey and C_UnwrapKey under the domain keys is the one that is here, a
vendor's own (Luna's CA_CloneObject) can be another. Of each this file knows what plans have to know; what it does on
members is `pyha.runtime.strategy`'s.

Source: SEMANTICS.md section 5 (cloning).
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from pyha.cryptoki import constants as ck
from pyha.cryptoki.keys import wrapping_for
from pyha.cryptoki.plain import dataclass
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.arrays import is_dated
from pyha.ha.domain import DomainKey
from pyha.ha.identity import Identity, flag, number
from pyha.ha.records import WRAPPING, EscrowRecord, fingerprint_of
from pyha.ha.replication import value_of

NOT_RECORDED = "it must not leave its token, and has no escrow record"
_NO_WRAPPING = "no wrapping gives back exactly such a key"


@dataclass(frozen=True, slots=True)
class Carried:
    """A key on its way, in the form that a strategy has given it and can make it of again on every member.

    `domain`: how much it is protected: a sealed one gives back only what cannot leave a token again. `mechanism`,
    `blob`: the form, the strategy's own. `template`: of the object to be. `shown`: attributes read from the original.
    `length`: of a secret key's value, bytes, where it is known. `strategy`: by name."""

    domain: DomainKey
    mechanism: int
    blob: bytes
    template: Template
    shown: Mapping[int, bytes]
    length: int | None
    strategy: str = WRAPPING

    @property
    def value_length(self) -> int | None:
        """Bytes of a secret key, where it is known."""
        return self.length if number(self.shown.get(ck.CKA_CLASS)) == ck.CKO_SECRET_KEY else None

    @property
    def recorded(self) -> bool:
        """Whether it has an escrow record: it must not leave, or its length or dates would be known to nobody."""
        stays = value_of(self.template, ck.CKA_EXTRACTABLE) != b"\1"
        return stays or self.mechanism == ck.CKM_RSA_PKCS_OAEP or is_dated(self.template)

    def record(self, group_id: bytes, identity: Identity) -> EscrowRecord:
        """Its escrow record, as that of the key with this identity."""
        return EscrowRecord(
            group_id,
            self.domain,
            self.mechanism,
            self.blob,
            self.template,
            fingerprint_of(identity),
            self.shown.get(ck.CKA_CHECK_VALUE, b""),
            self.value_length,
            self.strategy,
        )


def from_record(record: EscrowRecord, template: Template, shown: Mapping[int, bytes]) -> Carried:
    """The carried form that is in a record, for an object of this template. `shown`: what is known of the key."""
    return Carried(record.domain, record.mechanism, record.blob, template, shown, record.value_length, record.strategy)


class Reach(Protocol):
    """What a strategy can clone, as far as can be told beforehand. `name`: as records have it; lower case."""

    @property
    def name(self) -> str: ...

    def takes(self, object_class: int, key_type: int) -> bool:
        """Whether keys of this CKO_ and CKK_ can go by it."""

    def obstacle(self, settings: Mapping[int, bytes]) -> str | None:
        """Why a key with these attributes (CKA_ -> value) cannot be carried off its token any more, so that only its
        escrow record helps: one phrase. None where it can."""


class WrappingReach:
    """The domain keys wrap what is extractable, and is of a type with a wrapping that gives it back."""

    name = WRAPPING

    def takes(self, object_class: int, key_type: int) -> bool:
        """As `Reach` has it."""
        # Which wrapping keeps a secret of unknown length is found out when it is there.
        return object_class == ck.CKO_SECRET_KEY or wrapping_for(object_class, key_type) is not None

    def obstacle(self, settings: Mapping[int, bytes]) -> str | None:
        """As `Reach` has it."""
        if not flag(settings.get(ck.CKA_EXTRACTABLE)):
            return NOT_RECORDED
        if flag(settings.get(ck.CKA_WRAP_WITH_TRUSTED)):
            return "it may be wrapped by trusted keys only, and the domain keys are none"
        return None


SHIPPED: tuple[Reach, ...] = (WrappingReach(),)

_R = TypeVar("_R", bound=Reach)


def choose(strategies: Sequence[_R], object_class: int, key_type: int) -> _R | None:
    """The first of the strategies that takes such keys; None where none does."""
    return next((each for each in strategies if each.takes(object_class, key_type)), None)


def unclonable(strategies: Sequence[Reach], object_class: int, key_type: int) -> str | None:
    """Why no key of this kind can be cloned at all; None where one can."""
    return None if choose(strategies, object_class, key_type) is not None else _NO_WRAPPING


_HINDERS_PROOF = (
    ck.CKA_TOKEN,
    ck.CKA_ALWAYS_AUTHENTICATE,
    ck.CKA_ALLOWED_MECHANISMS,
    ck.CKA_START_DATE,
    ck.CKA_END_DATE,
    ck.CKA_DESTROYABLE,
    ck.CKA_COPYABLE,
    ck.CKA_MODIFIABLE,
)


def provable(template: Template, needs: int | None) -> Template:
    """The template of a session copy that can be put to a proof. `needs`: the usage flag for it, None for none."""
    return (
        Attribute(ck.CKA_TOKEN, b"\0"),
        *(
            Attribute(each.type, b"\1") if each.type == needs else each
            for each in template
            if each.type not in _HINDERS_PROOF
        ),
    )
