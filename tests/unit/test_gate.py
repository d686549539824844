"""The gate: many share it or one is alone, and waiting ends at the deadline."""

import threading
import time

import pytest

from pyha.runtime.gate import Gate, GateTimeout

FAR = time.monotonic() + 3600


def test_many_share() -> None:
    gate = Gate()
    gate.enter(FAR, alone=False, clock=time.monotonic)
    gate.enter(FAR, alone=False, clock=time.monotonic)
    gate.leave()
    gate.leave()
    gate.enter(FAR, alone=True, clock=time.monotonic)


@pytest.mark.parametrize(("inside_alone", "wants_alone"), [(True, False), (False, True), (True, True)])
def test_waiting_ends_at_the_deadline(inside_alone: bool, wants_alone: bool) -> None:
    gate = Gate()
    gate.enter(FAR, alone=inside_alone, clock=time.monotonic)
    with pytest.raises(GateTimeout):
        gate.enter(0.0, alone=wants_alone, clock=time.monotonic)
    gate.leave()
    gate.enter(FAR, alone=wants_alone, clock=time.monotonic)


def test_who_waits_to_be_alone_is_let_in_when_the_last_leaves_and_goes_before_newcomers() -> None:
    gate = Gate()
    gate.enter(FAR, alone=False, clock=time.monotonic)
    order: list[str] = []

    def alone() -> None:
        gate.enter(FAR, alone=True, clock=time.monotonic)
        order.append("alone")
        gate.leave()

    waiting = threading.Thread(target=alone)
    waiting.start()
    while True:
        # A newcomer is refused as soon as somebody waits to be alone; until then it gets in.
        try:
            gate.enter(0.0, alone=False, clock=time.monotonic)
        except GateTimeout:
            break
        gate.leave()
    assert order == []
    gate.leave()
    waiting.join()
    assert order == ["alone"]
