"""The configuration as values: the groups, their members and where to log.

Pure. Knows nothing of TOML or of files; `pyha.runtime.schema` reads these values from a document and checks them.
Defaults are those of SEMANTICS.md.
"""

from collections.abc import Mapping
from enum import StrEnum

from pyha.cryptoki.plain import dataclass, field
from pyha.ha.fingerprints import Fingerprints
from pyha.ha.settings import Isolation, ParameterForm, RecoverySettings, Role, TokenSnapshot, Unreplicable
from pyha.runtime.uri import TokenUri


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """One token of a group.

    `uri`: states the token (token, serial ...), `module_path` (absolute) and perhaps `pin_source`; never a PIN. `name`:
    unique within the group; what logs, status and the operator's commands call the member. `enabled`: False takes the
    member out until the operator says otherwise. `recover`: raised whenever the operator wants a running application to
    try the member now. `reserved`: C_Initialize's pReserved string. `environment`: set for
    the member's helper on top of the application's.
    """

    uri: TokenUri
    name: str
    role: Role = Role.ACTIVE
    enabled: bool = True
    recover: int = 0
    reserved: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def recorded_as(self) -> str:
        """What records on tokens call the member: its token's serial; its name where the URI states none."""
        return self.uri.serial or self.name


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """One virtual token.

    `label`: 32 bytes of UTF-8 at most. `id`: 16 bytes that name the group's domain keys and records. `serial`: 16 ASCII
    characters at most. `members`: in configured order, the disabled ones too. `deadline`, `slow_deadline`: seconds for
    an ordinary call on one member, and for one that the table calls slow. `max_in_flight`: calls at once on one member.
    `journal_limit`: bytes of an operation's data that are kept to say them again to another member.
    `mechanisms`: vendor mechanisms that the operator declares. `token`: None until a member was reached. `domain`: the
    domain keys' fingerprints, empty where nobody wrote them down.
    """

    label: str
    id: bytes
    serial: str
    members: tuple[MemberSettings, ...]
    isolation: Isolation = Isolation.PROCESS
    deadline: float = 20.0
    slow_deadline: float = 120.0
    max_in_flight: int = 64
    journal_limit: int = 4 << 20
    unreplicable: Unreplicable = Unreplicable.REFUSE
    recovery: RecoverySettings = field(default_factory=RecoverySettings)
    mechanisms: Mapping[int, ParameterForm] = field(default_factory=dict, hash=False)
    token: TokenSnapshot | None = None
    domain: Fingerprints = field(default_factory=dict, hash=False)


class LogLevel(StrEnum):
    """The least important lines that are written. `NOTICE`: also what each member served, at C_Finalize."""

    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class Configuration:
    """A whole file. `ha_only`: the members' own slots are hidden. `log`: "stderr", "syslog", "none" or
    "file:/absolute/path". `log_level`: what is written there. `status_directory`: absolute, where processes publish
    their status before they try other places."""

    groups: tuple[GroupSettings, ...] = ()
    ha_only: bool = True
    log: str = "stderr"
    log_level: LogLevel = LogLevel.WARNING
    status_directory: str | None = None
