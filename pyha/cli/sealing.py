"""The backup of a group's domain keys, sealed to an RSA public key.

A JSON file: what it is of, and the AES domain keys' values encrypted by RSA-OAEP (SHA-256) to the key that
`--backup-to` names. Only the holder of the private key can open it. Imports `cryptography`, as the module never does.

Source: SEMANTICS.md section 5.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from pyha.cli.errors import Mistake
from pyha.ha.domain import AES_KEYS, DomainKey
from pyha.runtime.domain_keys import RsaPair

_LABEL = b"pyha domain keys"


def public_key(path: str) -> rsa.RSAPublicKey:
    """The RSA public key in a PEM file (a public key or a certificate's is told apart by OpenSSL's `x509 -pubkey`).
    Raises Mistake."""
    try:
        key = serialization.load_pem_public_key(Path(path).read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise Mistake(f"{path} is no PEM file with an RSA public key: {error}") from None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < 2048:
        raise Mistake(f"{path} is no RSA public key of 2048 bits or more")
    return key


def seal(
    key: rsa.RSAPublicKey,
    group_id: bytes,
    label: str,
    values: Mapping[DomainKey, bytearray],
    pairs: Mapping[DomainKey, RsaPair],
) -> str:
    """The text of the backup file. The RSA domain keys are in it as they are wrapped under the sealed AES one."""
    plain = b"".join(bytes(values[name]) for name in AES_KEYS)
    return (
        json.dumps(
            {
                "pyha-backup": 1,
                "group": label,
                "id": group_id.hex(),
                "keys": [name.value for name in AES_KEYS],
                "check-values": {name.value: check_value(values[name]).hex() for name in AES_KEYS},
                "sealed": key.encrypt(plain, _oaep()).hex(),
                "rsa": {
                    name.value: {
                        "modulus": pair.modulus.hex(),
                        "exponent": pair.exponent.hex(),
                        "wrapped": pair.wrapped.hex(),
                    }
                    for name, pair in pairs.items()
                },
            },
            indent=2,
        )
        + "\n"
    )


def check_value(value: bytearray) -> bytes:
    """CKA_CHECK_VALUE of an AES key: the first three bytes of a zero block encrypted with it (section 4.10.2)."""
    encryptor = Cipher(algorithms.AES(bytes(value)), modes.ECB()).encryptor()  # one block, no data: what KCV means
    return encryptor.update(bytes(16))[:3]


def _oaep() -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), _LABEL)
