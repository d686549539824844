"""Proof that a copy is the key it was made from. A clone is believed only after it was verified.

A secret key by its check value: the member must refuse a wrong one and take the right one. A private key by a
signature that the public key of the original verifies, made by a session copy from the same blob, so that it works
whatever the key is for.

Source: REPLICATION.md ("a clone is believed only after it was verified"; CKA_CHECK_VALUE).
"""

from collections.abc import Mapping

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME
from pyha.cryptoki.values import Attribute, Mechanism, Out, Template
from pyha.ha.replication import public_template
from pyha.runtime.housekeeping import make, read_attributes
from pyha.runtime.member import Connection

_MESSAGE = bytes(range(20))
_SIGNATURE_ROOM = 4096

_PROOF: dict[int, int] = {
    ck.CKK_RSA: ck.CKM_RSA_PKCS,
    ck.CKK_EC: ck.CKM_ECDSA,
    ck.CKK_DSA: ck.CKM_DSA,
}
"""Key type -> a mechanism that signs a short message as it is."""


def prove_secret(connection: Connection, session: int, copy: int, check_value: bytes, deadline: float) -> bool:
    """Whether the secret key `copy` (real handle) has this check value. Where the module leaves a copy's empty it is
    set, once it has been seen that a wrong one is refused. Raises MemberLost."""
    if not check_value:
        return False
    shown = read_attributes(connection, session, copy, (ck.CKA_CHECK_VALUE,), deadline).get(ck.CKA_CHECK_VALUE)
    if shown:
        return shown == check_value
    wrong = bytes([check_value[0] ^ 1]) + check_value[1:]
    if _set_check_value(connection, session, copy, wrong, deadline) == ck.CKR_OK:
        return False
    return _set_check_value(connection, session, copy, check_value, deadline) == ck.CKR_OK


def _set_check_value(connection: Connection, session: int, key: int, value: bytes, deadline: float) -> int:
    template: Template = (Attribute(ck.CKA_CHECK_VALUE, value),)
    connection.enter_catalogue(deadline, alone=True)
    try:
        return connection.call("C_SetAttributeValue", deadline, session, key, template)[0]
    finally:
        connection.catalogue.leave()


def provable(key_type: int) -> bool:
    """Whether a copy of a private key of this type can be proved."""
    return key_type in _PROOF


def prove_private(
    connection: Connection, session: int, signer: int, public: Mapping[int, bytes], key_type: int, deadline: float
) -> bool:
    """Whether the private key `signer` (real handle, may sign) belongs to the public key with these attributes. Raises
    MemberLost. Leaves a session object on `session`, which the caller discards."""
    mechanism = Mechanism(_PROOF[key_type])
    template = public_template((), {**public, ck.CKA_PRIVATE: b"\0"}, key_type, token=False)
    usage = (ck.CKA_ENCRYPT, ck.CKA_VERIFY_RECOVER, ck.CKA_WRAP, ck.CKA_DERIVE, ck.CKA_VERIFY)
    plain = tuple(each for each in template if each.type not in usage)
    rv, verifier = make(
        connection, "C_CreateObject", deadline, session, (*plain, Attribute(ck.CKA_VERIFY, b"\1")), None
    )
    if rv != ck.CKR_OK:
        return False
    rv, _ = connection.call("C_SignInit", deadline, session, mechanism, signer)
    if rv != ck.CKR_OK:
        return False
    rv, results = connection.invoke(BY_NAME["C_Sign"], [session, _MESSAGE, Out(_SIGNATURE_ROOM)], deadline)
    if rv != ck.CKR_OK:
        return False
    signature = results[2][1]
    if connection.call("C_VerifyInit", deadline, session, mechanism, verifier)[0] != ck.CKR_OK:
        return False
    return connection.call("C_Verify", deadline, session, _MESSAGE, signature)[0] == ck.CKR_OK
