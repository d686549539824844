"""`pyha group create`, `list` and `show` on real tokens: what is made, what is refused, and that a refusal leaves
nothing."""

import json
import os
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from pyha.cli import config_edit, group_create
from pyha.cli.chaos_plan import chaos_module
from pyha.cli.errors import Mistake
from pyha.cli.main import main
from pyha.runtime import config, founding
from pyha.runtime.naming import group_serial
from pyha.runtime.settings import Configuration
from tests.chaos import Plan
from tests.domain_tools import domain_objects
from tests.softhsm import MODULE, SoftHSM, SoftHSMToken


@dataclass
class Command:
    """Runs `pyha` with a configuration path and a PIN file of its own."""

    conf: Path
    pin: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> tuple[int, str, str]:
        status = main([*words, "--config", str(self.conf)])
        printed = self.capsys.readouterr()
        return status, printed.out, printed.err

    def create(self, *uris: str, label: str = "payments", more: tuple[str, ...] = ()) -> tuple[int, str, str]:
        return self("group", "create", label, *uris, "--pin-source", f"file:{self.pin}", *more)


@pytest.fixture
def pyha(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    pin = tmp_path / "pin"
    pin.write_text("1234\n")
    pin.chmod(0o600)
    return Command(tmp_path / "etc" / "pyha.toml", pin, capsys)


@pytest.fixture
def tokens(softhsm: SoftHSM, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[SoftHSMToken]]:
    """Makes tokens in one store, which the helpers of the command see."""

    def make(count: int) -> list[SoftHSMToken]:
        made = [softhsm.token(f"hsm-{index}") for index in range(count)]
        monkeypatch.setenv("SOFTHSM2_CONF", str(made[0].conf))
        return made

    return make


def uri(token: str, module: str = MODULE) -> str:
    return f"pkcs11:token={token}?module-path={module}"


def objects(token: SoftHSMToken) -> str:
    """What plain SoftHSM shows of a token."""
    done = subprocess.run(
        ["pkcs11-tool", "--module", MODULE, "--token-label", token.label, "--login", "--pin", token.pin, "-O"],
        env={**os.environ, **token.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def flags(token: SoftHSMToken) -> str:
    """The token flags that plain SoftHSM shows: a failed login leaves its mark there."""
    done = subprocess.run(
        ["pkcs11-tool", "--module", MODULE, "-L"],
        env={**os.environ, **token.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    parts = done.stdout.split("Slot ")
    (mine,) = [part for part in parts if token.serial in part]
    return next(line for line in mine.splitlines() if "token flags" in line)


def test_a_group_is_written_down_and_its_members_have_the_same_domain_keys(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]]
) -> None:
    made = tokens(3)
    status, out, err = pyha.create(uri("hsm-0"), uri("hsm-1"), more=("--standby", uri("hsm-2")))
    assert (status, err) == (0, "")
    (group,) = config.load(str(pyha.conf)).groups
    assert group.serial == group_serial(made[0].serial, {token.serial for token in made})
    assert [member.uri.serial for member in group.members] == [token.serial for token in made]
    assert [member.role.value for member in group.members] == ["active", "active", "standby"]
    for client in ("pkcs11-tool", "OpenSSL", "Java", "nginx"):
        assert client in out
    status, out, _ = pyha("group", "show", "payments", "--pin-source", f"file:{pyha.pin}", "--json")
    assert status == 0
    members = json.loads(out)["members"]
    assert len({json.dumps(member["domain-keys"], sort_keys=True) for member in members}) == 1
    assert all(len(value) >= 6 for member in members for value in member["domain-keys"].values())
    status, out, _ = pyha("group", "list", "--json")
    assert [entry["label"] for entry in json.loads(out)] == ["payments"]


def test_no_pin_and_no_key_reaches_the_configuration(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]]
) -> None:
    tokens(2)
    status, _, err = pyha.create(uri("hsm-0"), uri("hsm-1"))
    assert (status, err) == (0, "")
    text = pyha.conf.read_text()
    assert "1234" not in text.replace(config.load(str(pyha.conf)).groups[0].id.hex(), "").split("[group.token]")[0]
    assert not {"pin-value", "key", "secret"} & set(tomllib.loads(text)["group"][0])


def test_a_door_that_stands_open_refuses_the_token_unless_the_operator_says_so(
    pyha: Command, softhsm: SoftHSM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = softhsm.token("hsm-0")
    plan, backup, pem = Plan(tmp_path / "plan"), tmp_path / "backup", tmp_path / "public.pem"
    pem.write_bytes(
        rsa.generate_private_key(65537, 2048)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    more: tuple[str, ...] = ("--backup-to", str(pem), "--backup", str(backup))
    for name, value in {**token.environment, **plan.environment}.items():
        more += ("--environment", f"{name}={value}")
    plan.set("C_CopyObject nth=1 -> answer-after CKR_OK", "C_CopyObject nth=1 -> write 0 hex:ffffff7f00000000")
    status, _, err = pyha.create(uri("hsm-0", str(chaos_module())), more=more)
    assert (status, err.count("\n")) == (2, 1)
    assert "hsm-0: the sealed domain key can be copied with CKA_DECRYPT (--allow-open-doors takes the token" in err
    assert (domain_objects(token), pyha.conf.exists(), backup.exists()) == ([], False, False)

    def edit(path: str, change: config_edit.Change) -> Configuration:
        raise Mistake("somebody has written it meanwhile")

    with monkeypatch.context() as patch:
        patch.setattr(config_edit, "edit", edit)
        status, _, err = pyha.create(uri("hsm-0", str(chaos_module())), more=(*more, "--allow-open-doors"))
    assert status == 2
    assert (domain_objects(token), pyha.conf.exists(), backup.exists()) == ([], False, False)
    status, _, err = pyha.create(uri("hsm-0", str(chaos_module())), more=(*more, "--allow-open-doors"))
    assert (status, backup.exists()) == (0, True)
    assert err == "pyha: warning: hsm-0: the sealed domain key can be copied with CKA_DECRYPT\n"


def test_of_two_that_make_groups_of_one_token_at_once_one_at_most_does(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (token,) = tokens(1)
    other = Command(tmp_path / "other-etc" / "pyha.toml", pyha.pin, pyha.capsys)
    real = group_create._proved
    refused = []

    def proved(*arguments: Any) -> Any:
        """The other one has looked at the token before this one put its keys there."""
        monkeypatch.setattr(group_create, "_proved", real)
        with monkeypatch.context() as patch:
            patch.setattr(founding, "require_new", lambda candidate: 0)
            refused.append(other.create(uri("hsm-0"), label="other"))
        return real(*arguments)

    monkeypatch.setattr(group_create, "_proved", proved)
    assert pyha.create(uri("hsm-0"))[0] == 0
    ((status, _, err),) = refused
    assert (status, "the token is a member of another group" in err) == (2, True), err
    assert not other.conf.exists()
    assert domain_objects(token) == ["Private", "Private", "Public", "Public", "Secret", "Secret"]
    # Of one configuration one at a time makes members.
    with config_edit.at_tokens(str(pyha.conf)):
        status, _, err = pyha.create(uri("hsm-0"), label="third")
    assert (status, err.count("\n"), "wait until it has ended" in err) == (2, 1, True)


def test_the_backup_opens_with_the_private_key_only(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]], tmp_path: Path
) -> None:
    tokens(2)
    private = rsa.generate_private_key(65537, 2048)
    pem = tmp_path / "backup.pem"
    pem.write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    backup = tmp_path / "payments.backup"
    status, _, err = pyha.create(uri("hsm-0"), uri("hsm-1"), more=("--backup-to", str(pem), "--backup", str(backup)))
    assert (status, err) == (0, "")
    assert backup.stat().st_mode & 0o777 == 0o600
    text = json.loads(backup.read_text())
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"pyha domain keys")
    plain = private.decrypt(bytes.fromhex(text["sealed"]), oaep)
    assert len(plain) == 64
    assert plain[:32] != plain[32:]
    for key in (plain[:32], plain[32:]):
        assert key.hex() not in backup.read_text()


@pytest.mark.parametrize(
    ("uris", "says"),
    [
        (("hsm-0", "nobody"), "its token is not among the module's tokens"),
        (("hsm-0", "hsm-0"), "named twice"),
    ],
)
def test_wrong_tokens_are_named_and_nothing_is_made(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]], uris: tuple[str, ...], says: str
) -> None:
    made = tokens(2)
    status, out, err = pyha.create(*(uri(token) for token in uris))
    assert status == 2
    assert out == ""
    assert says in err
    assert err.count("\n") == 1, "one clear sentence"
    assert not pyha.conf.exists()
    for token in made:
        assert "pyha" not in objects(token)


