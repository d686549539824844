"""Sequences by plan and at random on the bare module and on the virtual slot.

Of the random ones always the same few in the ordinary run; `make differential` draws new ones, as many as
DIFFERENTIAL_EXAMPLES says.
"""

import pytest

from pyha.cryptoki.functions import COUNT_2_40, FUNCTIONS
from tests.differential.drawn import EXAMPLES, play_drawn
from tests.differential.planned import ELSEWHERE, NEVER_OK, PLANNED
from tests.differential.play import Tally, play
from tests.differential.scene import Scene


def test_every_function_is_answered_alike_and_with_success(scene: Scene) -> None:
    tally = Tally()
    for name, sequence in PLANNED.items():
        before = tally.complete
        play(scene, sequence, tally)
        assert tally.complete == before + 1, f"{name}: not to its end"
    wanted = {each.name: NEVER_OK.get(each.name, "CKR_OK") for each in FUNCTIONS[:COUNT_2_40]}
    assert {name for name, rv in wanted.items() if (name, rv) not in tally.answers} == ELSEWHERE
    assert not [name for name in NEVER_OK if (name, "CKR_OK") in tally.answers]


def test_the_slot_answers_like_the_bare_module(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    play_drawn("sequences", (), 30, lambda sequence: play(scene, sequence, tally))
    with capsys.disabled():
        print(f"\n{tally}" if EXAMPLES else "")
    assert tally.complete > tally.sequences / 2
