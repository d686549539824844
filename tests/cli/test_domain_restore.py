"""`pyha domain restore` on real tokens: what comes back, what is refused, and that a refusal leaves the token as it
was."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyha.abi.native import module_path
from pyha.cli import chaos_plan, sealing
from pyha.cryptoki import constants as ck
from pyha.ha.domain import AES_KEYS, DomainKey, aes_template, domain_id, domain_label
from tests import memory
from tests.application import Template, application
from tests.chaos import Plan
from tests.domain_tools import (
    PASSPHRASE,
    Domain,
    Place,
    delete_domain_objects,
    domain_objects,
    opened_values,
    places,
    plain,
)
from tests.memory import Hit
from tests.softhsm import MODULE, SoftHSM, SoftHSMToken

EVERY = ("secrkey", "secrkey", "privkey", "privkey", "pubkey", "pubkey")
ALL = ["Private", "Private", "Public", "Public", "Secret", "Secret"]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Place]]:
    yield from places(tmp_path_factory, "restored", 2)


@pytest.fixture
def domain(make: Callable[[Path], Place], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Domain:
    return Domain(make(tmp_path / "place"), capsys)


def _new_token(domain: Domain) -> tuple[str, tuple[str, str]]:
    """The URI of an empty token beside the members, and how the command finds it."""
    SoftHSM(domain.place.directory / "softhsm").token("replacement")
    environment = ("--environment", f"SOFTHSM2_CONF={domain.place.tokens[0].conf}")
    return f"pkcs11:token=replacement?module-path={MODULE}", environment


def test_a_member_that_lost_its_keys_gets_them_back_and_serves(domain: Domain) -> None:
    lost = domain.place.tokens[1]
    delete_domain_objects(lost, *EVERY)
    assert domain_objects(lost) == []
    status, out, err = domain.restore("restored-1", label="restored")
    assert (status, err) == (0, "")
    assert out == "restored-1: restored sealed, open, sealed-rsa, open-rsa\n"
    assert domain_objects(lost) == domain_objects(domain.place.tokens[0]) == ALL
    domain.place.reconfigure()
    with application(module_path(), {"PYHA_CONF": str(domain.place.conf)}, "restored", "1234") as app:
        template = {ck.CKA_VALUE_LEN: 32, ck.CKA_TOKEN: True, ck.CKA_EXTRACTABLE: False, ck.CKA_SENSITIVE: True}
        app.generate(ck.CKM_AES_KEY_GEN, template)
    assert "restored-1 lost" not in domain.place.logged()


def test_a_second_restore_does_nothing_and_an_interrupted_one_is_completed(domain: Domain) -> None:
    lost = domain.place.tokens[1]
    status, out, err = domain.restore("restored-1", label="restored")
    assert (status, out, err) == (0, "restored-1: holds the domain keys already\n", "")
    # As a restore leaves it that is killed between the two halves of a pair.
    delete_domain_objects(lost, "privkey")
    assert len(domain_objects(lost)) == 5
    status, out, err = domain.restore("restored-1", label="restored")
    assert (status, err) == (0, "")
    assert "-rsa" in out
    assert "sealed," not in out, "what was there whole was left"
    assert domain_objects(lost) == ALL


def test_a_new_token_is_given_the_keys_by_its_uri(domain: Domain) -> None:
    uri, environment = _new_token(domain)
    status, out, err = domain.restore(uri, *environment, label="restored")
    assert (status, err) == (0, "")
    assert out.startswith("replacement: restored sealed")
    status, out, _ = domain.restore(uri, *environment, label="restored")
    assert (status, out) == (0, "replacement: holds the domain keys already\n")


def test_the_private_keys_passphrase_is_asked_for_and_has_to_be_right(domain: Domain, tmp_path: Path) -> None:
    status, _, err = domain.restore("restored-1", label="restored", key=domain.place.locked)
    assert status == 2
    assert "has a passphrase: name its --key-passphrase-source" in err
    phrase = tmp_path / "phrase"
    phrase.write_bytes(b"wrong")
    phrase.chmod(0o600)
    words = ("--key-passphrase-source", f"file:{phrase}")
    status, _, err = domain.restore("restored-1", *words, label="restored", key=domain.place.locked)
    assert status == 2
    assert "or the passphrase is wrong" in err
    phrase.write_bytes(PASSPHRASE)
    assert domain.restore("restored-1", *words, label="restored", key=domain.place.locked)[0] == 0


def test_a_backup_of_other_keys_is_refused_by_the_member_that_holds_the_right_ones(domain: Domain) -> None:
    # Whoever can write the file can seal keys of his own to the public key.
    lost = domain.place.tokens[1]
    delete_domain_objects(lost, *EVERY)
    genuine = json.loads(domain.place.backup.read_text())
    with sealing.open_backup(str(domain.place.backup), str(domain.place.private)) as backup:
        values = {key: bytearray(index for _ in range(32)) for index, key in enumerate(AES_KEYS)}
        public = sealing.public_key(str(domain.place.directory / "public.pem"))
        forged = sealing.seal(public, bytes.fromhex(genuine["id"]), "restored", values, backup.pairs)
    domain.place.backup.write_text(forged)
    status, out, err = domain.restore("restored-1", label="restored")
    assert (status, out) == (2, "")
    assert "the configuration names another sealed domain key than the backup" in err
    domain.place.reconfigure(domain={})
    status, out, err = domain.restore("restored-1", label="restored")
    assert (status, out) == (2, "")
    assert "restored-0 holds another sealed domain key than the backup" in err
    assert domain_objects(lost) == []


def test_a_token_with_other_keys_is_refused_and_left_alone(domain: Domain) -> None:
    uri, environment = _new_token(domain)
    key: Template = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: bytes(32)}
    for identity, says in ((bytes(16), "the token is a member of another group"), (None, "holds another open domain")):
        group_id = identity or domain.place.group.id
        named = {ck.CKA_LABEL: domain_label(group_id), ck.CKA_ID: domain_id(group_id, DomainKey.OPEN)}
        with application(MODULE, domain.place.tokens[0].environment, "replacement", "1234") as app:
            made = app.create({**key, **named, ck.CKA_TOKEN: True, ck.CKA_PRIVATE: True})
            status, _, err = domain.restore(uri, *environment, label="restored")
            assert status == 2
            assert says in err
            assert app.find({}) == [made], "the foreign key alone"
            app.destroy(made)


def test_what_was_put_is_taken_back_where_a_later_step_fails(domain: Domain) -> None:
    lost = domain.place.tokens[1]
    delete_domain_objects(lost, *EVERY)
    plan, uri, environment = _behind_faults(domain, lost)
    for fault, says in (
        ("C_CreateObject -> answer CKR_TOKEN_WRITE_PROTECTED", "private data objects: CKR_TOKEN_WRITE_PROTECTED"),
        ("C_CreateObject from=3 -> answer CKR_DEVICE_MEMORY", "does not take the open domain key: CKR_DEVICE_MEMORY"),
        ("C_UnwrapKey nth=2 -> answer CKR_FUNCTION_FAILED", "does not take the open-rsa domain key: CKR_FUNCTION_FAIL"),
        ("C_SetAttributeValue nth=1 -> answer CKR_OK", "can be given CKA_DECRYPT (--allow-open-doors takes the token"),
    ):
        plan.set(fault)
        status, out, err = domain.restore(uri, *environment, label="restored")
        assert (status, out) == (2, "")
        assert says in err
        assert domain_objects(lost) == []
    plan.set(fault)
    status, _, err = domain.restore(uri, *environment, "--allow-open-doors", label="restored")
    assert status == 0
    assert "pyha: warning: restored-1: the sealed domain key can be given CKA_DECRYPT\n" in err
    assert domain_objects(lost) == ALL


def _behind_faults(domain: Domain, token: SoftHSMToken) -> tuple[Plan, str, list[str]]:
    """A token behind a module of faults: its plan, its URI, and how the command finds both."""
    plan = Plan(domain.place.directory / "plan")
    settings = {**token.environment, **plan.environment}
    environment = [word for name, value in settings.items() for word in ("--environment", f"{name}={value}")]
    return plan, f"pkcs11:token={token.label}?module-path={chaos_plan.chaos_module()}", environment


def test_killed_at_any_step_it_is_run_again_and_nothing_half_is_used(domain: Domain) -> None:
    lost = domain.place.tokens[1]
    delete_domain_objects(lost, *EVERY)
    plan, uri, environment = _behind_faults(domain, lost)
    words = ["restore", "restored", uri, "--backup", str(domain.place.backup), "--key", str(domain.place.private)]
    words += ["--pin-source", f"file:{domain.place.pin}", "--config", str(domain.place.conf), *environment]
    for fault, there in (
        ("C_DestroyObject nth=1 -> hang", []),  # of the record by which the token is tried
        ("C_CreateObject nth=3 -> hang", ["Secret"]),
        ("C_UnwrapKey nth=1 -> hang", ["Public", "Secret", "Secret"]),
        ("C_UnwrapKey nth=2 -> hang", ["Private", "Public", "Public", "Secret", "Secret"]),
    ):
        plan.set(fault)
        fired = plan.count(fault)
        with subprocess.Popen([sys.executable, "-m", "pyha.cli.main", "domain", *words], text=True) as process:
            plan.wait(lambda fault=fault, fired=fired: plan.count(fault) > fired)  # type: ignore[misc]
            plan.killed(process)
        assert domain_objects(lost) == there, fault
        status, out, _ = domain("show", "restored")
        assert status == 1
        assert "restored-1: its " in out
    domain.place.reconfigure()
    with application(module_path(), {"PYHA_CONF": str(domain.place.conf)}, "restored", "1234") as app:
        app.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32, ck.CKA_TOKEN: True, ck.CKA_LABEL: b"made"})
    assert "restored-1 lost: not a member any more: its open-rsa domain key is not whole" in domain.place.logged()
    with application(MODULE, lost.environment, lost.label, lost.pin) as app:
        assert app.find({ck.CKA_LABEL: b"made"}) == []
    plan.set()
    status, out, err = domain.restore(uri, *environment, label="restored")
    assert (status, out, err) == (0, "restored-1: restored open-rsa\n", "")
    assert domain_objects(lost) == ALL
    assert domain("verify", "restored")[0] == 0


def test_twins_that_two_restores_at_once_have_left_are_made_one(domain: Domain) -> None:
    lost = domain.place.tokens[1]
    with application(MODULE, lost.environment, lost.label, lost.pin) as app:
        for key in (DomainKey.SEALED, DomainKey.OPEN):
            value = opened_values(domain.place)[key]
            app.create({**plain(aes_template(domain.place.group.id, key)), ck.CKA_VALUE: value})
    assert len(domain_objects(lost)) == 8
    assert "restored-1: it has several sealed domain keys" in domain("show", "restored")[1]
    assert domain.restore("restored-1", label="restored")[0] == 0
    assert domain_objects(lost) == ALL
    assert domain("show", "restored")[0] == 0


def test_a_store_that_is_read_only_is_named_and_nothing_is_left(domain: Domain) -> None:
    lost = domain.place.tokens[1]
    delete_domain_objects(lost, *EVERY)
    store = lost.conf.parent / "tokens"
    (files,) = (each for each in store.iterdir() if lost.serial[-8:] in each.name.replace("-", ""))
    before = sorted(each.name for each in files.iterdir())
    words = ["restore", "restored", "restored-1", "--backup", str(domain.place.backup)]
    words += ["--key", str(domain.place.private), "--pin-source", f"file:{domain.place.pin}"]
    # Modes bind root too once it may not override them.
    bound = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    if subprocess.run([*bound, "true"], capture_output=True).returncode:
        pytest.skip("nothing here can be made read-only for this user")
    command = [*bound, sys.executable, "-m", "pyha.cli.main", "domain", *words, "--config", str(domain.place.conf)]
    files.chmod(0o500)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    finally:
        files.chmod(0o700)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("pyha: restored-1: the token cannot hold the group's records")
    assert sorted(each.name for each in files.iterdir()) == before
    assert domain.restore("restored-1", label="restored")[0] == 0


def test_a_wrong_pin_costs_one_try_on_one_token(domain: Domain, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("9999")
    wrong.chmod(0o600)
    opening = ("--backup", str(domain.place.backup), "--key", str(domain.place.private))
    status, _, err = domain("restore", "restored", "restored-1", *opening, pin=wrong)
    assert status == 2
    assert "CKR_PIN_INCORRECT" in err
    # The other member was not asked: it would not let itself be logged in to without the right PIN's reset.
    assert domain.restore("restored-0", label="restored")[0] == 0
    status, _, err = domain.restore("restored-1", label="restored")
    assert status == 2
    assert "few tries" in err


def test_nothing_to_compare_with_is_said(domain: Domain) -> None:
    store = domain.place.tokens[0].conf.parent / "tokens"
    (first,) = (each for each in store.iterdir() if domain.place.tokens[0].serial[-8:] in each.name.replace("-", ""))
    shutil.rmtree(first)
    status, out, err = domain.restore("restored-1", label="restored")
    assert status == 0
    assert "not compared" in err
    assert "believed" not in err, "the configuration has their fingerprints"
    domain.place.reconfigure(domain={})
    status, out, err = domain.restore("restored-1", label="restored")
    assert status == 0
    assert "holds the domain keys already" in out
    assert "not compared: restored-0: its token is not among the module's tokens" in err
    assert "the backup was believed" in err


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "is no backup of domain keys, or it is damaged"),
        (lambda text: "[]", "is no backup of domain keys, or it is damaged"),
        (lambda text: text.replace('"pyha-backup": 1', '"pyha-backup": 2'), "a backup of version 2"),
        (lambda text: _changed(text, "sealed", "00" * 256), "is not the private key that"),
        (lambda text: _changed(text, "check-values", {"sealed": "000000", "open": "000000"}), "its check values are"),
        (lambda text: _changed(text, "id", "11" * 16), 'is of group "restored"'),
    ],
)
def test_a_backup_that_is_none_is_named(domain: Domain, damage: Callable[[str], str], says: str) -> None:
    domain.place.backup.write_text(damage(domain.place.backup.read_text()))
    status, out, err = domain.restore("restored-1", label="restored")
    assert (status, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1, "one clear sentence"


def _changed(text: str, field: str, value: object) -> str:
    return json.dumps(json.loads(text) | {field: value})


def test_what_is_not_there_is_named(domain: Domain, tmp_path: Path) -> None:
    assert "no member nobody (it has restored-0, restored-1)" in domain.restore("nobody", label="restored")[2]
    assert 'there is no group "other"' in domain.restore("restored-1", label="other")[2]
    missing = tmp_path / "missing.pem"
    assert f"{missing} cannot be read" in domain.restore("restored-1", label="restored", key=missing)[2]
    public = domain.place.directory / "public.pem"
    assert (
        f"{public} is no PEM file with a private key" in domain.restore("restored-1", label="restored", key=public)[2]
    )


_OPENS = """
import sys
from pyha.cli import sealing
with sealing.open_backup(*sys.argv[1:]) as backup:
    print("opened", flush=True)
    sys.stdin.readline()
print("wiped", flush=True)
sys.stdin.readline()
"""


def test_the_opened_backup_is_wiped(make: Callable[[Path], Place], tmp_path: Path) -> None:
    place = make(tmp_path / "place")
    opening = (str(place.backup), str(place.private))
    with sealing.open_backup(*opening) as backup:
        values = [bytes(value) for value in backup.values.values()]
        for value in values:
            assert value.hex() not in repr(backup)
    assert all(bytes(value) == bytes(32) for value in backup.values.values())
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _OPENS, *opening], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "opened\n"
        for value in values:
            assert len(_in_locked_page(process.pid, value)) == 1
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "wiped\n"
        for value in values:
            assert _in_locked_page(process.pid, value) == []
        process.stdin.write("\n")


def _in_locked_page(pid: int, value: bytes) -> list[Hit]:
    """In no dump and in no child. What `cryptography` copied on its way is elsewhere, and gone with the process."""
    return [hit for hit in memory.find(pid, value) if {"dd", "dc"} <= hit.flags]
