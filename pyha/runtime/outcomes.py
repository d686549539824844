"""How a creation or change can end other than well, before the application is told.

Source: SEMANTICS.md section 5.
"""

from pyha.cryptoki.names import rv_name


class Unreplicable(Exception):
    """The key cannot be on every member: one phrase says why."""


class Refusal(Exception):
    """A member refused a step with a CK_RV that the application gets. Everything has been taken back."""

    def __init__(self, rv: int, what: str) -> None:
        super().__init__(f"{what}: {rv_name(rv)}")
        self.rv = rv
