"""A rehearsal: the virtual slot over three members that obey plans, as a user of `pyha chaos` has it."""

import hashlib
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.application import Answered
from tests.chaos import Plan, behind_chaos
from tests.client import client, ec_pair, helpers
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import P256, STAYS, scene

Group = Callable[..., TestGroup]
OK = ck.CKR_OK


def rehearsal(group: Group, tmp_path: Path, deadline: float = 20.0) -> tuple[TestGroup, list[Plan]]:
    made = group(label="rehearsal")
    made.reconfigure(lambda settings: replace(settings, deadline=deadline))
    return made, behind_chaos(made, tmp_path)


def lost(made: TestGroup) -> list[int]:
    """Members that the log calls lost, in that order."""
    names = [token.label for token in made.tokens]
    lines = [line for line in made.logged().splitlines() if " lost: " in line]
    return [names.index(line.partition("member ")[2].partition(" lost")[0]) for line in lines]


def test_a_hang_and_a_device_that_is_removed(group: Group, tmp_path: Path) -> None:
    made, plans = rehearsal(group, tmp_path, deadline=1.0)
    with client(made.module, made.environment) as app:
        slot = app.slot_of(made.label)
        session = app.logged_in(slot)
        _, private = ec_pair(app, session)
        sessions = [app.open(slot)[1] for _ in range(6)]

        def sign() -> list[int]:
            """All sessions have their operations open at once, so that every member that is in has some."""
            started = [app.start("Sign", each, ck.CKM_ECDSA, private) for each in sessions]
            assert started == [OK] * len(sessions)
            return [app.out("Sign", each, bytes(32))[0] for each in sessions]

        plans[1].set("C_Sign nth=1 -> hang")
        assert sign() == [OK] * 6
        assert lost(made) == [1]
        assert "C_Sign did not return within its deadline" in made.logged()
        assert set(helpers(made.label)) == {made.tokens[0].label, made.tokens[2].label}

        plans[2].set("C_Sign -> dead CKR_DEVICE_REMOVED")
        assert sign() == [OK] * 6
        assert lost(made) == [1, 2]
        assert [plan.fired() for plan in plans] == [[], ["C_Sign"], ["C_Sign"]]
        assert sign() == [OK] * 6


def test_a_stopped_helper_is_found_out_by_a_call_that_is_larger_than_any_before(group: Group, tmp_path: Path) -> None:
    """It has to give memory for the call before it could be given the call."""
    made, plans = rehearsal(group, tmp_path, deadline=2.0)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(made.label))
        for plan in plans:
            plan.set("C_DigestInit -> delay 0")
        assert app.start("Digest", session, ck.CKM_SHA256) == OK
        (index,) = (at for at, plan in enumerate(plans) if plan.fired())
        os.kill(helpers(made.label)[made.tokens[index].label], signal.SIGSTOP)
        data = bytes(300_000)
        assert app.out("Digest", session, data) == (OK, 32, hashlib.sha256(data).digest())
        assert lost(made) == [index]


def test_a_member_without_a_free_place_costs_no_other_member(group: Group, tmp_path: Path) -> None:
    """An operation that leaves it waits there once more, to close its session: that time is not the next one's."""
    made, plans = rehearsal(group, tmp_path, deadline=1.0)
    made.reconfigure(lambda settings: replace(settings, max_in_flight=1))
    with client(made.module, made.environment) as app, ThreadPoolExecutor(1) as pool:
        slot = app.slot_of(made.label)
        session = app.logged_in(slot)
        sessions = [app.open(slot)[1] for _ in range(6)]
        assert [app.start("Digest", each, ck.CKM_SHA256) for each in sessions] == [OK] * 6
        plans[0].set("C_GenerateKeyPair -> delay 4000")
        making = pool.submit(ec_pair, app, session)
        plans[0].wait_for("C_GenerateKeyPair")
        for each in sessions:
            assert app.out("Digest", each, b"x") == (OK, 32, hashlib.sha256(b"x").digest())
        making.result()
        assert lost(made) == []


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_key_whose_proof_is_corrupted_is_refused_and_nothing_is_left(
    group: Group, tmp_path: Path, index: int
) -> None:
    made, plans = rehearsal(group, tmp_path)
    public = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_LABEL: b"made"}
    private = {**STAYS, ck.CKA_LABEL: b"made", ck.CKA_SIGN: True}
    with scene(made) as it:
        before = it.inventory()
        plans[index].set("C_Sign -> corrupt")
        with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
            it.app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, private)
        assert set(plans[index].fired()) == {"C_Sign"}
        assert it.inventory() == before
        assert lost(made) == []
        plans[index].set()
        it.app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, private)
        it.everywhere(b"made", 2)


def test_another_key_in_place_of_the_copy_is_refused(group: Group, tmp_path: Path) -> None:
    made, plans = rehearsal(group, tmp_path)
    template = {**STAYS, ck.CKA_VALUE_LEN: 32, ck.CKA_ENCRYPT: True}
    with scene(made) as it:
        it.app.generate(ck.CKM_AES_KEY_GEN, template)
        before = it.inventory()
        plans[1].set("C_UnwrapKey once -> substitute")
        with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
            it.app.generate(ck.CKM_AES_KEY_GEN, template)
        assert plans[1].fired() == ["C_UnwrapKey"]
        assert it.inventory() == before
