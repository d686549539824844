"""Fixtures that all tests share."""

from pathlib import Path

import pytest

from tests.softhsm import SoftHSM


@pytest.fixture
def softhsm(tmp_path: Path) -> SoftHSM:
    """A factory: `softhsm.token("label")`, or `softhsm.token("label", own_store=True)`."""
    return SoftHSM(tmp_path / "softhsm")
