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


_WITHOUT_REASON = frozenset({ck.CKR_GENERAL_ERROR, ck.CKR_FUNCTION_FAILED, ck.CKR_DEVICE_ERROR})
"""What a module answers that does not know why: SoftHSM now and then while another process changes the token. Not what
says that there is no memory: that will be so the next time."""


def is_without_reason(rv: int) -> bool:
    """Whether this answer (CK_RV) of a member that is alive says nothing of the call itself."""
    return rv in _WITHOUT_REASON


class Unreplicable(Exception):
    """The key cannot be on every member: one phrase says why. `doubtful`: what said so may have been a member's failure
    without a reason, so that it is worth beginning once more."""

    def __init__(self, why: str, doubtful: bool = False) -> None:
        super().__init__(why)
        self.doubtful = doubtful


class Refusal(Exception):
    """A member refused a step with a CK_RV that the application gets. Everything has been taken back."""

    doubtful = False

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


class Doubtful(Refusal):
    """A member that is alive failed at a step and gave no reason. Everything has been taken back: the call may begin
    once more."""

    doubtful = True


def refused(rv: int, what: str) -> Refusal:
    """The exception for a step that a member answered with `rv`, which is not CKR_OK, though it was healed once."""
    if is_without_reason(rv):
        return Doubtful(rv, what)
    healable = verdict(Route.READ, rv) in (Verdict.SESSION_LOST, Verdict.LOGIN_LOST, Verdict.HANDLE_STALE)
    return Disturbed(rv, what) if healable else Refusal(rv, what)


def begun_anew(call: Callable[[], T]) -> T:
    """What `call` gives, begun anew where it was disturbed, and once where its outcome is in doubt. Raises what it
    raises; Disturbed after the last time."""
    doubted = False
    for _ in range(BEGINNINGS - 1):
        try:
            return call()
        except Disturbed:
            continue
        except (Refusal, Unreplicable) as doubt:
            if doubted or not doubt.doubtful:
                raise
            doubted = True
    return call()
