"""Which sequences are played: in every plain run the same ones, with DIFFERENTIAL_EXAMPLES as many new ones.

Each is drawn by itself, from a seed of its own: of many drawn in one run hypothesis makes most out of earlier ones,
with a call repeated, and some functions are never called. DIFFERENTIAL_SEED is the first seed, to see the same new ones
again.

The same ones are drawn in a process of their own: what hypothesis draws depends on the modules that are loaded, and so
on which other tests run. They are played one by one and not shrunk: over real tokens a failure need not come a second
time, and then minutes of shrinking end in "flaky", and say nothing of the first.
"""

import os
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
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

    first = int(os.environ.get("DIFFERENTIAL_SEED") or random.randrange(2**32))
    for each in range(first, first + EXAMPLES * examples // 30):
        try:
            _one(_strategy(strategy, arguments), each, play, (Phase.generate, Phase.shrink))
        except BaseException as failure:
            failure.add_note(f"seen again with DIFFERENTIAL_SEED={each}")
            raise


def _one(
    strategy: SearchStrategy[Sequence], of: int, play: Callable[[Sequence], None], phases: tuple[Phase, ...]
) -> None:
    """Play the sequence of this seed. Hypothesis's first example is the simplest that there is, whatever the seed; the
    second one is drawn."""
    drawn = 0

    @seed(of)
    @settings(_ANY, max_examples=2, phases=phases)
    @given(strategy)
    def compare(sequence: Sequence) -> None:
        nonlocal drawn
        drawn += 1
        if drawn > 1:
            play(sequence)

    compare()


@cache
def _always_the_same(strategy: str, arguments: tuple[int, ...], examples: int) -> list[Sequence]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as beside:
        return beside.submit(draw, strategy, arguments, examples).result()


def draw(strategy: str, arguments: tuple[int, ...], examples: int) -> list[Sequence]:
    """The sequences of the first so many seeds. To be called in a new process."""
    drawn: list[Sequence] = []
    for each in range(examples):
        _one(_strategy(strategy, arguments), each, drawn.append, (Phase.generate,))
    return drawn


def _strategy(name: str, arguments: tuple[int, ...]) -> SearchStrategy[Sequence]:
    made: SearchStrategy[Sequence] = getattr(sequences, name)(*arguments)
    return made
