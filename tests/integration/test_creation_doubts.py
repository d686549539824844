"""A member that is alive fails at a step of a creation without saying why, as SoftHSM does now and then while another
process changes the token: the creation is taken back and begun once more, and the application sees nothing of it.

With PYHA_EVERY_CALL set in the environment no call is left out; else every third is tried, from another on in each
test.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.application import Answered
from tests.chaos import Plan, behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import scene
from tests.integration.test_creation_heals import gone, labelled
from tests.integration.test_replication_faults import MAKERS, aes

Group = Callable[..., TestGroup]

_STEP = 1 if "PYHA_EVERY_CALL" in os.environ else 3
_PROVING = ("C_SignInit", "C_Sign", "C_VerifyInit", "C_Verify")
_STEPS = {
    "aes": ("C_GenerateKey", "C_WrapKey", "C_CreateObject", "C_UnwrapKey", "C_SetAttributeValue"),
    "pair": ("C_GenerateKeyPair", "C_WrapKey", "C_CreateObject", "C_UnwrapKey", *_PROVING),
    "decrypting": ("C_Sign", "C_VerifyInit"),
    "imported": ("C_CreateObject", "C_GetAttributeValue"),
    "repeated": ("C_CreateObject",),
}
"""Maker -> the functions of its creation at which nothing but the creation is at stake."""


def at_each_call(plan: Plan, functions: tuple[str, ...], answer: str, first: int) -> Iterator[str]:
    """The entry that is met by one call of the functions, one after the other, until there are no more calls of any."""
    for at, function in enumerate(functions):
        nth, fired = (first + at) % _STEP + 1, True
        while fired:
            entry = f"{function} nth={nth} once -> answer {answer}"
            plan.set(entry)
            yield entry
            fired, nth = bool(plan.count(entry)), nth + _STEP


@pytest.mark.parametrize(
    ("maker", "index", "answer", "first"),
    [
        ("aes", 0, "CKR_GENERAL_ERROR", 0),
        ("aes", 1, "CKR_FUNCTION_FAILED", 2),
        ("pair", 1, "CKR_DEVICE_ERROR", 0),
        ("decrypting", 1, "CKR_GENERAL_ERROR", 2),
        ("imported", 1, "CKR_GENERAL_ERROR", 1),
        ("repeated", 0, "CKR_GENERAL_ERROR", 0),
        ("repeated", 1, "CKR_GENERAL_ERROR", 0),
    ],
)
def test_a_failure_without_a_reason_is_not_the_applications(
    group: Group, tmp_path: Path, maker: str, index: int, answer: str, first: int
) -> None:
    made = group(members=2, label="doubts")
    plan = behind_chaos(made, tmp_path)[index]
    with scene(made) as it:
        count = 1 if maker in ("aes", "imported", "repeated") else 2
        records = [0, 0] if maker == "repeated" else [1, 1]
        met = 0
        for entry in at_each_call(plan, _STEPS[maker], answer, first):
            MAKERS[maker](it.app)
            met += plan.count(entry)
            plan.set()
            assert labelled(it, b"made") == [count, count], entry
            assert it.records() == records, entry
            gone(it.app, b"made")
            assert labelled(it, b"made") == it.records() == [0, 0], entry
        assert met
    assert made.logged() == "", "no member was lost, and nothing refused"


@pytest.mark.parametrize("step", ["C_CreateObject", "C_UnwrapKey"])
def test_a_failure_that_stays_is_the_answer_and_leaves_nothing(group: Group, tmp_path: Path, step: str) -> None:
    made = group(members=2, label="doubts")
    plans = behind_chaos(made, tmp_path)
    with scene(made) as it:
        before = it.inventory()
        for answer, times in (("CKR_GENERAL_ERROR", 2), ("CKR_DEVICE_MEMORY", 1)):
            entry = f"{step} -> answer {answer}"
            plans[1].set(entry)
            with pytest.raises(Answered, match=answer):
                aes(it.app)
            assert plans[1].count(entry) == times, "begun once more, and not again; what has a reason not even once"
            plans[1].set()
            assert it.inventory() == before
        assert " lost" not in made.logged()
        assert it.app.read(aes(it.app), ck.CKA_LABEL)[ck.CKA_LABEL] == b"made"
