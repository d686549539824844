"""The codec and a helper process together, on a real token: our own calls, with no application."""

import time
from collections.abc import Iterator
from struct import pack
from typing import Any

import pytest

from pyha.abi.codec import Codecs
from pyha.abi.info import unpack_info, unpack_token_info
from pyha.abi.link import Link, open_process
from pyha.abi.native import ffi
from pyha.abi.pins import keep
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME
from pyha.cryptoki.values import Attribute, Found, Mechanism, MemberInitialize, Out, Parameter, Query, Region
from tests.softhsm import SoftHSM, SoftHSMToken

SECONDS = 30.0
TRUE, FALSE = b"\1", b"\0"


class Member:
    """A module in its helper, called by function name and values."""

    def __init__(self, link: Link) -> None:
        self._link, self._codecs = link, Codecs()

    def call(self, name: str, *values: Any) -> tuple[int, list[Any]]:
        """(CK_RV, results)."""
        function = BY_NAME[name]
        codec, deadline = self._codecs.of(function), time.monotonic() + SECONDS
        arena = self._link.arena(codec.size(values), deadline)
        used = arena.capacity
        try:
            used = codec.write(arena, values)
            rv = self._link.invoke(arena, function.index, deadline)
            return rv, codec.read(arena, values, rv)
        finally:
            self._link.release(arena, used)

    def ok(self, name: str, *values: Any) -> Any:
        """The last result of a call that succeeds."""
        rv, results = self.call(name, *values)
        assert rv == ck.CKR_OK, f"{name} answered {rv:#x}"
        return results[-1]


@pytest.fixture
def token(softhsm: SoftHSM) -> SoftHSMToken:
    return softhsm.token("codec")


@pytest.fixture
def member(token: SoftHSMToken) -> Iterator[Member]:
    link = open_process(token.module, token.environment, time.monotonic() + SECONDS)
    member = Member(link)
    # SoftHSM has no use for pReserved and says so: the string arrives.
    assert member.call("C_Initialize", MemberInitialize(b"unwanted"))[0] == ck.CKR_ARGUMENTS_BAD
    member.ok("C_Initialize", MemberInitialize())
    yield member
    link.close()


@pytest.fixture
def session(member: Member, token: SoftHSMToken) -> int:
    count, _ = member.ok("C_GetSlotList", 1, None)
    _, slots = member.ok("C_GetSlotList", 1, count)
    (slot,) = [
        slot for slot in slots if unpack_token_info(member.ok("C_GetTokenInfo", slot, None)).serial == token.serial
    ]
    opened: int = member.ok("C_OpenSession", slot, ck.CKF_SERIAL_SESSION | ck.CKF_RW_SESSION, None, None)
    pin = token.pin.encode()
    member.ok("C_Login", opened, ck.CKU_USER, keep(ffi.from_buffer(pin), len(pin)))
    return opened


def ulong(number: int) -> bytes:
    return pack("@Q", number)


WRAP_TEMPLATE = (Attribute(ck.CKA_EXTRACTABLE, TRUE), Attribute(ck.CKA_LABEL, b"inner label"))


def aes_key(member: Member, session: int) -> int:
    template = (
        Attribute(ck.CKA_VALUE_LEN, ulong(32)),
        Attribute(ck.CKA_LABEL, b"a key"),
        Attribute(ck.CKA_ENCRYPT, TRUE),
        Attribute(ck.CKA_DECRYPT, TRUE),
        Attribute(ck.CKA_WRAP_TEMPLATE, WRAP_TEMPLATE),
        Attribute(ck.CKA_ALLOWED_MECHANISMS, ulong(ck.CKM_AES_GCM)),
    )
    key: int = member.ok("C_GenerateKey", session, Mechanism(ck.CKM_AES_KEY_GEN), template, None)
    return key


def test_info(member: Member) -> None:
    assert unpack_info(member.ok("C_GetInfo", None)).manufacturer == "SoftHSM"


def test_random(member: Member, session: int) -> None:
    first, second = (member.ok("C_GenerateRandom", session, Out(32)) for _ in range(2))
    assert len({first, second, bytes(32)}) == 3


def test_gcm_there_and_back(member: Member, session: int) -> None:
    key = aes_key(member, session)
    raw = pack("@6Q", 0, 12, 96, 0, 10, 128)
    gcm = Mechanism(ck.CKM_AES_GCM, Parameter(raw, (Region(0, b"twelve bytes"), Region(24, b"associated"))))
    member.ok("C_EncryptInit", session, gcm, key)
    assert member.call("C_Encrypt", session, b"plain text", Out(None)) == (ck.CKR_OK, [None, None, (26, None)])
    rv, results = member.call("C_Encrypt", session, b"plain text", Out(25))
    assert (rv, results[2]) == (ck.CKR_BUFFER_TOO_SMALL, (26, None))
    _, encrypted = member.ok("C_Encrypt", session, b"plain text", Out(100))
    assert len(encrypted) == 26
    member.ok("C_DecryptInit", session, gcm, key)
    assert member.ok("C_Decrypt", session, encrypted, Out(100)) == (10, b"plain text")


