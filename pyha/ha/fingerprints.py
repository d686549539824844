"""What tells one domain key from another without its value, and who is believed where members disagree.

Pure. Fingerprints are no secrets: the configuration holds them, so that each member can be judged alone.

Source: SEMANTICS.md section 5 (a member with other domain keys is not admitted).
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256

from pyha.cryptoki.plain import dataclass
from pyha.ha.domain import AES_KEYS, DomainKey

KNOWN = bytes(range(32))
"""The value of the AES key that is wrapped under an AES domain key for its proof: CKM_AES_KEY_WRAP gives the same blob
for the same two keys on every token, and another one for another domain key."""

_PROOF = 16


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`check`: of an AES key its CKA_CHECK_VALUE (3 bytes), of an RSA pair the first 16 bytes of the SHA-256 of its
    modulus. `proof`: of an AES key the first 16 bytes of the SHA-256 of `KNOWN` wrapped under it; a check value can be
    hit by trying 16 million keys, this cannot. Either is empty where it was not told, or not asked for."""

    check: bytes
    proof: bytes = b""

    def __str__(self) -> str:
        return self.check.hex() or (f"proof {self.proof.hex()}" if self.proof else "untold")

    def agrees(self, other: "Fingerprint") -> bool | None:
        """Whether both are of one key; None where they have nothing in common to compare."""
        both = [pair for pair in ((self.check, other.check), (self.proof, other.proof)) if all(pair)]
        return all(mine == others for mine, others in both) if both else None

    def joined(self, other: "Fingerprint") -> "Fingerprint":
        """What is known of one key by both."""
        return Fingerprint(self.check or other.check, self.proof or other.proof)


Fingerprints = Mapping[DomainKey, Fingerprint]


def check_of(modulus: bytes) -> bytes:
    """`Fingerprint.check` of an RSA pair."""
    return sha256(modulus).digest()[:_PROOF]


def proof_of(wrapped: bytes) -> bytes:
    """`Fingerprint.proof` from `KNOWN` as it is wrapped."""
    return sha256(wrapped).digest()[:_PROOF]


def objection(expected: Fingerprints, told: Fingerprints) -> str | None:
    """Why a token that tells these domain keys is not the group's: one phrase; None where it is. Keys beyond those
    expected do not matter."""
    for key, fingerprint in expected.items():
        if key not in told:
            return f"its {key.value} domain key is missing"
        agreed = told[key].agrees(fingerprint)
        if agreed is False:
            return f"its {key.value} domain key is another one"
        if agreed is None:
            return f"its {key.value} domain key cannot be told from another one"
    return None


def needs_proof(told: Fingerprints) -> bool:
    """Whether a token tells no check value of an AES domain key."""
    return any(key in told and not told[key].check for key in AES_KEYS)


def majority(told: Sequence[Fingerprints]) -> dict[DomainKey, Fingerprint]:
    """What most members have, key by key, the first of them where as many have another: for configurations that say
    nothing of fingerprints."""
    expected = {}
    for key in DomainKey:
        counted: list[tuple[int, Fingerprint]] = []
        for fingerprint in (each[key] for each in told if key in each):
            for at, (votes, other) in enumerate(counted):
                if fingerprint.agrees(other):
                    counted[at] = (votes + 1, other.joined(fingerprint))
                    break
            else:
                counted.append((1, fingerprint))
        if counted:
            expected[key] = max(counted, key=lambda each: each[0])[1]
    return expected