def test_two_uris_for_one_token_are_found_by_what_they_lead_to(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]]
) -> None:
    made = tokens(2)
    status, _, err = pyha.create(uri("hsm-0"), f"pkcs11:serial={made[0].serial}?module-path={MODULE}")
    assert status == 2
    assert "named twice" in err
    assert "pyha" not in objects(made[0])


@pytest.mark.parametrize("module", ["/nowhere/libnothing.so", "/usr/lib/x86_64-linux-gnu/libz.so.1"])
def test_a_module_that_is_none_is_named(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]], module: str
) -> None:
    made = tokens(1)
    status, _, err = pyha.create(uri("hsm-0"), uri("hsm-1", module))
    assert status == 2
    assert module in err
    assert not pyha.conf.exists()
    assert "pyha" not in objects(made[0])


def test_a_wrong_pin_costs_one_try_on_one_token(pyha: Command, tokens: Callable[[int], list[SoftHSMToken]]) -> None:
    made = tokens(3)
    pyha.pin.write_text("9999\n")
    status, _, err = pyha.create(*(uri(token.label) for token in made))
    assert status == 2
    assert "CKR_PIN_INCORRECT" in err
    assert "9999" not in err
    assert ["count low" in flags(token) for token in made] == [True, False, False]
    # The first token warns now: the next attempt is not even tried there.
    status, _, err = pyha.create(*(uri(token.label) for token in made))
    assert status == 2
    assert "few tries" in err
    # As the sentence says: whoever shows the right PIN to the token ends that.
    objects(made[0])
    pyha.pin.write_text("1234\n")
    status, _, err = pyha.create(*(uri(token.label) for token in made))
    assert (status, err) == (0, "")


