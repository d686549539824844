"""What tests of replication share: a group with all its members looked at directly, and the templates of keys."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyha.cryptoki import constants as ck
from tests.application import Application, Template, number
from tests.integration.conftest import TestGroup

CURVES = {
    "P-256": (bytes.fromhex("06082a8648ce3d030107"), ec.SECP256R1()),
    "P-384": (bytes.fromhex("06052b81040022"), ec.SECP384R1()),
    "P-521": (bytes.fromhex("06052b81040023"), ec.SECP521R1()),
}
P256 = CURVES["P-256"][0]
STAYS: Template = {ck.CKA_TOKEN: True, ck.CKA_PRIVATE: True, ck.CKA_SENSITIVE: True, ck.CKA_EXTRACTABLE: False}
"""A key that must not leave."""
LEAVES: Template = {**STAYS, ck.CKA_EXTRACTABLE: True}
OPEN: Template = {**STAYS, ck.CKA_EXTRACTABLE: True, ck.CKA_SENSITIVE: False}


@dataclass(frozen=True)
class Scene:
    """An application of the group, and its members without anything of ours."""

    group: TestGroup
    app: Application
    members: tuple[Application, ...]

    def everywhere(self, label: bytes, count: int = 1) -> list[tuple[Application, int]]:
        """The object of that label on each member; there must be so many."""
        found = []
        for member in self.members:
            reals = member.find({ck.CKA_LABEL: label})
            assert len(reals) == count, (label, len(reals))
            found += [(member, real) for real in reals]
        return found

    def alike(self, label: bytes, *attributes: int) -> list[bytes | None]:
        """The values of these attributes, which all members have alike."""
        seen = {tuple(member.read(real, *attributes).values()) for member, real in self.everywhere(label)}
        assert len(seen) == 1, seen
        return list(seen.pop())

    def inventory(self) -> list[list[bytes]]:
        """CKA_LABEL of every object on each member, the group's own among them."""
        return [sorted(_label(member, real) for real in member.find({})) for member in self.members]

    def records(self) -> list[int]:
        """How many records each member holds."""
        return [len(member.find({ck.CKA_APPLICATION: b"pyha"})) for member in self.members]


def _label(member: Application, real: int) -> bytes:
    return member.read(real, ck.CKA_LABEL)[ck.CKA_LABEL] or b""


@contextmanager
def scene(group: TestGroup, *which: int) -> Iterator[Scene]:
    """Open all of it; `which`: the members to look at, by default all."""
    with ExitStack() as stack:
        app = stack.enter_context(group.application())
        members = [stack.enter_context(group.member(index)) for index in which or range(len(group.tokens))]
        yield Scene(group, app, tuple(members))


def big(value: int) -> bytes:
    """A big integer as attribute value."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def ec_private(curve: str = "P-256", **more: Any) -> tuple[ec.EllipticCurvePrivateKey, dict[int, Any]]:
    """A private EC key and the template that imports it."""
    parameters, named = CURVES[curve]
    key = ec.generate_private_key(named)
    size = (named.key_size + 7) // 8
    value = key.private_numbers().private_value.to_bytes(size, "big")
    return key, {
        ck.CKA_CLASS: ck.CKO_PRIVATE_KEY,
        ck.CKA_KEY_TYPE: ck.CKK_EC,
        ck.CKA_EC_PARAMS: parameters,
        ck.CKA_VALUE: value,
    }


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """CKA_EC_POINT."""
    raw = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    length = bytes([len(raw)]) if len(raw) < 128 else bytes([0x81, len(raw)])
    return b"\x04" + length + raw


def rsa_private(bits: int = 2048) -> tuple[rsa.RSAPrivateKey, dict[int, Any]]:
    """A private RSA key and the template that imports it."""
    key = rsa.generate_private_key(65537, bits)
    numbers = key.private_numbers()
    return key, {
        ck.CKA_CLASS: ck.CKO_PRIVATE_KEY,
        ck.CKA_KEY_TYPE: ck.CKK_RSA,
        ck.CKA_MODULUS: big(numbers.public_numbers.n),
        ck.CKA_PUBLIC_EXPONENT: big(numbers.public_numbers.e),
        ck.CKA_PRIVATE_EXPONENT: big(numbers.d),
        ck.CKA_PRIME_1: big(numbers.p),
        ck.CKA_PRIME_2: big(numbers.q),
        ck.CKA_EXPONENT_1: big(numbers.dmp1),
        ck.CKA_EXPONENT_2: big(numbers.dmq1),
        ck.CKA_COEFFICIENT: big(numbers.iqmp),
    }


_OAKLEY_1 = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A63A3620FFFFFFFFFFFFFFFF",
    16,
)


def dh_private() -> tuple[int, dict[int, Any]]:
    """A private DH value (group 1 of RFC 2409) and the template that imports it."""
    value = secrets.randbelow(_OAKLEY_1 - 4) + 2
    return value, {
        ck.CKA_CLASS: ck.CKO_PRIVATE_KEY,
        ck.CKA_KEY_TYPE: ck.CKK_DH,
        ck.CKA_PRIME: big(_OAKLEY_1),
        ck.CKA_BASE: b"\2",
        ck.CKA_VALUE: big(value),
    }


def dh_agreed(value: int, public: int) -> bytes:
    """What a private DH value agrees on with this public one."""
    return pow(public, value, _OAKLEY_1).to_bytes(96, "big")


def dsa_private() -> tuple[dsa.DSAPrivateKey, dict[int, Any]]:
    """A private DSA key and the template that imports it."""
    key = dsa.generate_private_key(1024)
    numbers = key.private_numbers()
    group = numbers.public_numbers.parameter_numbers
    return key, {
        ck.CKA_CLASS: ck.CKO_PRIVATE_KEY,
        ck.CKA_KEY_TYPE: ck.CKK_DSA,
        ck.CKA_PRIME: big(group.p),
        ck.CKA_SUBPRIME: big(group.q),
        ck.CKA_BASE: big(group.g),
        ck.CKA_VALUE: big(numbers.x),
    }


def value_length(application: Application, key: int) -> int | None:
    """CKA_VALUE_LEN."""
    return number(application.read(key, ck.CKA_VALUE_LEN)[ck.CKA_VALUE_LEN])


OAEP = (ck.CKM_RSA_PKCS_OAEP, [ck.CKM_SHA_1, ck.CKG_MGF1_SHA1, ck.CKZ_DATA_SPECIFIED, ("pointer", b"")])
