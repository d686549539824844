"""What one run of the benchmark found, as values and as JSON. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from conformance.bench.findings import Filling, Idle, Pause, Scaling
from conformance.bench.slices import Slice, Spread, added, ratio

DIRECT = "direct"
"""The target that the others are compared with."""


@dataclass(frozen=True, slots=True)
class Operation:
    """`name`: the driver's. `calls`: how many calls of the module it makes. `full`: on the store with many objects."""

    name: str
    title: str
    calls: int
    full: bool = False


OPERATIONS = (
    Operation("session-info", "C_GetSessionInfo", 1),
    Operation("random-16", "C_GenerateRandom, 16 bytes", 1),
    Operation("digest-1k", "C_Digest, SHA-256, 1 KiB", 2),
    Operation("aes-cbc-1k", "C_Encrypt, AES-CBC, 1 KiB", 2),
    Operation("sign-p256", "C_Sign, ECDSA P-256", 2),
    Operation("sign-rsa2048", "C_Sign, RSA-2048", 2),
    Operation("decrypt-rsa2048", "C_Decrypt, RSA-2048", 2),
    Operation("attributes", "C_GetAttributeValue, 3 attributes", 1),
    Operation("find-one", "find 1 of {objects} objects", 3, full=True),
    Operation("find-all", "find {objects} of {objects} objects", 3, full=True),
)


@dataclass(slots=True)
class Startup:
    """Milliseconds of one process each, one entry a round."""

    load: list[float] = field(default_factory=list)
    initialize: list[float] = field(default_factory=list)
    session: list[float] = field(default_factory=list)
    login: list[float] = field(default_factory=list)

    def add(self, microseconds: Sequence[str]) -> None:
        """The driver's four numbers. Raises ValueError."""
        parts = (self.load, self.initialize, self.session, self.login)
        for part, text in zip(parts, microseconds, strict=True):
            part.append(float(text) / 1000)

    @property
    def total(self) -> list[float]:
        """From loading the module to the end of C_Login."""
        return [sum(parts) for parts in zip(self.load, self.initialize, self.session, self.login, strict=True)]


@dataclass(frozen=True, slots=True)
class Memory:
    """Proportional set size, KiB. `helpers`: of all processes that serve the application, summed."""

    application: int
    helpers: int


@dataclass(frozen=True, slots=True)
class Crowd:
    """With so many idle sessions: `opening` is microseconds to open one, the others of the median operation."""

    sessions: int
    opening: float
    session_info: float
    random: float
    sign: float


@dataclass(slots=True)
class Result:
    """`targets`: names in order. `slices`: operation, threads, target to one slice a round, None where it failed.
    `objects`: in the store for searches. `failures`: why something was not measured. `scaling`, `pauses`, `idle`,
    `resync`: of parts that ran."""

    targets: list[str]
    machine: str
    threads: list[int]
    rounds: int
    milliseconds: int
    objects: int
    slices: dict[tuple[str, int, str], list[Slice | None]] = field(default_factory=dict)
    startup: dict[str, Startup] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    crowd: dict[str, list[Crowd]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    scaling: Scaling | None = None
    pauses: list[Pause] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)
    resync: list[Filling] = field(default_factory=list)

    def title(self, operation: Operation) -> str:
        """For people."""
        return operation.title.format(objects=f"{self.objects:,}")

    def rates(self, operation: str, threads: int, target: str) -> Spread | None:
        """Operations a second."""
        return _spread([one.rate for one in self._of(operation, threads, target) if one])

    def typical(self, operation: str, threads: int, target: str) -> Spread | None:
        """Microseconds of the median operation."""
        return _spread([one.typical for one in self._of(operation, threads, target) if one])

    def ratio(self, operation: str, threads: int, target: str) -> float | None:
        """Rate as a part of the direct one's."""
        return ratio(self._of(operation, threads, target), self._of(operation, threads, DIRECT))

    def added(self, operation: Operation, threads: int, target: str) -> float | None:
        """Microseconds a call over direct."""
        mine, direct = self._of(operation.name, threads, target), self._of(operation.name, threads, DIRECT)
        return added(mine, direct, operation.calls)

    def _of(self, operation: str, threads: int, target: str) -> list[Slice | None]:
        return self.slices.get((operation, threads, target), [None] * self.rounds)

    def document(self) -> dict[str, Any]:
        """For JSON: what was measured, nothing derived but the medians."""
        return {
            "machine": self.machine,
            "targets": self.targets,
            "rounds": self.rounds,
            "slice_milliseconds": self.milliseconds,
            "objects": self.objects,
            "operations": [self._row(operation, threads) for operation in OPERATIONS for threads in self.threads],
            "startup_milliseconds": {
                name: {"load": one.load, "initialize": one.initialize, "session": one.session, "login": one.login}
                for name, one in self.startup.items()
            },
            "memory_kib": {
                name: {"application": one.application, "helpers": one.helpers} for name, one in self.memory.items()
            },
            "sessions": {
                name: [{field: getattr(one, field) for field in Crowd.__slots__} for one in many]
                for name, many in self.crowd.items()
            },
            "members_with_latency": self.scaling and self.scaling.document(),
            "pauses": [pause.document() for pause in self.pauses],
            "idle": [asdict(one) for one in self.idle],
            "resync_seconds": [filling.document() for filling in self.resync],
            "failures": self.failures,
        }

    def _row(self, operation: Operation, threads: int) -> dict[str, Any]:
        targets: dict[str, Any] = {}
        for target in self.targets:
            rates = self.rates(operation.name, threads, target)
            typical = self.typical(operation.name, threads, target)
            if rates and typical:
                targets[target] = {
                    "rates": [one and round(one.rate, 1) for one in self._of(operation.name, threads, target)],
                    "rate": round(rates.median, 1),
                    "microseconds": round(typical.median, 3),
                    "of_direct": self.ratio(operation.name, threads, target),
                    "added_microseconds_a_call": self.added(operation, threads, target),
                }
        return {"operation": operation.name, "calls": operation.calls, "threads": threads, "targets": targets}


def _spread(values: list[float]) -> Spread | None:
    return Spread.of(values) if values else None
