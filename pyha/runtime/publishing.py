"""Publishing a key: from its extractable session original on one member to the same token object on every member.

Order (SEMANTICS.md section 5): wrap, write the escrow record everywhere, unwrap everywhere (the first member included),
prove, and only then is it the application's. Whatever fails before is taken back; a member that is lost on the way is
resynchronised before it serves again.
"""

from collections.abc import Mapping

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.arrays import values_of
from pyha.ha.cloning import Carried
from pyha.ha.identity import Identity, number
from pyha.ha.records import EscrowRecord
from pyha.ha.replication import value_of
from pyha.ha.telling import type_names
from pyha.runtime import escrow
from pyha.runtime.bench import Bench
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed
from pyha.runtime.member import Connection
from pyha.runtime.outcomes import Unreplicable, is_without_reason, refused
from pyha.runtime.proving import CheckValue, Proof
from pyha.runtime.refinding import clear_remainder, made_with, record_like
from pyha.runtime.showing import weaknesses
from pyha.runtime.steps import Placed, on_each, step
from pyha.runtime.strategy import make_of, make_provable


def publish(
    group: GroupRuntime, carried: Carried, proof: Proof, identity: Identity, placed: Placed, fresh: bool
) -> list[tuple[Connection, int]]:
    """Put the key on every member that is in: (connection, real handle) each. `fresh`: it is a new one, of which there
    is no copy yet. Raises Refusal, Unreplicable, NobodyLeft; what was made is in `placed`, and is the caller's to take
    back."""
    direct, tried, for_ever = _manner(carried.template, proof)
    if tried:
        on_each(group, placed.what, lambda index, connection: _try(group, index, connection, carried, proof, for_ever))
    if carried.recorded:
        record = carried.record(group.settings.id, identity)
        write_records(group, record, identity, placed)
    held, promised = proof if direct else None, values_of(carried.template)
    return on_each(
        group,
        placed.what,
        lambda index, connection: _place(group, index, connection, carried, held, placed, promised, fresh),
    )


def publish_on(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    carried: Carried,
    proof: Proof,
    placed: Placed,
    promised: Mapping[int, bytes],
) -> int:
    """Put the key on one member, which need not be in yet, with all the protections `promised`: its real handle. Raises
    as `publish` does, and MemberLost."""
    direct, tried, for_ever = _manner(carried.template, proof)
    if tried:
        _try(group, index, connection, carried, proof, for_ever)
    return _place(group, index, connection, carried, proof if direct else None, placed, promised)


def _manner(template: Template, proof: Proof) -> tuple[bool, bool, bool]:
    """How such a key is put on a member: whether the published object itself is proved there, whether a session copy is
    tried first, and whether the template as it is is tried with it, because what is made could not be taken back."""
    direct = _proves_itself(template, proof)
    for_ever = value_of(template, ck.CKA_DESTROYABLE) == b"\0"
    # Whoever is killed before the object itself is proved leaves one of which nothing could be told, but for a secret
    # key, which then tells no check value.
    return direct, not direct or for_ever or not isinstance(proof, CheckValue), for_ever


def _proves_itself(template: Template, proof: Proof) -> bool:
    """Whether the published object itself can be put to the proof."""
    if proof.needs is None:
        return value_of(template, ck.CKA_MODIFIABLE) != b"\0"
    if value_of(template, ck.CKA_ALWAYS_AUTHENTICATE) == b"\1" or value_of(template, proof.needs) != b"\1":
        return False
    allowed = value_of(template, ck.CKA_ALLOWED_MECHANISMS)
    return not allowed or proof.mechanism in (number(allowed[at : at + 8]) for at in range(0, len(allowed), 8))


def prove_copy(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    session: int,
    carried: Carried,
    proof: Proof,
    deadline: float,
) -> int:
    """The CK_RV of unwrapping a session copy with all that its proof needs, on `session`. Raises Unreplicable where it
    is not the key, MemberLost, SearchFailed, SessionRefused."""
    rv, copy = make_provable(Bench(group, connection, session, deadline), carried, proof.needs)
    if rv == ck.CKR_OK:
        _expect_proved(group, index, connection, session, copy, proof, deadline)
    return rv


