"""That a slot still holds the token that a member was connected for: asked before a PIN goes there, or an object.

Knows what a token says of itself, and how often SoftHSM fails to say it; knows neither the group nor what follows from
another token (`pyha.runtime.member`, `pyha.runtime.group`).

Sources: SEMANTICS.md section 4 (a token that was replaced or initialised anew); REPLICATION.md (quirks: token info).
"""

import time
from collections.abc import Callable

from pyha.cryptoki.info import TokenInfo

INFO_TRIES = 20  # a second: where many processes log in at once, more than half of the answers are errors
PAUSES = (0.005, 0.01, 0.02, 0.05)
_SURE = 3  # so often in a row another token has to be seen: who is believed out comes back by the operator's hand alone

STRANGER = "not a member any more: its slot has another token"

Read = Callable[[], TokenInfo | None]
"""C_GetTokenInfo of the slot, None where the module could not say."""


def read_at_ease(read: Read, late: Callable[[], bool]) -> TokenInfo | None:
    """The token's info, asked for until the module can tell it; None where it cannot for a second, or it is `late`."""
    for attempt in range(INFO_TRIES):
        info = read()
        if info is not None or late():
            return info
        pause(attempt)
    return None


def stranger(expected: TokenInfo, read: Read, late: Callable[[], bool], at_ease: bool) -> tuple[str, bool]:
    """(STRANGER where the slot has another token than the one expected, else nothing; whether it could be read at all).
    `at_ease`: as `read_at_ease`, else what cannot be read at once is not asked again."""
    for attempt in range(_SURE):
        info = read_at_ease(read, late) if at_ease or attempt else read()
        if info is None:
            return "", False
        if same(expected, info):
            return "", True
        if attempt < _SURE - 1:
            pause(attempt)
    return STRANGER, True


def pause(attempt: int) -> None:
    """Between two questions, a little longer each time."""
    time.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])


def same(expected: TokenInfo, info: TokenInfo) -> bool:
    """Whether both describe one token. The label is not compared: a vendor's tool may change it, and it says nothing of
    what is on the token."""
    return (info.serial, info.manufacturer, info.model) == (expected.serial, expected.manufacturer, expected.model)
