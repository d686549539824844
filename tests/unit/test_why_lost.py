"""Why a member was lost, as each call says that was inside: what ended it, and not that it ended under this one too."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from pyha.abi.codec import Codecs
from pyha.abi.link import LinkBusy, LinkDead, LinkLate
from pyha.cryptoki.functions import BY_NAME
from pyha.runtime.member import Connection, MemberLost
from pyha.runtime.uri import TokenUri

LATE = "C_Sign did not return within its deadline"


class Inside:
    """A link with a call inside of it. `meanwhile`: what another thread does; then it ends in this way."""

    def __init__(self, ends: Exception, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._ends = ends
        self._meanwhile = meanwhile

    def straight(self, *of: object) -> int:
        self._meanwhile()
        raise self._ends

    def close(self, at_once: bool) -> bool:
        return False


class Starting:
    """The link of a helper that has just been started, and gives no memory for a call in the time that is left."""

    closed = False

    def arena(self, *of: object) -> Any:
        raise LinkBusy

    def close(self, at_once: bool) -> bool:
        self.closed = True
        return False


@pytest.fixture
def connection() -> Connection:
    return Connection("a", 1, cast(Any, None), TokenUri(token="a"), Codecs())


def says(connection: Connection, name: str, ends: Exception, meanwhile: Callable[[], object] = lambda: None) -> str:
    """Why a call of this function found the member lost."""
    connection._link = cast(Any, Inside(ends, meanwhile))
    with pytest.raises(MemberLost) as lost:
        connection.straight(BY_NAME[name], cast(Any, None), None, 1, 2, 9.0)
    return str(lost.value)


@pytest.mark.parametrize("busy", [False, True])
def test_who_took_all_its_time_to_start(busy: bool) -> None:
    """It is lost, as whoever does not start is, and not one that others keep busy."""
    link, now = Starting(), [0.0]

    def start(deadline: float) -> Any:
        now[0] = 1.0 if busy else deadline
        return link

    slow = Connection("a", 1, start, TokenUri(token="a"), Codecs(), clock=lambda: now[0])
    with pytest.raises(MemberLost, match="did not start within its deadline"):
        slow.connect(9.0)
    assert link.closed


def test_by_itself(connection: Connection) -> None:
    assert says(connection, "C_Sign", LinkLate()) == LATE


def test_what_was_inside_when_a_hung_member_was_ended(connection: Connection) -> None:
    late: list[str] = []
    said = says(connection, "C_Digest", LinkDead(), lambda: late.append(says(connection, "C_Sign", LinkLate())))
    assert [*late, said] == [LATE, LATE]


def test_what_was_inside_when_another_answered_that_it_is_gone(connection: Connection) -> None:
    why = "C_Sign answered CKR_DEVICE_REMOVED"
    assert says(connection, "C_Digest", LinkDead(), lambda: connection.close(why)) == why


def test_the_call_that_crashed_it_says_so_whoever_was_first(connection: Connection) -> None:
    innocent: list[str] = []
    said = says(
        connection,
        "C_Digest",
        LinkDead(culprit=True),
        lambda: innocent.append(says(connection, "C_Sign", LinkDead())),
    )
    assert (*innocent, said) == ("its helper ended during C_Sign", "its helper crashed in C_Digest")


def test_whoever_comes_later(connection: Connection) -> None:
    says(connection, "C_Sign", LinkLate())
    with pytest.raises(MemberLost, match=LATE):
        connection.call("C_GetSlotList", 9.0, 1, None)