def test_a_file_that_is_missing_and_one_that_is_none_are_told_apart(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]]
) -> None:
    (token,) = tokens(1)
    key = pyha.pin.parent / "key.pub"
    status, _, err = pyha.create(uri(token.label), more=("--backup-to", str(key)))
    assert (status, err) == (2, f"pyha: {key} cannot be read: No such file or directory\n")
    key.write_text("no key")
    status, _, err = pyha.create(uri(token.label), more=("--backup-to", str(key)))
    assert (status, err) == (2, f"pyha: {key} is no PEM file with an RSA public key\n")
    assert "pyha" not in objects(token)


def test_a_token_of_a_group_is_not_taken_into_a_second_one(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]]
) -> None:
    tokens(2)
    assert pyha.create(uri("hsm-0"))[0] == 0
    status, _, err = pyha.create(uri("hsm-1"), uri("hsm-0"), label="other")
    assert status == 2
    assert "member of a group already" in err
    assert [group.label for group in config.load(str(pyha.conf)).groups] == ["payments"]


def test_what_cannot_be_written_is_found_before_any_token_is_touched(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]]
) -> None:
    made = tokens(1)
    pyha.conf.parent.mkdir()
    pyha.conf.parent.chmod(0o777)
    status, _, err = pyha.create(uri("hsm-0"))
    assert status == 2
    assert str(pyha.conf.parent) in err
    assert "pyha" not in objects(made[0])


def test_show_says_which_member_does_not_answer(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokens(2)
    status, _, err = pyha.create(uri("hsm-0"), uri("hsm-1"))
    assert (status, err) == (0, "")
    empty = tmp_path / "empty.conf"
    (tmp_path / "none").mkdir()
    empty.write_text(f"directories.tokendir = {tmp_path / 'none'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(empty))
    status, out, _ = pyha("group", "show", "payments")
    assert status == 1
    assert out.count("CKR_TOKEN_NOT_PRESENT") == 2
    assert pyha("group", "show", "nobody")[0] == 2


def test_a_wrong_pin_for_show_costs_one_try_on_one_token(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]]
) -> None:
    made = tokens(3)
    assert pyha.create(*(uri(token.label) for token in made))[0] == 0
    pyha.pin.write_text("9999\n")
    status, out, _ = pyha("group", "show", "payments", "--pin-source", f"file:{pyha.pin}")
    assert status == 1
    assert out.count("the PIN was not tried, because hsm-0 did not take it") == 2
    assert ["count low" in flags(token) for token in made] == [True, False, False]


def test_the_doors_of_domain_keys_are_shut_on_softhsm(
    pyha: Command, tokens: Callable[[int], list[SoftHSMToken]]
) -> None:
    made = tokens(1)
    assert pyha.create(uri("hsm-0"))[0] == 0, "a door that stands open refuses the token"
    shown = [part for part in re.split(r"^(?=[A-Z].* Key Object)", objects(made[0]), flags=re.M) if "pyha" in part]
    kinds = Counter(part.split(" Key Object")[0] for part in shown)
    assert kinds == {"Secret": 2, "Private": 2, "Public": 2}
    for part in shown:
        usage = next(line for line in part.splitlines() if "Usage:" in line)
        assert set(usage.replace(",", "").split()) <= {"Usage:", "wrap", "unwrap"}
        assert part.startswith("Public") or "sensitive" in part
