"""Domain keys onto tokens: the AES keys by value, the RSA pairs wrapped under the sealed AES key.

Used by the `pyha` command only, never inside an application. What it makes on tokens it takes back where a later step
fails.

Sources: SEMANTICS.md section 5 (domain keys); REPLICATION.md (secret keys of other lengths).
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from pyha.cryptoki import constants as ck
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.plain import dataclass
from pyha.cryptoki.values import Attribute, Buffer, Mechanism, Out, Template
from pyha.ha.domain import (
    AES_KEYS,
    OAEP,
    RSA_BITS,
    RSA_EXPONENT,
    RSA_KEYS,
    DomainHandles,
    DomainKey,
    aes_template,
    domain_search,
    rsa_private_template,
    rsa_public_template,
)
from pyha.ha.fingerprints import Fingerprint
from pyha.ha.identity import ulong
from pyha.ha.settings import TokenSnapshot
from pyha.runtime.admission import NotAdmitted, read_domain_keys
from pyha.runtime.domain_proof import proofs
from pyha.runtime.housekeeping import (
    SearchFailed,
    boolean,
    create,
    destroy,
    housekeeping,
    make,
    read_attributes,
    search,
)
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.proving import prove_secret

GENERATION = 100.0
"""Seconds on top of the ordinary deadline, for the generation of an RSA key."""


_TROUBLE = (MemberLost, SessionRefused, SearchFailed)


class NotServable(Exception):
    """A token cannot be a member: one sentence that names it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token on its way into a group. `seconds`: the deadline of each of our calls."""

    connection: Connection
    seconds: float

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.connection.name

    def deadline(self) -> float:
        """From now, monotonic seconds."""
        return self.connection.clock() + self.seconds


@dataclass(frozen=True, slots=True)
class RsaPair:
    """An RSA domain key outside its tokens: the public key, and the private key as PKCS #8 wrapped under the sealed AES
    domain key by CKM_AES_KEY_WRAP_PAD."""

    modulus: bytes
    exponent: bytes
    wrapped: bytes


def takes_rsa(token: TokenSnapshot) -> bool:
    """Whether members that offer these mechanisms in common can hold RSA domain keys."""
    offers = {offer.type: offer for offer in token.mechanisms}
    oaep, generation = offers.get(ck.CKM_RSA_PKCS_OAEP), offers.get(ck.CKM_RSA_PKCS_KEY_PAIR_GEN)
    if oaep is None or generation is None:
        return False
    enough = all(each.minimum <= RSA_BITS <= each.maximum for each in (oaep, generation))
    return enough and oaep.flags & _BOTH_WAYS == _BOTH_WAYS


_BOTH_WAYS = ck.CKF_WRAP | ck.CKF_UNWRAP


def put_domain_keys(
    candidates: Sequence[Candidate], group_id: bytes, values: Mapping[DomainKey, Buffer], rsa: bool
) -> dict[DomainKey, RsaPair]:
    """Make the domain keys on every token: AES keys of these values (32 bytes each) and, with `rsa`, the RSA pairs,
    which are handed back wrapped; on failure none of the tokens has any. Raises NotServable."""
    try:
        for candidate in candidates:
            for key in AES_KEYS:
                place_secret(candidate, group_id, key, values[key])
        return {key: _put_pair(candidates, group_id, key) for key in RSA_KEYS} if rsa else {}
    except BaseException:
        remove_domain_keys(candidates, group_id)
        raise


def place_secret(candidate: Candidate, group_id: bytes, key: DomainKey, value: Buffer) -> None:
    """An AES domain key of this value (32 bytes) onto one token. Raises NotServable."""
    real = _create(candidate, key, (*aes_template(group_id, key), Attribute(ck.CKA_VALUE, value)))
    candidate.connection.domain[key] = DomainHandles(real, real)


def _create(candidate: Candidate, key: DomainKey, template: Template) -> int:
    deadline = candidate.deadline()
    try:
        with housekeeping(candidate.connection, deadline) as session:
            rv, real = create(candidate.connection, session, template, deadline)
    except _TROUBLE as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None
    _expect(candidate, rv, f"the token does not take the {key.value} domain key")
    return real


def _expect(candidate: Candidate, rv: int, what: str) -> None:
    if rv != ck.CKR_OK:
        raise NotServable(f"{candidate.name}: {what}: {rv_name(rv)}")


def _put_pair(candidates: Sequence[Candidate], group_id: bytes, key: DomainKey) -> RsaPair:
    """One RSA domain key: made on the first token as an extractable session object, wrapped under the sealed AES key,
    unwrapped everywhere, and proved by what it is for."""
    first = candidates[0]
    deadline = first.deadline() + GENERATION
    session = 0
    try:
        session = first.connection.open_session(deadline)
        pair = _generate_pair(first, session, key, deadline)
        for candidate in candidates:
            place_pair(candidate, group_id, key, pair)
        probe = _probe_secret(first, session, deadline)
        for candidate in candidates:
            if not _carries(candidate, key, probe):
                raise NotServable(f"{candidate.name}: the {key.value} domain key does not unwrap what it should")
    except _TROUBLE as reason:
        raise NotServable(f"{first.name}: {reason}") from None
    finally:
        if session:
            first.connection.discard(session, deadline)
    return pair


def _generate_pair(first: Candidate, session: int, key: DomainKey, deadline: float) -> RsaPair:
    connection = first.connection
    public: Template = (
        boolean(ck.CKA_TOKEN, False),
        Attribute(ck.CKA_MODULUS_BITS, ulong(RSA_BITS)),
        Attribute(ck.CKA_PUBLIC_EXPONENT, RSA_EXPONENT),
    )
    private = (
        boolean(ck.CKA_TOKEN, False),
        boolean(ck.CKA_PRIVATE, True),
        boolean(ck.CKA_SENSITIVE, True),
        boolean(ck.CKA_EXTRACTABLE, True),
    )
    mechanism = Mechanism(ck.CKM_RSA_PKCS_KEY_PAIR_GEN)
    rv, results = connection.call("C_GenerateKeyPair", deadline, session, mechanism, public, private, None, None)
    _expect(first, rv, f"the {key.value} domain key cannot be made")
    modulus = read_attributes(connection, session, results[4], (ck.CKA_MODULUS,), deadline).get(ck.CKA_MODULUS, b"")
    sealed = connection.domain[DomainKey.SEALED].wrapping
    padded = Mechanism(ck.CKM_AES_KEY_WRAP_PAD)
    rv, wrapped = connection.call("C_WrapKey", deadline, session, padded, sealed, results[5], Out(8192))
    _expect(first, rv, f"the {key.value} domain key cannot be wrapped")
    return RsaPair(modulus, RSA_EXPONENT, wrapped[4][1])


def place_pair(candidate: Candidate, group_id: bytes, key: DomainKey, pair: RsaPair) -> None:
    """An RSA domain key onto one token that has the sealed AES key. Raises NotServable."""
    connection, deadline = candidate.connection, candidate.deadline()
    public = _create(candidate, key, rsa_public_template(group_id, key, pair.modulus, pair.exponent))
    connection.domain[key] = DomainHandles(public, public)
    sealed = connection.domain[DomainKey.SEALED].unwrapping
    padded = Mechanism(ck.CKM_AES_KEY_WRAP_PAD)
    template = rsa_private_template(group_id, key)
    try:
        with housekeeping(connection, deadline) as session:
            rv, private = make(
                connection, "C_UnwrapKey", deadline, session, padded, sealed, pair.wrapped, template, None
            )
    except _TROUBLE as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None
    _expect(candidate, rv, f"the token does not take the {key.value} domain key")
    connection.domain[key] = DomainHandles(public, private)


def pair_works(candidate: Candidate, key: DomainKey) -> bool:
    """Whether the token gives back under this RSA domain key what it wrapped under it. Raises NotServable."""
    connection, deadline = candidate.connection, candidate.deadline()
    session = 0
    try:
        session = connection.open_session(deadline)
        return _carries(candidate, key, _probe_secret(candidate, session, deadline))
    except _TROUBLE as reason:
        raise NotServable(f"{candidate.name}: {reason}") from None
    finally:
        if session:
            connection.discard(session, deadline)


def _probe_secret(first: Candidate, session: int, deadline: float) -> tuple[dict[DomainKey, bytes], bytes]:
    """A secret of odd length, wrapped under each RSA domain key that the first token has; and its check value."""
    connection = first.connection
    template = (
        boolean(ck.CKA_TOKEN, False),
        boolean(ck.CKA_SENSITIVE, True),
        boolean(ck.CKA_EXTRACTABLE, True),
        Attribute(ck.CKA_VALUE_LEN, ulong(33)),
    )
    mechanism = Mechanism(ck.CKM_GENERIC_SECRET_KEY_GEN)
    rv, secret = make(connection, "C_GenerateKey", deadline, session, mechanism, template, None)
    _expect(first, rv, "a trial secret cannot be made")
    blobs = {}
    for key in RSA_KEYS:
        if key in connection.domain:
            wrapping = connection.domain[key].wrapping
            rv, results = connection.call("C_WrapKey", deadline, session, OAEP, wrapping, secret, Out(1024))
            _expect(first, rv, f"the {key.value} domain key does not wrap")
            blobs[key] = results[4][1]
    shown = read_attributes(connection, session, secret, (ck.CKA_CHECK_VALUE,), deadline)
    return blobs, shown.get(ck.CKA_CHECK_VALUE, b"")


def _carries(candidate: Candidate, key: DomainKey, probe: tuple[dict[DomainKey, bytes], bytes]) -> bool:
    """Whether this token unwraps the trial secret to the same key."""
    blobs, check_value = probe
    connection, deadline = candidate.connection, candidate.deadline()
    template = (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_SECRET_KEY)),
        Attribute(ck.CKA_KEY_TYPE, ulong(ck.CKK_GENERIC_SECRET)),
        boolean(ck.CKA_TOKEN, False),
        boolean(ck.CKA_SENSITIVE, True),
        boolean(ck.CKA_EXTRACTABLE, False),
    )
    session = connection.open_session(deadline)
    try:
        unwrapping = connection.domain[key].unwrapping
        rv, copy = make(connection, "C_UnwrapKey", deadline, session, OAEP, unwrapping, blobs[key], template, None)
        return rv == ck.CKR_OK and prove_secret(connection, session, copy, check_value, deadline)
    finally:
        connection.discard(session, deadline)


def remove_domain_keys(candidates: Sequence[Candidate], group_id: bytes, kept: Collection[DomainKey] = ()) -> None:
    """Take the group's domain keys but `kept` back from every token that still answers: also those of which no handle
    is known, because the call that made them was cut short."""
    for candidate in candidates:
        connection, deadline = candidate.connection, candidate.deadline()
        reals = {real for key, handles in connection.domain.items() if key not in kept for real in handles}
        with suppress(*_TROUBLE), housekeeping(connection, deadline) as session:
            for key in DomainKey:
                classes = (ck.CKO_SECRET_KEY,) if key in AES_KEYS else (ck.CKO_PUBLIC_KEY, ck.CKO_PRIVATE_KEY)
                for object_class in classes if key not in kept else ():
                    reals.update(search(connection, session, domain_search(group_id, key, object_class), deadline))
        for real in reals:
            with suppress(*_TROUBLE), housekeeping(connection, deadline) as session:
                destroy(connection, session, real, deadline)
        connection.domain.clear()


def fingerprints(connection: Connection, group_id: bytes, deadline: float) -> dict[DomainKey, Fingerprint]:
    """What tells each domain key on a logged-in token, proofs included. Raises NotServable."""
    try:
        found = read_domain_keys(connection, group_id, deadline)
        keys = [key for key in AES_KEYS if key in found]
        proved = dict(zip(keys, proofs(connection, [found[key].handles for key in keys], deadline), strict=True))
    except (NotAdmitted, *_TROUBLE) as reason:
        raise NotServable(f"{connection.name}: {reason}") from None
    return {key: Fingerprint(on_token.fingerprint, proved.get(key, b"")) for key, on_token in found.items()}
