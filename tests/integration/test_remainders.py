"""A member has made an object and says that it failed, or does not know the handle of what it has just made any more:
nothing of it stays when the creation is begun once more or taken back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.chaos import behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import scene
from tests.integration.test_creation_heals import gone, labelled
from tests.integration.test_recovery import until
from tests.integration.test_replication_faults import MAKERS
from tests.integration.test_tombstones_applied import held, recovering, returned

Group = Callable[..., TestGroup]


@pytest.mark.parametrize(
    ("maker", "index", "call"),
    [
        ("aes", 0, "C_UnwrapKey nth=1"),
        ("aes", 1, "C_UnwrapKey nth=1"),
        ("pair", 0, "C_UnwrapKey nth=1"),
        ("pair", 1, "C_UnwrapKey nth=1"),
        ("pair", 1, "C_UnwrapKey nth=2"),
        ("pair", 0, "C_CreateObject nth=2"),
        ("pair", 1, "C_CreateObject nth=1"),
    ],
)
def test_what_was_made_all_the_same_does_not_stay(
    group: Group, tmp_path: Path, maker: str, index: int, call: str
) -> None:
    made = group(members=2, label="remains")
    plan = behind_chaos(made, tmp_path)[index]
    with scene(made) as it:
        count = 2 if maker == "pair" else 1
        entry = f"{call} once -> answer-after CKR_GENERAL_ERROR"
        plan.set(entry)
        MAKERS[maker](it.app)
        assert plan.count(entry)
        assert labelled(it, b"made") == [count, count]
        gone(it.app, b"made")
        assert labelled(it, b"made") == it.records() == [0, 0]
    assert made.logged() == ""


@pytest.mark.parametrize(
    ("maker", "index", "call"),
    [
        ("imported", 2, "C_UnwrapKey nth=2"),  # the first is tried, and in a session only
        ("repeated", 0, "C_CreateObject nth=1"),
        ("repeated", 2, "C_CreateObject nth=1"),
    ],
)
def test_of_what_may_have_been_there_before_a_resync_decides(
    group: Group, tmp_path: Path, maker: str, index: int, call: str
) -> None:
    """It is not destroyed: the application may have made another copy of the same key before."""
    made = recovering(group)
    plan = behind_chaos(made, tmp_path)[index]
    with made.application() as app:
        entry = f"{call} once -> answer-after CKR_GENERAL_ERROR"
        plan.set(entry)
        MAKERS[maker](app, b"it")
        assert plan.count(entry)
        until(made, f"member {made.tokens[index].label} lost: it may hold what it failed to make")
        returned(made, index)
        with scene(made) as it:
            assert labelled(it, b"it") == [1, 1, 1]
        gone(app, b"it")
    assert held(made) == [0] * 3


def test_without_a_name_it_is_told_by_their_number(group: Group, tmp_path: Path) -> None:
    """Of objects that are alike but for their values: one that was there before is none of its doing."""
    made = recovering(group)
    plans = behind_chaos(made, tmp_path)
    data = {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_TOKEN: True}
    with made.application() as app:
        app.create({**data, ck.CKA_VALUE: b"before"})
        for index in (2, 0):
            lost = f"member {made.tokens[index].label} lost"
            for action in ("answer", "answer-after"):
                assert lost not in made.logged()
                entry = f"C_CreateObject nth=1 once -> {action} CKR_GENERAL_ERROR"
                plans[index].set(entry)
                app.create({**data, ck.CKA_VALUE: b"%d %b" % (index, action.encode())})
                assert plans[index].count(entry)
            until(made, f"{lost}: it may hold what it failed to make")
            returned(made, index)
    with scene(made) as it:
        assert [len(member.find(data)) for member in it.members] == [5, 5, 5]
