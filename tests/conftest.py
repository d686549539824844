"""Fixtures that all tests share."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.softhsm import SoftHSM

# A machine that has much else to do is no fault of what is tested.
settings.register_profile("at-ease", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("at-ease")


@pytest.fixture
def softhsm(tmp_path: Path) -> SoftHSM:
    """A factory: `softhsm.token("label")`, or `softhsm.token("label", own_store=True)`."""
    return SoftHSM(tmp_path / "softhsm")