def _expect_proved(
    group: GroupRuntime, index: int, connection: Connection, session: int, copy: int, proof: Proof, deadline: float
) -> None:
    """Raises Unreplicable where the copy is not the key, MemberLost, SearchFailed."""
    what, doubtful = f"the copy on member {group.name(index)} is not proved to be the same key", False
    try:
        if proof.holds(connection, session, copy, deadline):
            return
    except SearchFailed as failure:
        if not is_without_reason(failure.rv) or not connection.alive(deadline):
            raise
        what, doubtful = f"{what}: {failure}", True
    raise Unreplicable(what, doubtful)


def _try(group: GroupRuntime, index: int, connection: Connection, carried: Carried, proof: Proof, whole: bool) -> None:
    """A session copy on this member, proved; with `whole` also one of the template as it is. Raises Refusal,
    Unreplicable, MemberLost."""

    def attempt(deadline: float) -> tuple[int, None]:
        session = connection.open_session(deadline)
        try:
            if whole:
                trial = tuple(each for each in carried.template if each.type != ck.CKA_TOKEN)
                trial = (Attribute(ck.CKA_TOKEN, b"\0"), *trial)
                rv, _ = make_of(Bench(group, connection, session, deadline), carried, trial)
                if rv != ck.CKR_OK:
                    return rv, None
            return prove_copy(group, index, connection, session, carried, proof, deadline), None
        finally:
            connection.discard(session, deadline)

    rv, _ = step(group, index, connection, "C_UnwrapKey", attempt)
    _expect(group, index, rv)


def _place(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    carried: Carried,
    proof: Proof | None,
    placed: Placed,
    promised: Mapping[int, bytes],
    fresh: bool | None = None,
) -> int:
    """The token object on one member, proved where there is a proof that it can be put to, and no weaker than it was
    promised to be: its real handle. `fresh`: as `publish` has it; None: in a resync, which sees what was made."""

    find = made_with(carried.template, proof)
    tried = False

    def attempt(deadline: float) -> tuple[int, int]:
        nonlocal tried
        session = connection.open_session(deadline)
        try:
            if tried:  # made by a first try whose proof met a lost session or login
                placed.take_back_last(connection, session, deadline)
                tried = False
            rv, real = make_of(Bench(group, connection, session, deadline), carried, carried.template)
            if fresh is not None and is_without_reason(rv):
                clear_remainder(connection, session, carried.template, proof, fresh, deadline)
            if rv != ck.CKR_OK:
                return rv, 0
            placed.add(index, connection, real, find)
            tried = True
            if proof is not None:
                _expect_proved(group, index, connection, session, real, proof, deadline)
            expect_protected(group, index, connection, session, real, promised, deadline)
            return rv, real
        finally:
            connection.discard(session, deadline)

    rv, real = step(group, index, connection, "C_UnwrapKey", attempt)
    _expect(group, index, rv)
    assert real is not None
    return real


def expect_protected(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    session: int,
    real: int,
    promised: Mapping[int, bytes],
    deadline: float,
) -> None:
    """That a copy (real handle) has all these protections. Raises Unreplicable, MemberLost, SearchFailed."""
    lacking = weaknesses(connection, session, real, promised, deadline)
    if lacking:
        raise Unreplicable(f"the copy on member {group.name(index)} lacks {type_names(lacking)}")


def _expect(group: GroupRuntime, index: int, rv: int) -> None:
    if rv != ck.CKR_OK:
        raise refused(rv, f"member {group.name(index)} refused C_UnwrapKey")


def write_records(group: GroupRuntime, record: EscrowRecord, identity: Identity, placed: Placed) -> None:
    """Write a record on every member that is in. Raises Refusal, NobodyLeft."""
    find = record_like(record, identity)

    def work(index: int, connection: Connection) -> None:
        rv, real = step(
            group,
            index,
            connection,
            "C_CreateObject",
            lambda deadline: escrow.write(connection, record, identity, deadline),
        )
        if rv != ck.CKR_OK or real is None:
            raise refused(rv, f"member {group.name(index)} refused the escrow record")
        placed.add(index, connection, real, find, equal=True)

    on_each(group, placed.what, work)