def test_pss_with_and_without_the_right_data(member: Member, session: int) -> None:
    generate = Mechanism(ck.CKM_RSA_PKCS_KEY_PAIR_GEN)
    public = (Attribute(ck.CKA_MODULUS_BITS, ulong(2048)), Attribute(ck.CKA_VERIFY, TRUE))
    private = (Attribute(ck.CKA_SIGN, TRUE), Attribute(ck.CKA_SENSITIVE, TRUE))
    _, results = member.call("C_GenerateKeyPair", session, generate, public, private, None, None)
    pss = Mechanism(ck.CKM_SHA256_RSA_PKCS_PSS, Parameter(pack("@3Q", ck.CKM_SHA256, ck.CKG_MGF1_SHA256, 32)))
    member.ok("C_SignInit", session, pss, results[5])
    _, signature = member.ok("C_Sign", session, b"data", Out(256))
    member.ok("C_VerifyInit", session, pss, results[4])
    member.ok("C_Verify", session, b"data", signature)
    member.ok("C_VerifyInit", session, pss, results[4])
    assert member.call("C_Verify", session, b"Data", signature)[0] == ck.CKR_SIGNATURE_INVALID


def test_ecdh_agrees(member: Member, session: int) -> None:
    curve = bytes.fromhex("06082a8648ce3d030107")
    generate = Mechanism(ck.CKM_EC_KEY_PAIR_GEN)
    pairs = [
        member.call(
            "C_GenerateKeyPair",
            session,
            generate,
            (Attribute(ck.CKA_EC_PARAMS, curve),),
            (Attribute(ck.CKA_DERIVE, TRUE),),
            None,
            None,
        )[1][4:]
        for _ in range(2)
    ]
    secrets = []
    for (_, private), (public, _) in (pairs, reversed(pairs)):
        point = member.ok("C_GetAttributeValue", session, public, (Query(ck.CKA_EC_POINT, 100),))[0].value
        parameter = Parameter(pack("@5Q", 1, 0, 0, len(point), 0), (Region(32, point),))
        template = (
            Attribute(ck.CKA_CLASS, ulong(ck.CKO_SECRET_KEY)),
            Attribute(ck.CKA_KEY_TYPE, ulong(ck.CKK_GENERIC_SECRET)),
            Attribute(ck.CKA_VALUE_LEN, ulong(32)),
            Attribute(ck.CKA_SENSITIVE, FALSE),
            Attribute(ck.CKA_EXTRACTABLE, TRUE),
        )
        key = member.ok("C_DeriveKey", session, Mechanism(ck.CKM_ECDH1_DERIVE, parameter), private, template, None)
        secrets.append(member.ok("C_GetAttributeValue", session, key, (Query(ck.CKA_VALUE, 32),))[0].value)
    assert secrets[0] == secrets[1] != bytes(32)


def test_attributes_of_every_sort(member: Member, session: int) -> None:
    key = aes_key(member, session)
    query = (Query(ck.CKA_LABEL, 20), Query(ck.CKA_VALUE, 32), Query(ck.CKA_MODULUS, 8), Query(ck.CKA_ID, None))
    rv, results = member.call("C_GetAttributeValue", session, key, query)
    assert rv in (ck.CKR_ATTRIBUTE_SENSITIVE, ck.CKR_ATTRIBUTE_TYPE_INVALID)
    assert results[2][0] == Found(ck.CKA_LABEL, 5, b"a key")
    assert [found.length for found in results[2]] == [5, None, None, 0]
    rv, results = member.call("C_GetAttributeValue", session, key, (Query(ck.CKA_LABEL, 3),))
    assert (rv, results[2]) == (ck.CKR_BUFFER_TOO_SMALL, (Found(ck.CKA_LABEL, None),))


def test_a_wrap_template_in_three_steps(member: Member, session: int) -> None:
    key = aes_key(member, session)

    def ask(query: Query) -> Any:
        return member.ok("C_GetAttributeValue", session, key, (query,))[0]

    assert ask(Query(ck.CKA_WRAP_TEMPLATE, None)).length == 48
    sizes = ask(Query(ck.CKA_WRAP_TEMPLATE, 48, (Query(0, None), Query(0, None)))).value
    assert {found.type: found.length for found in sizes} == {ck.CKA_EXTRACTABLE: 1, ck.CKA_LABEL: 11}
    room = tuple(Query(found.type, found.length) for found in sizes)
    values = ask(Query(ck.CKA_WRAP_TEMPLATE, 48, room)).value
    assert {found.type: found.value for found in values} == {each.type: each.value for each in WRAP_TEMPLATE}


def test_searching(member: Member, session: int) -> None:
    keys = {aes_key(member, session) for _ in range(3)}
    member.ok("C_FindObjectsInit", session, (Attribute(ck.CKA_LABEL, b"a key"),))
    found: set[int] = set()
    while some := member.ok("C_FindObjects", session, 2):
        found |= set(some)
    member.ok("C_FindObjectsFinal", session)
    assert found == keys


def test_a_megabyte(member: Member, session: int) -> None:
    content = bytes(range(256)) * 4096
    template = (Attribute(ck.CKA_CLASS, ulong(ck.CKO_DATA)), Attribute(ck.CKA_VALUE, content))
    data = member.ok("C_CreateObject", session, template, None)
    (found,) = member.ok("C_GetAttributeValue", session, data, (Query(ck.CKA_VALUE, len(content)),))
    assert found.value == content
