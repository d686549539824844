"""What a search leaves out, alone: the group's own objects, whoever is logged in as far as we know."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pyha.cryptoki.values import Template
from pyha.ha.domain import domain_search, record_search
from pyha.runtime import searching

GROUP = bytes(16)


def test_own_objects_are_hidden_while_a_login_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread is inside C_Login: the member shows private objects already, the group says nobody is in."""
    on_token = {domain_search(GROUP): [1, 2], record_search(): [3]}

    def search(connection: object, session: int, template: Template, deadline: float) -> list[int]:
        return on_token[template]

    monkeypatch.setattr(searching, "search", search)
    group = SimpleNamespace(raw=False, user=None, settings=SimpleNamespace(id=GROUP))
    assert searching._hidden(cast(Any, group), cast(Any, None), 1, (), 0.0) == {1, 2, 3}
