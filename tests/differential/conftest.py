"""A plain token and a group to compare."""

from collections.abc import Callable, Iterator

import pytest

from tests.differential.scene import Scene
from tests.integration.conftest import TestGroup, group, group_of_module

__all__ = ["group", "group_of_module", "scene"]


@pytest.fixture(scope="module")
def scene(group_of_module: Callable[..., TestGroup], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Two members beside the plain token."""
    made = Scene(group_of_module(members=2), tmp_path_factory.mktemp("scene"))
    yield made
    made.close()
