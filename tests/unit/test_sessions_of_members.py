"""Real sessions that cannot be closed at once are closed later: none is left behind on a member that was only busy."""

from typing import Any, cast

import pytest

from pyha.abi.codec import Codecs
from pyha.cryptoki import constants as ck
from pyha.cryptoki.info import TokenInfo
from pyha.runtime.member import Connection, MemberBusy
from pyha.runtime.uri import TokenUri

TOKEN = TokenInfo("a", "m", "m", "1", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (0, 0), (0, 0), "")


class Busy:
    """A member with sessions 1, 2, ...; `until`: the time at which it answers nothing but C_OpenSession before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.until = 0.0
        self.sessions: set[int] = set()
        self._opened = 0
        self.connection = Connection("a", 1, cast(Any, None), TokenUri(token="a"), Codecs(), clock=lambda: self.now)
        self.connection.token_info = TOKEN
        monkeypatch.setattr(self.connection, "call", self._call)
        monkeypatch.setattr(self.connection, "_read_token_info", self._token_info)

    def _token_info(self, slot: int, deadline: float) -> TokenInfo:
        if self.now < self.until:
            self.now = deadline
            raise MemberBusy(ck.CKR_DEVICE_ERROR)
        return TOKEN

    def _call(self, name: str, deadline: float, *values: Any) -> tuple[int, list[Any]]:
        if name == "C_OpenSession":
            self._opened += 1
            self.sessions.add(self._opened)
            return ck.CKR_OK, [None, None, None, self._opened]
        if self.now < self.until:
            self.now = deadline
            raise MemberBusy(ck.CKR_DEVICE_ERROR)
        if name == "C_CloseSession":
            self.sessions.remove(values[0])
        return ck.CKR_OK, [None] * 2


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Busy:
    return Busy(monkeypatch)


def test_a_session_whose_token_could_not_be_looked_at_in_time_is_closed_later(busy: Busy) -> None:
    busy.until = 10.0
    with pytest.raises(MemberBusy):
        busy.connection.open_session(5.0)
    assert busy.sessions == {1}, "there was no time to close it"
    busy.now = 10.0
    session = busy.connection.open_session(20.0)
    busy.connection.discard(session, 20.0)
    assert not busy.sessions


def test_a_probe_that_found_the_member_busy_leaves_no_session(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(slot: int, deadline: float) -> TokenInfo:
        busy.until = 10.0
        return TOKEN

    monkeypatch.setattr(busy.connection, "_read_token_info", late)
    assert busy.connection.alive(5.0), "it was busy, and is not lost for that"
    busy.now = 10.0
    busy.connection.discard(busy.connection.open_session(20.0), 20.0)
    assert not busy.sessions
