"""A search whose objects are read in series, and a member that fails in the middle: nothing is lost or made up."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.abi.link_tools import start
from tests.chaos import Plan, behind_chaos
from tests.client import Client, client
from tests.integration.conftest import DEMO, TestGroup

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
COUNT = 12
MINE = {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_APPLICATION: b"mine"}


@dataclass
class Scene:
    """An application that has found nothing yet, of a group whose members all hold the same. `plans`: theirs."""

    made: TestGroup
    plans: list[Plan]
    app: Client
    session: int

    def labels(self) -> list[bytes]:
        """What one search finds, told by the labels."""
        rv, found = self.app.find(self.session, MINE)
        assert rv == OK, hex(rv)
        return sorted(self.app.get(self.session, handle, ck.CKA_LABEL)[1] or b"" for handle in found)


def label(number: int) -> bytes:
    # The fourth one has no room in a series.
    return b"%03d" % number + b"-" * (600 if number == 3 else number)


def scene_of(
    group: Group,
    tmp_path: Path,
    work: Callable[[Scene], None],
    count: int = COUNT,
    deadline: float = 20.0,
) -> None:
    made = group(members=2)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(DEMO))
        for number in range(count):
            more = {
                ck.CKA_TOKEN: True,
                ck.CKA_LABEL: label(number),
                ck.CKA_VALUE: b"v",
                ck.CKA_PRIVATE: bool(number % 2),
            }
            assert app.create(session, {**MINE, **more})[0] == OK
    made.reconfigure(lambda settings: replace(settings, deadline=deadline))
    plans = behind_chaos(made, tmp_path)
    with client(made.module, made.environment) as app:
        work(Scene(made, plans, app, app.logged_in(app.slot_of(DEMO))))


ALL = sorted(label(number) for number in range(COUNT))


@pytest.mark.parametrize("fault", ["crash", "hang", "dead CKR_DEVICE_REMOVED"])
def test_a_member_is_lost_in_the_middle(group: Group, tmp_path: Path, fault: str) -> None:
    said = {
        "crash": "its helper crashed in C_GetAttributeValue",
        "hang": "C_GetAttributeValue did not return within its deadline",
        "dead CKR_DEVICE_REMOVED": "CKR_DEVICE_REMOVED",
    }

    def work(scene: Scene) -> None:
        scene.plans[0].set(f"C_GetAttributeValue nth=5 -> {fault}")
        assert scene.labels() == ALL
        (line,) = [each for each in scene.made.logged().splitlines() if " lost: " in each]
        assert scene.made.tokens[0].label in line
        assert said[fault] in line

    scene_of(group, tmp_path, work, deadline=2.0 if fault == "hang" else 20.0)


@pytest.mark.parametrize("fault", ["lose-login", "lose-sessions"])
def test_a_member_forgets_in_the_middle(group: Group, tmp_path: Path, fault: str) -> None:
    """What is private is found all the same, and by the same member."""

    def work(scene: Scene) -> None:
        scene.plans[0].set(f"C_GetAttributeValue nth=5 once -> {fault}")
        assert scene.labels() == ALL
        assert scene.plans[0].fired() == ["C_GetAttributeValue"]
        assert " lost: " not in scene.made.logged()

    scene_of(group, tmp_path, work)


def test_one_that_is_deleted_between_search_and_reading(group: Group, tmp_path: Path) -> None:
    def work(scene: Scene) -> None:
        plan = scene.plans[0]
        plan.set("C_FindObjectsFinal once -> hang")
        found = start(scene.labels)
        plan.wait_for("C_FindObjectsFinal")
        with scene.made.member(0) as other:
            (gone,) = other.find({ck.CKA_LABEL: label(6)})
            other.destroy(gone)
        plan.release()
        assert found.result() == [each for each in ALL if each != label(6)]
        assert " lost: " not in scene.made.logged()

    scene_of(group, tmp_path, work)


def test_a_slow_member_that_has_many_is_not_lost(group: Group, tmp_path: Path) -> None:
    """It takes more than a call's time to show all that it has, and little for each."""

    def work(scene: Scene) -> None:
        for plan in scene.plans:
            plan.set("C_GetAttributeValue -> delay 25")
        rv, found = scene.app.find(scene.session, MINE)
        assert (rv, len(found)) == (OK, 50)
        assert " lost: " not in scene.made.logged()

    scene_of(group, tmp_path, work, count=50, deadline=2.0)


def test_finalize_in_the_middle_of_a_series(group: Group, tmp_path: Path) -> None:
    def work(scene: Scene) -> None:
        scene.plans[0].set("C_GetAttributeValue nth=5 -> hang")
        answers: list[int] = []
        inside = threading.Thread(target=lambda: answers.append(scene.app.find_init(scene.session, MINE)))
        inside.start()
        scene.plans[0].wait_for("C_GetAttributeValue")
        assert scene.app.finalize() == OK
        inside.join(60)
        assert answers == [ck.CKR_CRYPTOKI_NOT_INITIALIZED]
        assert " lost: " not in scene.made.logged()
        scene.plans[0].release()

    scene_of(group, tmp_path, work)
