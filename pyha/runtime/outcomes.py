"""How a creation or change can end other than well, before the application is told.

Source: SEMANTICS.md section 5.
"""

from collections.abc import Callable
from typing import TypeVar

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Route
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.verdicts import Verdict, verdict

T = TypeVar("T")

BEGINNINGS = 4
"""How often a creation or change is begun before the application gets an error for what a member forgets under it."""


class Unreplicable(Exception):
    """The key cannot be on every member: one phrase says why."""


class Refusal(Exception):
    """A member refused a step with a CK_RV that the application gets. Everything has been taken back."""

    def __init__(self, rv: int, what: str) -> None:
        super().__init__(f"{what}: {rv_name(rv)}")
        self.rv = rv


class Disturbed(Refusal):
    """A member lost a session or the login while something was made there, more than one step could heal. Everything
    has been taken back: the call may begin anew."""

    def __init__(self, rv: int, what: str) -> None:
        super().__init__(rv, what)
        # The application's own session, login and handles are as they were.
        self.rv = ck.CKR_DEVICE_ERROR


def refused(rv: int, what: str) -> Refusal:
    """The exception for a step that a member answered with `rv`, which is not CKR_OK, though it was healed once."""
    healable = verdict(Route.READ, rv) in (Verdict.SESSION_LOST, Verdict.LOGIN_LOST, Verdict.HANDLE_STALE)
    return Disturbed(rv, what) if healable else Refusal(rv, what)


def begun_anew(call: Callable[[], T]) -> T:
    """What `call` gives, begun anew where it was disturbed. Raises what it raises; Disturbed after the last time."""
    for _ in range(BEGINNINGS - 1):
        try:
            return call()
        except Disturbed:
            continue
    return call()
