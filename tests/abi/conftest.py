"""Both links, each over a SoftHSM of its own, for the tests of what every link does."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyha.abi.link import Link, open_local, open_process
from tests.abi.link_tools import LINKS, SoftHSMCalls, soon
from tests.softhsm import SoftHSM


def opened(kind: str, module: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, at: Path) -> Link:
    if kind == "process":
        return open_process(module, environment, soon(), title="contract")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # SoftHSM reads its configuration once a process: a copy of it has not read any.
    return open_local(str(shutil.copy(module, str(at / "module.so"))))


@pytest.fixture(params=LINKS)
def link(
    request: pytest.FixtureRequest, softhsm: SoftHSM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Link]:
    token = softhsm.token("contract")
    link = opened(request.param, token.module, token.environment, monkeypatch, tmp_path)
    yield link
    link.close()


@pytest.fixture
def calls(link: Link) -> Iterator[SoftHSMCalls]:
    calls = SoftHSMCalls(link)
    yield calls
    if link.alive:
        calls.finish()
