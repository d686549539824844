"""Cloning by C_WrapKey and C_UnwrapKey under the group's domain keys: the strategy that is shipped.

Chooses the mechanism that gives back exactly the key that went in, by type and length, and by trial where the length is
not told. Knows one member at a time; what becomes of a copy is the caller's.

Source: SEMANTICS.md section 5; REPLICATION.md (wrapping and unwrapping under an AES-256 key).
"""

from collections.abc import Mapping
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.keys import KEY_TYPES, wrapping_for
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.plain import replace
from pyha.cryptoki.values import Mechanism, Out, Template
from pyha.ha.cloning import Carried, WrappingReach, provable
from pyha.ha.domain import DomainHandles, rsa_of, wrapping_mechanism
from pyha.ha.identity import number, ulong
from pyha.ha.replication import domain_for, value_of
from pyha.runtime.admission import domain_handles
from pyha.runtime.bench import Bench
from pyha.runtime.housekeeping import make
from pyha.runtime.member import MemberLost
from pyha.runtime.outcomes import Unreplicable, is_without_reason
from pyha.runtime.proving import CheckValue, Proof, computed_check_value, gives_back, well

_BLOB_ROOM = 16384
_NOT_EXACT = "no wrapping gives back exactly such a key"

AES_WRAP_OVERHEAD = 8
"""Bytes that CKM_AES_KEY_WRAP puts in front of a key's value."""


class Wrapping(WrappingReach):
    """The strategy; its form is the blob that C_WrapKey gives."""

    def carry(
        self, bench: Bench, original: int, shown: Mapping[int, bytes], template: Template, proof: Proof | None
    ) -> Carried:
        """As `Strategy` has it: a secret key whose length is not told needs the proof to find out which wrapping keeps
        it."""
        object_class, key_type = number(shown.get(ck.CKA_CLASS)) or 0, number(shown.get(ck.CKA_KEY_TYPE)) or 0
        if value_of(template, ck.CKA_WRAP_WITH_TRUSTED) == b"\1":
            raise Unreplicable("it may be wrapped by trusted keys only, and the domain keys are none")
        mechanism = wrapping_for(object_class, key_type, number(shown.get(ck.CKA_VALUE_LEN)) or None)
        if mechanism is not None:
            return _wrap_by(bench, mechanism, original, shown, template)
        failure = Unreplicable(_NOT_EXACT)
        if object_class != ck.CKO_SECRET_KEY or proof is None:
            raise failure
        for mechanism in (ck.CKM_AES_KEY_WRAP, ck.CKM_RSA_PKCS_OAEP):
            try:
                carried = _wrap_by(bench, mechanism, original, shown, template)
                made = self.make(bench, carried, provable(template, proof.needs))
                if gives_back(made, proof, bench.connection, bench.session, bench.deadline):
                    return carried
            except Unreplicable as reason:
                failure = reason
        raise failure

    def carry_of_session(self, bench: Bench, original: int, shown: Mapping[int, bytes], template: Template) -> Carried:
        """As `Strategy` has it: without a proof where the length is told, or the type has lengths of one sort only."""
        object_class, key_type = number(shown.get(ck.CKA_CLASS)), number(shown.get(ck.CKA_KEY_TYPE)) or 0
        lengths = KEY_TYPES[key_type].lengths if key_type in KEY_TYPES else ()
        if number(shown.get(ck.CKA_VALUE_LEN)) or object_class != ck.CKO_SECRET_KEY:
            return self.carry(bench, original, shown, template, None)
        if lengths and all(each >= 16 and each % 8 == 0 for each in lengths):
            # Whichever it is, the same wrapping keeps it, and tells it.
            told = {**shown, ck.CKA_VALUE_LEN: ulong(lengths[0])}
            carried = self.carry(bench, original, told, template, None)
            length = len(carried.blob) - AES_WRAP_OVERHEAD
            if length not in lengths:
                raise Unreplicable(_NOT_EXACT)
            return replace(carried, length=length)
        # By trial, on a session of its own, because the proof leaves session objects.
        connection, deadline = bench.connection, bench.deadline
        session = connection.open_session(deadline)
        try:
            check_value = computed_check_value(connection, session, original, key_type, deadline)
            proof = CheckValue(check_value) if check_value else None
            return self.carry(bench.on(session), original, shown, template, proof)
        finally:
            connection.discard(session, deadline)

    def make(self, bench: Bench, carried: Carried, template: Template) -> tuple[int, int]:
        """As `Strategy` has it."""
        handles = domain_handles(bench.group, bench.connection, carried.domain, bench.deadline)
        if handles is None:
            raise MemberLost(f"not a member any more: its {carried.domain.value} domain key is missing")
        how = wrapping_mechanism(carried.mechanism)
        values = (bench.session, how, handles.unwrapping, carried.blob, template, None)
        return make(bench.connection, "C_UnwrapKey", bench.deadline, *values)

    def is_again(self, bench: Bench, real: int, carried: Carried) -> bool | None:
        """As `Strategy` has it: CKM_AES_KEY_WRAP gives the same for the same key."""
        leaves = value_of(carried.template, ck.CKA_EXTRACTABLE) == b"\1"
        if not leaves or carried.mechanism == ck.CKM_RSA_PKCS_OAEP:
            return None
        handles = domain_handles(bench.group, bench.connection, carried.domain, bench.deadline)
        if handles is None:
            return False
        how = wrapping_mechanism(carried.mechanism)
        rv, results = _c_wrap_key(bench, how, handles, real)
        return rv == ck.CKR_OK and bytes(results[4][1]) == carried.blob


def _c_wrap_key(bench: Bench, how: Mechanism, handles: DomainHandles, real: int) -> tuple[int, list[Any]]:
    values = (bench.session, how, handles.wrapping, real, Out(_BLOB_ROOM))
    return bench.connection.call("C_WrapKey", bench.deadline, *values)


def _wrap_by(bench: Bench, mechanism: int, original: int, shown: Mapping[int, bytes], template: Template) -> Carried:
    domain = domain_for(template)
    if mechanism == ck.CKM_RSA_PKCS_OAEP:
        domain = rsa_of(domain)
    handles = domain_handles(bench.group, bench.connection, domain, bench.deadline)
    if handles is None:
        raise Unreplicable("the group has no RSA domain key for a secret of such a length")
    how = wrapping_mechanism(mechanism)
    rv, results = _c_wrap_key(bench, how, handles, original)
    if not well(rv, "C_WrapKey"):
        bench.connection.expect_well("C_WrapKey", rv, bench.deadline)
        raise Unreplicable(f"C_WrapKey answered {rv_name(rv)}", is_without_reason(rv))
    blob = bytes(results[4][1])
    length = number(shown.get(ck.CKA_VALUE_LEN)) or None
    if length is None and mechanism == ck.CKM_AES_KEY_WRAP:
        length = len(blob) - AES_WRAP_OVERHEAD
    return Carried(domain, mechanism, blob, template, shown, length)
