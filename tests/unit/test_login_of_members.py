"""Logging a member in to the application's own login: once, whoever asks, and never behind a refusal."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from pyha.cryptoki import constants as ck
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection, LoginRefused
from pyha.runtime.settings import GroupSettings, MemberSettings
from pyha.runtime.uri import TokenUri


class FakeConnection:
    """A member that takes its time to refuse, or to accept, a login."""

    def __init__(self, refuses: bool) -> None:
        self.generation = 0
        self.stranger = ""
        self.refused: Any = None
        self.logged_in: int | None = None
        self.tries: list[Any] = []
        self.closed = False
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self._refuses = refuses
        self._lock = threading.RLock()

    @contextmanager
    def logging_in(self, deadline: float) -> Iterator[None]:
        with self._lock:
            yield

    def login_again(self, user: int, pin: Any, deadline: float) -> None:
        self.tries.append(pin)
        self.entered.set()
        assert self.go_on.wait(30)
        if self._refuses:
            raise LoginRefused("login refused: C_Login answered CKR_PIN_INCORRECT")
        self.logged_in = user

    def close(self, cause: str) -> None:
        self.closed = True


def group_of(connection: FakeConnection, pin: Any) -> GroupRuntime:
    settings = GroupSettings("g", bytes(16), "1", (MemberSettings(TokenUri(token="a"), "a"),))
    group = GroupRuntime(settings, 1, lambda index, generation: cast(Connection, connection))
    group.connections[0] = cast(Connection, connection)
    group.user, group.pin = ck.CKU_USER, pin
    return group


def eight_ask(connection: FakeConnection, group: GroupRuntime) -> list[bool]:
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(group.log_in_member(0, cast(Connection, connection), 60.0)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    assert connection.entered.wait(30)
    connection.go_on.set()
    for thread in threads:
        thread.join(30)
    return answers


def test_threads_together_cost_one_try_where_the_pin_was_changed() -> None:
    connection = FakeConnection(refuses=True)
    assert eight_ask(connection, group_of(connection, "kept")) == [False] * 8
    assert connection.tries == ["kept"]
    assert connection.closed


def test_threads_together_log_in_once() -> None:
    connection = FakeConnection(refuses=False)
    assert eight_ask(connection, group_of(connection, "kept")) == [True] * 8
    assert connection.tries == ["kept"]


def test_a_pin_that_was_entered_at_the_token_is_asked_for_in_c_login_only() -> None:
    connection = FakeConnection(refuses=False)
    connection.go_on.set()
    group = group_of(connection, None)
    assert not group.log_in_member(0, cast(Connection, connection), 60.0)
    assert connection.tries == []
    group = group_of(connection, None)
    assert group.log_in_member(0, cast(Connection, connection), 60.0, present=True)
    assert connection.tries == [None]
