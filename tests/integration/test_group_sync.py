"""`pyha group sync`: the plan that can be read, carried out, and carried on after a kill -9."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyha.cli.main import main
from pyha.cli.progress import Progress, bar
from pyha.cryptoki import constants as ck
from tests.application import Application
from tests.chaos import behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, P256, STAYS
from tests.integration.test_resync import CERTIFICATE, DATA, contents, labels

Group = Callable[..., TestGroup]
LABEL = f"synced-{os.getpid()}"

KILLED_AFTER = """
import os, signal, sys
from pyha.cli import main, progress
def killed(self, done, total, what):
    if done == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
progress.Progress.__call__ = killed
sys.exit(main.main(sys.argv[2:]))
"""


class Sync:
    """Runs the command on a group."""

    def __init__(self, made: TestGroup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = made
        self._capsys = capsys
        monkeypatch.setenv("TEST_PIN", made.pin)

    @property
    def words(self) -> list[str]:
        return ["group", "sync", self.made.label, "--pin-source", "env:TEST_PIN", "--config", str(self.made.conf)]

    def __call__(self, *more: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        status = main([*self.words, *more])
        printed = self._capsys.readouterr()
        return status, printed.out, printed.err


@pytest.fixture
def sync(group: Group, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sync:
    return Sync(group(label=LABEL), capsys, monkeypatch)


def secret(app: Application, label: bytes, protection: Any = LEAVES) -> int:
    return app.generate(ck.CKM_AES_KEY_GEN, {**protection, ck.CKA_LABEL: label, ck.CKA_VALUE_LEN: 32})


def differ(made: TestGroup) -> None:
    """Each member holds something that the others do not, by the vendor's tools; the group made one thing more."""
    with made.application() as app:
        secret(app, b"everywhere", STAYS)
        public = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_LABEL: b"pair", ck.CKA_ID: b"1"}
        app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**STAYS, ck.CKA_LABEL: b"pair", ck.CKA_ID: b"1"})
    with made.member(0) as plain:
        plain.create({**DATA, ck.CKA_LABEL: b"zero", ck.CKA_VALUE: b"0"})
    with made.member(1) as plain:
        secret(plain, b"one")
        (key,) = plain.find({ck.CKA_LABEL: b"everywhere"})
        plain.set(key, {ck.CKA_ENCRYPT: False})
    with made.member(2) as plain:
        for real in plain.find({ck.CKA_LABEL: b"pair"}):
            plain.destroy(real)
        for real in plain.find({ck.CKA_APPLICATION: b"pyha"}):
            plain.destroy(real)


def test_where_nothing_differs(sync: Sync) -> None:
    with sync.made.application() as app:
        secret(app, b"key", STAYS)
    assert sync("--dry-run") == (0, "Nothing differs.\n", "")
    assert sync() == (0, "Nothing was to be done.\n", "")


def test_what_differs_is_said_and_then_made_the_same(sync: Sync) -> None:
    differ(sync.made)
    before = contents(sync.made)
    status, out, err = sync("--dry-run")
    assert (status, err) == (1, "")
    names = [token.label for token in sync.made.tokens]
    for expected in (
        f'copy data object "zero" to {names[1]} from {names[0]}',
        f'copy secret key "one" to {names[0]} from {names[1]}',
        f'copy private key "pair" id 31 to {names[2]} from its escrow record',
        f'change secret key "everywhere" on {names[0]}: CKA_ENCRYPT (drift)',
    ):
        assert expected in out.splitlines()
    assert contents(sync.made) == before, "a dry run changes nothing"
    status, _, err = sync()
    assert (status, err) == (0, "")
    first, second, third = contents(sync.made)
    assert first == second == third
    assert labels(first) == [b"everywhere", b"one", b"pair", b"pair", b"zero"]
    assert sync("--dry-run")[0] == 0
    with sync.made.member(2) as plain:
        (private,) = plain.find({ck.CKA_LABEL: b"pair", ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})
        (public,) = plain.find({ck.CKA_LABEL: b"pair", ck.CKA_CLASS: ck.CKO_PUBLIC_KEY})
        assert plain.verify(ck.CKM_ECDSA, public, bytes(32), plain.sign(ck.CKM_ECDSA, private, bytes(32)))


