"""Random sequences on the bare module and on the virtual slot.

In the ordinary run always the same few; `make differential` draws new ones, as many as DIFFERENTIAL_EXAMPLES says.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.differential.calls import Call
from tests.differential.play import Tally, play
from tests.differential.scene import Scene
from tests.differential.sequences import sequences

EXAMPLES = int(os.environ.get("DIFFERENTIAL_EXAMPLES", "0"))

chosen = settings(
    max_examples=EXAMPLES or 40,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


def test_the_slot_answers_like_the_bare_module(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()

    @chosen
    @given(sequences())
    def compare(sequence: list[Call]) -> None:
        play(scene, sequence, tally)

    compare()
    with capsys.disabled():
        print(f"\n{tally}" if EXAMPLES else "")
    assert tally.complete > tally.sequences / 2
