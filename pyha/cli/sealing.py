"""The backup of a group's domain keys, sealed to an RSA public key.

A JSON file: what it is of, and the AES domain keys' values encrypted by RSA-OAEP (SHA-256) to the key that
`--backup-to` names. Only the holder of the private key can open it. Imports `cryptography`, as the module never does.

Source: SEMANTICS.md section 5.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from pyha.cli import memory
from pyha.cli.errors import Mistake
from pyha.cryptoki.values import Buffer
from pyha.ha.domain import AES_KEYS, RSA_KEYS, DomainKey
from pyha.ha.fingerprints import KNOWN, Fingerprint, check_of, proof_of
from pyha.runtime.domain_keys import RsaPair
from pyha.runtime.restoring import Backup

_LABEL = b"pyha domain keys"
_SIZE = 32
_LIMIT = 1 << 20
"""Bytes. A backup and a key have some kilobytes; something else behind the name is not read to its end."""


def public_key(path: str) -> rsa.RSAPublicKey:
    """The RSA public key in a PEM file (a public key or a certificate's is told apart by OpenSSL's `x509 -pubkey`).
    Raises Mistake."""
    try:
        key = serialization.load_pem_public_key(Path(path).read_bytes())
    except OSError as error:
        raise Mistake(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Mistake(f"{path} is no PEM file with an RSA public key") from None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < 2048:
        raise Mistake(f"{path} is no RSA public key of 2048 bits or more")
    return key


def seal(
    key: rsa.RSAPublicKey,
    group_id: bytes,
    label: str,
    values: Mapping[DomainKey, Buffer],
    pairs: Mapping[DomainKey, RsaPair],
) -> str:
    """The text of the backup file. The RSA domain keys are in it as they are wrapped under the sealed AES one."""
    plain = b"".join(values[name] for name in AES_KEYS)
    try:
        sealed = key.encrypt(plain, _oaep())
    finally:
        memory.overwrite(plain)
    return (
        json.dumps(
            {
                "pyha-backup": 1,
                "group": label,
                "id": group_id.hex(),
                "keys": [name.value for name in AES_KEYS],
                "check-values": {name.value: check_value(values[name]).hex() for name in AES_KEYS},
                "sealed": sealed.hex(),
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


def open_backup(path: str, key: str, passphrase: bytearray | None = None) -> Backup:
    """The backup in a file, opened with the RSA private key in a PEM file. Its values lie in one locked page, which the
    caller wipes (`with` does). Raises Mistake."""
    document = _document(path)
    private = _private_key(key, passphrase)
    try:
        plain = private.decrypt(document["sealed"], _oaep())
    except ValueError:
        raise Mistake(f"{key} is not the private key that {path} is sealed to") from None
    try:
        if len(plain) != _SIZE * len(AES_KEYS):
            raise Mistake(f"{path} is damaged: its sealed content has {len(plain)} bytes")
        page = memory.locked_page()
        page[: len(plain)] = plain
    finally:
        memory.overwrite(plain)
    values = {name: page[at * _SIZE : (at + 1) * _SIZE] for at, name in enumerate(AES_KEYS)}
    told = fingerprints(values, document["rsa"])
    backup = Backup(document["group"], document["id"], values, document["rsa"], told)
    if any(document["check-values"].get(name) != told[name].check for name in AES_KEYS):
        backup.wipe()
        raise Mistake(f"{path} is damaged: its check values are not those of its keys")
    return backup


def fingerprints(
    values: Mapping[DomainKey, Buffer], pairs: Mapping[DomainKey, RsaPair]
) -> dict[DomainKey, Fingerprint]:
    """What every token that holds these domain keys has to tell of them."""
    return {
        **{
            name: Fingerprint(check_value(value), proof_of(aes_key_wrap(value, KNOWN)))
            for name, value in values.items()
        },
        **{name: Fingerprint(check_of(pair.modulus)) for name, pair in pairs.items()},
    }


def _document(path: str) -> dict[str, Any]:
    """The fields of a backup file, hexadecimal ones as bytes. Raises Mistake."""
    try:
        with open(path, "rb") as file:
            raw = json.loads(file.read(_LIMIT))
        if raw["pyha-backup"] != 1:
            raise Mistake(f"{path} is a backup of version {raw['pyha-backup']!r}, which this command does not know")
        names = [DomainKey(name) for name in raw["keys"]]
        pairs = {DomainKey(name): pair for name, pair in raw["rsa"].items()}
        if names != list(AES_KEYS) or set(pairs) - set(RSA_KEYS):
            raise ValueError("other keys than a group has")
        return {
            "group": str(raw["group"]),
            "id": bytes.fromhex(raw["id"]),
            "check-values": {DomainKey(name): bytes.fromhex(value) for name, value in raw["check-values"].items()},
            "sealed": bytes.fromhex(raw["sealed"]),
            "rsa": {
                name: RsaPair(*(bytes.fromhex(pair[part]) for part in ("modulus", "exponent", "wrapped")))
                for name, pair in pairs.items()
            },
        }
    except OSError as error:
        raise Mistake(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Mistake(f"{path} is no backup of domain keys, or it is damaged") from None


def _private_key(path: str, passphrase: bytearray | None) -> rsa.RSAPrivateKey:
    """Raises Mistake."""
    content = bytearray(_LIMIT)
    try:
        with open(path, "rb", buffering=0) as file:
            length = file.readinto(content) or 0
        key = serialization.load_pem_private_key(memoryview(content)[:length], cast("bytes | None", passphrase))
    except OSError as error:
        raise Mistake(f"{path} cannot be read: {error.strerror}") from None
    except TypeError:
        trouble = (
            "has no passphrase" if passphrase is not None else "has a passphrase: name its --key-passphrase-source"
        )
        raise Mistake(f"{path} {trouble}") from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = ", or the passphrase is wrong" if passphrase is not None else ""
        raise Mistake(f"{path} is no PEM file with a private key{wrong}") from None
    finally:
        memory.wipe(content)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise Mistake(f"{path} is no RSA private key")
    return key


def check_value(value: Buffer) -> bytes:
    """CKA_CHECK_VALUE of an AES key: the first three bytes of a zero block encrypted with it (section 4.10.2)."""
    encryptor = Cipher(algorithms.AES(value), modes.ECB()).encryptor()  # one block, no data: what KCV means
    return encryptor.update(bytes(16))[:3]


def _oaep() -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), _LABEL)