def test_one_member_only_and_for_programs(sync: Sync) -> None:
    differ(sync.made)
    name = sync.made.tokens[1].label
    status, out, _ = sync("--member", name, "--json")
    report = json.loads(out)
    assert (status, report["finished"]) == (0, True)
    assert {step["member"] for step in report["steps"]} == {name}
    assert report["done"] == len(report["steps"]) > 0
    first, second, _ = map(labels, contents(sync.made))
    assert b"zero" in second
    assert b"one" not in first


def test_killed_after_every_step_it_ends_in_the_same_state(sync: Sync) -> None:
    differ(sync.made)
    command = [sys.executable, "-c", KILLED_AFTER, "1", *sync.words]
    runs = 0
    while True:
        status = subprocess.run(command, env=os.environ, stdout=subprocess.DEVNULL, timeout=120).returncode
        runs += 1
        if status != -signal.SIGKILL:
            break
        assert runs < 40
    assert status == 0
    assert runs > 8, "each run was to do one step"
    first, second, third = contents(sync.made)
    assert first == second == third
    assert labels(first) == [b"everywhere", b"one", b"pair", b"pair", b"zero"]


def test_what_cannot_be_mended_is_named_and_the_rest_is_done(sync: Sync) -> None:
    with sync.made.member(0) as plain:
        secret(plain, b"foreign", STAYS)
        plain.create({**DATA, ck.CKA_LABEL: b"zero", ck.CKA_VALUE: b"0"})
    status, out, _ = sync()
    assert status == 1
    assert f'conflict secret key "foreign" on {sync.made.tokens[1].label}: it must not leave its token' in out
    assert [labels(each) for each in contents(sync.made)] == [[b"foreign", b"zero"], [b"zero"], [b"zero"]]


def test_a_member_that_is_not_reached_is_said(sync: Sync) -> None:
    sync.made.put_module(2, "/nowhere/module.so", {})
    status, out, err = sync("--dry-run")
    assert (status, out) == (3, "Nothing differs.\n")
    assert f"pyha: warning: {sync.made.tokens[2].label} was not compared" in err
    status, _, err = sync("--member", sync.made.tokens[2].label)
    assert (status, "cannot be reached" in err) == (2, True)


