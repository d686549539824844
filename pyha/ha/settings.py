"""The operator's choices that decisions depend on, and what is known of a token while no member can be asked.

Pure values. Knows nothing of the file they come from (`pyha.runtime.config`) nor of URIs, paths and PIN sources.
Defaults are those of SEMANTICS.md.
"""

from enum import StrEnum

from pyha.cryptoki.plain import dataclass


class Role(StrEnum):
    """A member's place in its group. Standby members serve only while no active one is left (SEMANTICS.md section
    4)."""

    ACTIVE = "active"
    STANDBY = "standby"


class Isolation(StrEnum):
    """Where a member's module runs: in a helper process, or inside the application without deadline or crash
    protection."""

    PROCESS = "process"
    NONE = "none"


class Unreplicable(StrEnum):
    """What becomes of a key that cannot be cloned: a clear error, or it is kept on one member (SEMANTICS.md section
    5)."""

    REFUSE = "refuse"
    PIN = "pin"


class RecoveryMode(StrEnum):
    """Who tries lost members again: a thread, the application's next call, or only the operator's command."""

    BACKGROUND = "background"
    ON_CALL = "on-call"
    MANUAL = "manual"


class ParameterForm(StrEnum):
    """A vendor mechanism's parameter as the operator declares it: absent, or bytes without any pointer in them."""

    NONE = "none"
    FLAT = "flat"


@dataclass(frozen=True, slots=True)
class RecoverySettings:
    """`interval`: seconds between attempts. `attempts`: -1 without end, 0 off, else how many."""

    mode: RecoveryMode = RecoveryMode.BACKGROUND
    interval: float = 60.0
    attempts: int = -1


@dataclass(frozen=True, slots=True)
class MechanismSnapshot:
    """One mechanism as a token offers it: CK_MECHANISM_TYPE, and CK_MECHANISM_INFO's key sizes (in the mechanism's own
    unit) and flags."""

    type: int
    minimum: int
    maximum: int
    flags: int


@dataclass(frozen=True, slots=True)
class TokenSnapshot:
    """What is answered for a group before any member was reached: parts of CK_TOKEN_INFO, and the mechanisms that all
    members offer. `flags`: CKF_ of the token. `pin_minimum`, `pin_maximum`: bytes. Versions: (major, minor)."""

    manufacturer: str
    model: str
    flags: int
    pin_minimum: int
    pin_maximum: int
    hardware_version: tuple[int, int]
    firmware_version: tuple[int, int]
    mechanisms: tuple[MechanismSnapshot, ...]
