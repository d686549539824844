"""Fixtures of the unit tests."""

from collections.abc import Iterator

import pytest

from tests.unit.raw_token import Token, start


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    """A real, empty SoftHSM token, logged in as user, in a process of its own."""
    with start(tmp_path_factory.mktemp("softhsm")) as opened:
        yield opened
