"""What is kept in this process of a session object, so that it can be made again on another member, and its proof.

Knows one object and one member; when an object is brought where is `carrying`'s, what is kept of a new one `keeping`'s.
Of a key it is the wrapped form, never a value.

Source: SEMANTICS.md section 5 (session objects).
"""

from collections.abc import Mapping
from typing import Protocol

from pyha.cryptoki import constants as ck
from pyha.cryptoki.plain import dataclass, replace
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.arrays import values_of
from pyha.ha.carrying import changed_key, changed_object
from pyha.ha.cloning import Carried
from pyha.ha.replication import value_of
from pyha.runtime.bench import Bench
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import create
from pyha.runtime.member import Connection
from pyha.runtime.outcomes import Unreplicable
from pyha.runtime.proving import CheckValue, Proof, prove_secret, set_check_value
from pyha.runtime.publishing import prove_copy
from pyha.runtime.strategy import make_of, strategy_of


class Kept(Protocol):
    """The kept form of a session object."""

    @property
    def copyable(self) -> bool:
        """Whether a token object can be made of it, which nobody could wrap any more."""

    @property
    def protections(self) -> Mapping[int, bytes]:
        """The attributes that the object was given, arrays packed."""

    def make(self, group: GroupRuntime, connection: Connection, holder: int, deadline: float) -> tuple[int, int]:
        """Make it on a member's real session: (CK_RV, real handle). Raises MemberLost, SessionRefused, SearchFailed,
        Refusal."""

    def holds(
        self, group: GroupRuntime, index: int, connection: Connection, holder: int, real: int, deadline: float
    ) -> bool:
        """Whether what `make` made is the object. Raises as `make` does."""

    def changed(self, changes: Template) -> "Kept | None":
        """The form after C_SetAttributeValue; None where it can have none."""

    def wipe(self) -> None:
        """The object is gone: so is its content here."""


@dataclass(frozen=True, slots=True)
class KeptObject:
    """An object that is no key, by its C_CreateObject template with values of our own (bytearray)."""

    template: Template

    @property
    def copyable(self) -> bool:
        return False

    @property
    def protections(self) -> Mapping[int, bytes]:
        return values_of(tuple(each for each in self.template if each.type != ck.CKA_VALUE))

    def make(self, group: GroupRuntime, connection: Connection, holder: int, deadline: float) -> tuple[int, int]:
        return create(connection, holder, self.template, deadline)

    def holds(
        self, group: GroupRuntime, index: int, connection: Connection, holder: int, real: int, deadline: float
    ) -> bool:
        return True

    def changed(self, changes: Template) -> "Kept | None":
        template = changed_object(self.template, changes)
        return None if template is None else KeptObject(template)

    def wipe(self) -> None:
        _wipe(self.template)


def _wipe(template: Template) -> None:
    for each in template:
        if isinstance(each.value, tuple):
            _wipe(each.value)
        elif isinstance(each.value, bytearray):
            each.value[:] = bytes(len(each.value))


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A key by its wrapped form. `proof`: how a copy is proved; None where the wrapping itself has to do: it is
    authenticated, and gives back the key or nothing under a domain key that all members have alike."""

    carried: Carried
    proof: Proof | None

    @property
    def copyable(self) -> bool:
        template = self.carried.template
        stays = value_of(template, ck.CKA_EXTRACTABLE) != b"\1"
        return stays and self.proof is not None and value_of(template, ck.CKA_COPYABLE) != b"\0"

    @property
    def protections(self) -> Mapping[int, bytes]:
        return values_of(self.carried.template)

    def make(self, group: GroupRuntime, connection: Connection, holder: int, deadline: float) -> tuple[int, int]:
        named = (each for each in self.carried.template if each.type != ck.CKA_TOKEN)
        template = (Attribute(ck.CKA_TOKEN, b"\0"), *named)
        return make_of(Bench(group, connection, holder, deadline), self.carried, template)

    def holds(
        self, group: GroupRuntime, index: int, connection: Connection, holder: int, real: int, deadline: float
    ) -> bool:
        template, proof = self.carried.template, self.proof
        if isinstance(proof, CheckValue) and value_of(template, ck.CKA_MODIFIABLE) != b"\0":
            if prove_secret(connection, holder, real, proof.check_value, deadline):
                return True
        elif proof is not None:
            return self._proved_copy(group, index, connection, proof, deadline)
        again = strategy_of(group, self.carried).is_again(
            Bench(group, connection, holder, deadline), real, self.carried
        )
        if again if again is not None else proof is None:
            self._tell_check_value(connection, holder, real, deadline)
            return True
        return False

    def _proved_copy(
        self, group: GroupRuntime, index: int, connection: Connection, proof: Proof, deadline: float
    ) -> bool:
        # On a session of its own, because the proof runs operations and leaves session objects.
        session = connection.open_session(deadline)
        try:
            return prove_copy(group, index, connection, session, self.carried, proof, deadline) == ck.CKR_OK
        except Unreplicable:
            return False
        finally:
            connection.discard(session, deadline)

    def _tell_check_value(self, connection: Connection, holder: int, real: int, deadline: float) -> None:
        """So that it reads as it did where it was made; a module that knows better leaves it empty."""
        check_value = self.carried.shown.get(ck.CKA_CHECK_VALUE)
        if check_value and value_of(self.carried.template, ck.CKA_MODIFIABLE) != b"\0":
            set_check_value(connection, holder, real, check_value, deadline)

    def changed(self, changes: Template) -> "Kept | None":
        template = changed_key(self.carried.template, changes, self.carried.domain)
        return None if template is None else replace(self, carried=replace(self.carried, template=template))

    def wipe(self) -> None:
        """Nothing is here but what a domain key has wrapped."""
