"""What becomes of a call that a member's module is in when its application ends."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from build_shim import ROOT
from pyha.cryptoki import constants as ck
from tests.abi.link_tools import Process
from tests.chaos import behind_chaos
from tests.client import helpers
from tests.integration.conftest import TestGroup

_APPLICATION = f"""
import sys
from tests.application import Application
module, conf, label, pin = sys.argv[1:]
application = Application(module, {{"PYHA_CONF": conf}}, label, pin)
create = {{{ck.CKA_CLASS}: {ck.CKO_DATA}, {ck.CKA_TOKEN}: True, {ck.CKA_LABEL}: b"late", {ck.CKA_VALUE}: b"value"}}
application.create(create)
"""


def test_it_may_return_so_that_no_token_is_left_half_written(group: Callable[..., TestGroup], tmp_path: Path) -> None:
    made = group(members=1, label="ends")
    (plan,) = behind_chaos(made, tmp_path)
    plan.set("C_CreateObject -> hang")
    command = [sys.executable, "-c", _APPLICATION, made.module, str(made.conf), made.label, made.pin]
    application = subprocess.Popen(command, cwd=ROOT)
    try:
        plan.wait_for("C_CreateObject")
        (helper,) = map(Process, helpers(made.label).values())
    finally:
        application.kill()
        application.wait()
    plan.release()
    assert helper.ended()
    assert plan.journal("released") == ["C_CreateObject"]
    with made.member(0) as token:
        assert len(token.find({ck.CKA_LABEL: b"late"})) == 1
