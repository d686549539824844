"""What becomes of a call that a member's module is in when its application ends, or has enough of the module."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from build_shim import ROOT
from pyha.cryptoki import constants as ck
from tests.abi.link_tools import Process
from tests.chaos import behind_chaos
from tests.client import helpers
from tests.integration.conftest import TestGroup

_APPLICATION = f"""
import sys, threading
from contextlib import suppress
from tests.application import Answered, Application
module, conf, label, pin = sys.argv[1:]
application = Application(module, {{"PYHA_CONF": conf}}, label, pin)
create = {{{ck.CKA_CLASS}: {ck.CKO_DATA}, {ck.CKA_TOKEN}: True, {ck.CKA_LABEL}: b"late", {ck.CKA_VALUE}: b"value"}}

def make():
    with suppress(Answered):
        application.create(create)

threading.Thread(target=make, daemon=True).start()
sys.stdin.readline()
application.finalize()
print("finalized", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["killed", "finalizes"])
def test_it_may_return_so_that_no_token_is_left_half_written(
    group: Callable[..., TestGroup], tmp_path: Path, end: str
) -> None:
    made = group(members=1, label="ends")
    (plan,) = behind_chaos(made, tmp_path)
    plan.set("C_CreateObject -> hang")
    command = [sys.executable, "-c", _APPLICATION, made.module, str(made.conf), made.label, made.pin]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as application:
        assert application.stdin is not None
        assert application.stdout is not None
        try:
            plan.wait_for("C_CreateObject")
            (helper,) = map(Process, helpers(made.label).values())
            if end == "finalizes":
                application.stdin.write("finalize\n")
                assert application.stdout.readline() == "finalized\n"
            else:
                application.kill()
                application.wait()
            plan.release()
            assert helper.ended()
        finally:
            application.kill()
    assert plan.journal("released") == ["C_CreateObject"]
    with made.member(0) as token:
        assert len(token.find({ck.CKA_LABEL: b"late"})) == 1
