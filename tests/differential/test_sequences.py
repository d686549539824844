"""Random sequences on the bare module and on the virtual slot.

In the ordinary run always the same few; `make differential` draws new ones, as many as DIFFERENTIAL_EXAMPLES says.
"""

import pytest

from tests.differential.drawn import EXAMPLES, play_drawn
from tests.differential.play import Tally, play
from tests.differential.scene import Scene


def test_the_slot_answers_like_the_bare_module(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    play_drawn("sequences", (), 40, lambda sequence: play(scene, sequence, tally))
    with capsys.disabled():
        print(f"\n{tally}" if EXAMPLES else "")
    assert tally.complete > tally.sequences / 2
