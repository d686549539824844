"""Where a strategy of cloning works: one real session of one member of a group, and until when.

Source: SEMANTICS.md section 4 (all steps of one call on one member share one deadline).
"""

from pyha.cryptoki.plain import dataclass, replace
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection


@dataclass(frozen=True, slots=True)
class Bench:
    """`session`: a real one of `connection`. `deadline`: on the group's clock."""

    group: GroupRuntime
    connection: Connection
    session: int
    deadline: float

    def on(self, session: int) -> "Bench":
        """The same with another session of the member."""
        return replace(self, session=session)
