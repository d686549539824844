"""What C_GetInfo, C_GetSlotInfo, C_GetTokenInfo, C_GetSessionInfo and C_GetMechanismInfo tell, as plain values.

Pure data. Text is without its blank padding; versions are (major, minor); `flags` are the CKF_ bits as they are. Counts
and sizes may be CK_UNAVAILABLE_INFORMATION (2**64 - 1) or CK_EFFECTIVELY_INFINITE (0), and are kept so.

Source: PKCS #11 Base Specification 2.40, sections 3.1 to 3.4.
"""

from pyha.cryptoki.plain import dataclass

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Info:
    """CK_INFO. Longest texts, in bytes of UTF-8: manufacturer 32, description 32."""

    cryptoki_version: Version
    manufacturer: str
    flags: int
    description: str
    library_version: Version


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """CK_SLOT_INFO. Longest texts, in bytes of UTF-8: description 64, manufacturer 32."""

    description: str
    manufacturer: str
    flags: int
    hardware_version: Version
    firmware_version: Version


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """CK_TOKEN_INFO. Longest texts, in bytes of UTF-8: label 32, manufacturer 32, model 16, serial 16, time 16
    (YYYYMMDDhhmmss00 where CKF_CLOCK_ON_TOKEN). PIN lengths and memory sizes are bytes."""

    label: str
    manufacturer: str
    model: str
    serial: str
    flags: int
    max_sessions: int
    sessions: int
    max_rw_sessions: int
    rw_sessions: int
    max_pin: int
    min_pin: int
    total_public_memory: int
    free_public_memory: int
    total_private_memory: int
    free_private_memory: int
    hardware_version: Version
    firmware_version: Version
    time: str


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """CK_SESSION_INFO. `state`: CKS_. `device_error`: the token's own."""

    slot: int
    state: int
    flags: int
    device_error: int


@dataclass(frozen=True, slots=True)
class MechanismInfo:
    """CK_MECHANISM_INFO. Key sizes in bits or bytes, as the mechanism has it."""

    min_key_size: int
    max_key_size: int
    flags: int