def test_a_wrong_pin_costs_one_try_on_one_token(sync: Sync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PIN", "999999")
    status, _, err = sync()
    assert status == 2
    assert "login refused: C_Login answered CKR_PIN_INCORRECT" in err
    monkeypatch.setenv("TEST_PIN", sync.made.pin)
    assert sync("--member", "nobody")[0] == 2


def test_the_progress_line_fits_its_terminal() -> None:
    assert bar(1, 4, "copy", 80) == "[######                  ] 1/4 copy"
    assert len(bar(10, 10, "x" * 200, 79)) == 79


def test_the_progress_line_tells_of_reading_too(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress() as progress:
        progress.reads(12345)
    assert "reading members ... 12,345 objects" in capsys.readouterr().err


def test_a_step_is_put_into_words_only_where_it_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """There may be thousands, and off a terminal nobody reads them."""
    told: list[int] = []

    def what() -> str:
        told.append(1)
        return "copy"

    with Progress() as progress:
        progress(1, 4, what)
    assert not told
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress() as progress:
        progress(1, 4, what)
    assert told == [1]
    assert "1/4 copy" in capsys.readouterr().err


def test_names_and_values_longer_than_most(sync: Sync) -> None:
    """Where an object lacks an attribute as well, SoftHSM says only that of a name or value that needs more room."""
    objects = [(b"x" * 2000 + end, bytes(size)) for end, size in ((b"1", 5000), (b"2", 10))]
    with sync.made.member(0) as plain:
        for label, value in objects:
            plain.create({**DATA, ck.CKA_LABEL: label, ck.CKA_VALUE: value})
        plain.create({**CERTIFICATE, ck.CKA_LABEL: b"wide", ck.CKA_SUBJECT: b"s" * 700, ck.CKA_VALUE: b"v" * 3000})
        secret(plain, b"k" * 1000)
    assert sync()[0] == 0
    first, second, third = contents(sync.made)
    assert first == second == third
    for index in (1, 2):
        with sync.made.member(index) as plain:
            for label, value in objects:
                (real,) = plain.find({ck.CKA_LABEL: label})
                assert plain.read(real, ck.CKA_VALUE)[ck.CKA_VALUE] == value
            (real,) = plain.find({ck.CKA_LABEL: b"wide"})
            shown = plain.read(real, ck.CKA_SUBJECT, ck.CKA_VALUE)
            assert (shown[ck.CKA_SUBJECT], shown[ck.CKA_VALUE]) == (b"s" * 700, b"v" * 3000)
            assert len(plain.find({ck.CKA_LABEL: b"k" * 1000})) == 1
    assert sync("--dry-run")[0] == 0


def test_public_keys_longer_than_most(sync: Sync) -> None:
    """Of two that differ in what is longer than 512 bytes none is one too many, and both can be copied."""
    public = {ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, ck.CKA_TOKEN: True, ck.CKA_PRIVATE: False, ck.CKA_ID: b"1"}
    rsa = {**public, ck.CKA_KEY_TYPE: ck.CKK_RSA, ck.CKA_PUBLIC_EXPONENT: b"\1\0\1", ck.CKA_LABEL: b"rsa"}
    dh = {**public, ck.CKA_KEY_TYPE: ck.CKK_DH, ck.CKA_PRIME: b"\xff" * 1024, ck.CKA_BASE: b"\2", ck.CKA_LABEL: b"dh"}
    moduli = {b"\xff" * 1024, b"\xfe" * 1024}
    with sync.made.member(0) as plain:
        for modulus in moduli:
            plain.create({**rsa, ck.CKA_MODULUS: modulus})
        plain.create({**dh, ck.CKA_VALUE: b"\x13" * 1024})
    assert sync()[0] == 0
    for index in range(3):
        with sync.made.member(index) as plain:
            held = plain.find({ck.CKA_LABEL: b"rsa"})
            assert len(held) == 2
            assert {plain.read(real, ck.CKA_MODULUS)[ck.CKA_MODULUS] for real in held} == moduli
            (real,) = plain.find({ck.CKA_LABEL: b"dh"})
            shown = plain.read(real, ck.CKA_PRIME, ck.CKA_VALUE)
            assert shown == {ck.CKA_PRIME: b"\xff" * 1024, ck.CKA_VALUE: b"\x13" * 1024}
    assert sync("--dry-run")[0] == 0


def test_an_answer_that_fails_changes_no_plan(sync: Sync, tmp_path: Path) -> None:
    """Whichever it is: a tombstone, or anything else, that could not be read once is not taken for absent."""
    made = sync.made
    with made.application() as app:
        app.create({**DATA, ck.CKA_LABEL: b"it", ck.CKA_VALUE: b"value"})
        app.create({**DATA, ck.CKA_LABEL: b"stays", ck.CKA_VALUE: b"value"})
    made.only(0)
    with made.application() as app:
        app.destroy(app.find({ck.CKA_LABEL: b"it"})[0])
    plan = behind_chaos(made, tmp_path)[0]
    made.only(0, 1, 2)
    plan.set("C_GetAttributeValue every=1 -> delay 0")
    right = json.loads(sync("--dry-run", "--json")[1])["steps"]
    assert [step["action"] for step in right] == ["delete", "delete", "clear"]
    calls = plan.count("C_GetAttributeValue every=1 -> delay 0")
    compared = 0
    for nth in range(1, calls + 1):
        plan.set(f"C_GetAttributeValue nth={nth} -> answer CKR_FUNCTION_FAILED")
        status, printed, _ = sync("--dry-run", "--json")
        if status == 1 and not json.loads(printed)["not-compared"]:
            assert json.loads(printed)["steps"] == right
            compared += 1
    assert compared > 2
