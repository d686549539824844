"""Fixtures of the unit tests."""

from collections.abc import Iterator

import pytest

from tests.application import Application, application
from tests.softhsm import MODULE, SoftHSM


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """A real, empty SoftHSM token, logged in as user, in a process of its own: nothing of ours is in between."""
    made = SoftHSM(tmp_path_factory.mktemp("softhsm")).token("unit")
    with application(MODULE, made.environment, "unit", made.pin) as opened:
        yield opened
