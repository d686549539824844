"""A member that only says to have changed an object is out until it has, and a change that nobody has made is none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.application import Answered
from tests.chaos import behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import scene
from tests.integration.test_recovery import until
from tests.integration.test_tombstones_applied import aes, recovering, returned

Group = Callable[..., TestGroup]
LIES = "C_SetAttributeValue -> answer CKR_OK"


def test_a_member_that_only_says_so(group: Group, tmp_path: Path) -> None:
    """The primary, and another."""
    made = recovering(group)
    plans = behind_chaos(made, tmp_path)
    with made.application() as app:
        key, label = aes(app), b"it"
        for index, usage in ((0, ck.CKA_ENCRYPT), (1, ck.CKA_DECRYPT)):
            name, before, label = made.tokens[index].label, label, b"new %d" % index
            plans[index].set(LIES)
            app.set(key, {ck.CKA_LABEL: label, usage: False})
            assert f"member {name} lost" in made.logged()
            until(made, f"on {name}: it cannot be changed: C_SetAttributeValue (answered CKR_OK")
            assert app.find({ck.CKA_LABEL: before}) == []
            assert app.find({ck.CKA_LABEL: label, usage: False}) == [key]
            plans[index].set()
            returned(made, index)
            assert app.find({ck.CKA_LABEL: label, usage: False}) == [key]
    with scene(made) as it:
        assert it.alike(b"new 1", ck.CKA_ENCRYPT, ck.CKA_DECRYPT) == [b"\0", b"\0"]
        assert it.inventory()[0] == it.inventory()[1] == it.inventory()[2]


def test_what_no_member_has_changed_is_not_said_to_be(group: Group, tmp_path: Path) -> None:
    made = group(label="applied")
    plans = behind_chaos(made, tmp_path)
    with scene(made) as it:
        key = aes(it.app)
        before = it.inventory()
        for plan in plans:
            plan.set(LIES)
        with pytest.raises(Answered, match="CKR_FUNCTION_FAILED"):
            it.app.set(key, {ck.CKA_LABEL: b"new"})
        assert it.inventory() == before
        assert "lost" not in made.logged(), made.logged()
        for plan in plans:
            plan.set()
        it.app.set(key, {ck.CKA_LABEL: b"new"})
        it.everywhere(b"new")
