"""Which sequences are played: in every plain run the same ones, with DIFFERENTIAL_EXAMPLES as many new ones.

The same ones are drawn in a process of their own: what hypothesis draws depends on the modules that are loaded, and so
on which other tests run. They are played one by one and not shrunk: over real tokens a failure need not come a second
time, and then minutes of shrinking end in "flaky", and say nothing of the first.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from tests.differential import sequences

EXAMPLES = int(os.environ.get("DIFFERENTIAL_EXAMPLES", "0"))

_ANY = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))

Sequence = list[Any]
"""Of calls and faults."""


def play_drawn(strategy: str, arguments: tuple[int, ...], examples: int, play: Callable[[Sequence], None]) -> None:
    """Play `examples` sequences of this strategy (a function of `sequences`) with these arguments; of the new ones a
    part that is as large. Raises what `play` raises."""
    if not EXAMPLES:
        for sequence in _always_the_same(strategy, arguments, examples):
            play(sequence)
        return

    @settings(_ANY, max_examples=EXAMPLES * examples // 40, print_blob=True, phases=[Phase.generate, Phase.shrink])
    @given(_strategy(strategy, arguments))
    def compare(sequence: Sequence) -> None:
        play(sequence)

    compare()


@cache
def _always_the_same(strategy: str, arguments: tuple[int, ...], examples: int) -> list[Sequence]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as beside:
        return beside.submit(draw, strategy, arguments, examples).result()


def draw(strategy: str, arguments: tuple[int, ...], examples: int) -> list[Sequence]:
    """The first so many sequences. To be called in a new process."""
    drawn: list[Sequence] = []

    @settings(_ANY, max_examples=examples, derandomize=True, phases=[Phase.generate])
    @given(_strategy(strategy, arguments))
    def collect(sequence: Sequence) -> None:
        drawn.append(sequence)

    collect()
    return drawn


def _strategy(name: str, arguments: tuple[int, ...]) -> SearchStrategy[Sequence]:
    made: SearchStrategy[Sequence] = getattr(sequences, name)(*arguments)
    return made
