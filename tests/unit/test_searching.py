"""What a search leaves out, alone: the group's own objects, whoever is logged in as far as we know."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Template
from pyha.ha.domain import domain_search, record_search
from pyha.runtime import scattered, searching
from pyha.runtime.member import MemberLost

GROUP = bytes(16)


def test_own_objects_are_hidden_while_a_login_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread is inside C_Login: the member shows private objects already, the group says nobody is in."""
    on_token = {domain_search(GROUP): [1, 2], record_search(): [3]}

    def search(connection: object, session: int, template: Template, deadline: float) -> list[int]:
        return on_token[template]

    monkeypatch.setattr(searching, "search", search)
    group = SimpleNamespace(raw=False, user=None, settings=SimpleNamespace(id=GROUP))
    assert searching._hidden(cast(Any, group), cast(Any, None), 1, (), 0.0) == {1, 2, 3}


def test_a_search_ends_two_helpers_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Session objects are looked for where they live; who is lost there is looked for elsewhere, and so on."""
    lost: list[int] = []

    def dies(connection: object, deadline: float) -> Any:
        raise MemberLost("it died", culprit=True)

    def found(group: object, call: Any) -> tuple[int, list[int]]:
        call.index = 0
        return ck.CKR_OK, []

    monkeypatch.setattr(scattered, "housekeeping", dies)
    monkeypatch.setattr(searching, "run", found)
    group = SimpleNamespace(
        objects=SimpleNamespace(
            of_sessions=lambda: [SimpleNamespace(home=(index, 1), kept=1) for index in (1, 2, 3) if index not in lost]
        ),
        connections=[SimpleNamespace(generation=1)] * 4,
        deadline=lambda: 0.0,
        lost=lambda index, generation, reason: lost.append(index),
    )
    session = SimpleNamespace(found=None)
    values = [1, ()]
    assert searching.find(cast(Any, group), cast(Any, session), cast(Any, None), values) == ck.CKR_DEVICE_ERROR
    assert len(lost) == 2
    assert session.found is None


def test_the_reading_of_many_objects_has_more_than_the_time_of_one_call() -> None:
    """Each part of it the time of one, up to that of a slow call; then no call is begun that would seem late."""
    now = 100.0
    settings = SimpleNamespace(deadline=2.0, slow_deadline=10.0)
    group = SimpleNamespace(settings=settings, clock=lambda: now, deadline=lambda: now + 2.0)
    in_time = searching._anew(cast(Any, group), 102.0)
    assert in_time() == 102.0
    now = 100.9
    assert in_time() == 102.0
    now = 101.5
    assert in_time() == 103.5
    now = 109.9
    assert in_time() == 111.9
    now = 110.1
    assert in_time() == now
