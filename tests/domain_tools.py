"""Groups with a sealed backup, for tests of `pyha domain`: one is made for all tests of a module, and copied."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from pyha.cli import config_write, sealing
from pyha.cli.main import main
from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Template as Attributes
from pyha.ha.domain import DomainKey, aes_template, domain_id
from pyha.runtime import config
from pyha.runtime.settings import GroupSettings, LogLevel
from tests.application import Template, application
from tests.softhsm import MODULE, SoftHSM, SoftHSMToken

PASSPHRASE = b"correct horse"


@dataclass(frozen=True)
class Place:
    """A directory with a group and the backup of its domain keys. `private`: the key that opens the
    backup, `locked`: the same with a passphrase."""

    directory: Path
    tokens: tuple[SoftHSMToken, ...]

    def reconfigure(self, **changes: Any) -> None:
        """Write the configuration anew with these of its group's settings."""
        before = config.load(str(self.conf))
        (group,) = before.groups
        log = f"file:{self.directory / 'log'}"
        changed = replace(before, log=log, log_level=LogLevel.NOTICE, groups=(replace(group, **changes),))
        config_write.write(str(self.conf), config_write.render(changed))

    @property
    def group(self) -> GroupSettings:
        """The group as it is configured now."""
        (group,) = config.load(str(self.conf)).groups
        return group

    def logged(self) -> str:
        """All that applications of the group have logged since `reconfigure`."""
        log = self.directory / "log"
        return log.read_text() if log.exists() else ""

    @property
    def conf(self) -> Path:
        return self.directory / "pyha.toml"

    @property
    def backup(self) -> Path:
        return self.directory / "backup"

    @property
    def private(self) -> Path:
        return self.directory / "private.pem"

    @property
    def locked(self) -> Path:
        return self.directory / "locked.pem"

    @property
    def pin(self) -> Path:
        return self.directory / "pin"


def make_place(directory: Path, label: str, members: int, pin: str = "1234", so_pin: str = "12345678") -> Place:
    """A group with all that `Place` names."""
    private = rsa.generate_private_key(65537, 2048)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (directory / "private.pem").write_bytes(private.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    guarded = serialization.BestAvailableEncryption(PASSPHRASE)
    (directory / "locked.pem").write_bytes(private.private_bytes(pem, pkcs8, guarded))
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (directory / "public.pem").write_bytes(public)
    (directory / "pin").write_text(pin + "\n")
    (directory / "pin").chmod(0o600)
    softhsm = SoftHSM(directory / "softhsm")
    place = Place(
        directory, tuple(softhsm.token(f"{label}-{index}", pin=pin, so_pin=so_pin) for index in range(members))
    )
    uris = [f"pkcs11:token={token.label}?module-path={MODULE}" for token in place.tokens]
    words = ["group", "create", label, *uris, "--pin-source", f"file:{place.pin}", "--config", str(place.conf)]
    words += ["--environment", f"SOFTHSM2_CONF={place.tokens[0].conf}"]
    assert main([*words, "--backup-to", str(directory / "public.pem"), "--backup", str(place.backup)]) == 0
    return place


def copy_place(kept: Place, directory: Path) -> Place:
    """The same group in another directory."""
    shutil.copytree(kept.directory, directory)
    for path in (directory / "pyha.toml", *directory.glob("softhsm/*/softhsm2.conf")):
        path.write_text(path.read_text().replace(str(kept.directory), str(directory)))
    tokens = tuple(replace(each, conf=directory / each.conf.relative_to(kept.directory)) for each in kept.tokens)
    return Place(directory, tokens)


@dataclass
class Domain:
    """Runs `pyha domain` on a place."""

    place: Place
    capsys: pytest.CaptureFixture[str]

    def __call__(self, action: str, *words: str, pin: Path | None = None) -> tuple[int, str, str]:
        self.capsys.readouterr()
        source = f"file:{pin or self.place.pin}"
        status = main(["domain", action, *words, "--pin-source", source, "--config", str(self.place.conf)])
        printed = self.capsys.readouterr()
        return status, printed.out, printed.err

    def restore(self, target: str, *more: str, label: str, key: Path | None = None) -> tuple[int, str, str]:
        opening = ("--backup", str(self.place.backup), "--key", str(key or self.place.private))
        return self("restore", label, target, *opening, *more)


def _tool(token: SoftHSMToken) -> list[str]:
    return ["pkcs11-tool", "--module", MODULE, "--token-label", token.label, "--login", "--pin", token.pin]


def domain_objects(token: SoftHSMToken) -> list[str]:
    """The classes of the domain keys' objects on a token, as plain SoftHSM shows them, sorted."""
    done = subprocess.run(
        [*_tool(token), "-O"],
        env={**os.environ, **token.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    classes = []
    for line in done.stdout.splitlines():
        if not line.startswith(" "):
            kind, _, key = line.partition(" Key Object")
        elif "label:" in line and "pyha domain key" in line and key:
            classes.append(kind)
    return sorted(classes)


def delete_domain_objects(token: SoftHSMToken, *kinds: str) -> None:
    """Destroy one domain key object of each of these types (`secrkey`, `privkey`, `pubkey`), by the vendor's own
    means."""
    listed = subprocess.run(
        [*_tool(token), "-O"],
        env={**os.environ, **token.environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = {"Secret": "secrkey", "Private": "privkey", "Public": "pubkey"}
    found: list[tuple[str, str]] = []
    for line in listed.splitlines():
        if " Key Object" in line:
            found.append((names[line.split(" Key Object")[0]], ""))
        elif line.strip().startswith("ID:"):
            found[-1] = (found[-1][0], line.split("ID:")[1].strip())
    for kind in kinds:
        at = next(index for index, (each, _) in enumerate(found) if each == kind)
        _, identity = found.pop(at)
        subprocess.run(
            [*_tool(token), "--delete-object", "--type", kind, "--id", identity],
            env={**os.environ, **token.environment},
            capture_output=True,
            check=True,
        )


def plain(template: Attributes) -> Template:
    """A template of the product as the tests' own application takes it."""
    return {each.type: plain(each.value) if isinstance(each.value, tuple) else each.value for each in template}


def put_sealed(
    place: Place, index: int, value: bytes, untold: bool = False, changes: Mapping[int, Any] | None = None
) -> None:
    """This value in place of a member's sealed domain key. `untold`: so that SoftHSM shows no check value of it.
    `changes`: of its attributes; None for one that it shall not have."""
    token = place.tokens[index]
    named = {ck.CKA_ID: domain_id(place.group.id, DomainKey.SEALED)}
    full = {**plain(aes_template(place.group.id, DomainKey.SEALED)), **(changes or {})}
    template = {kind: wanted for kind, wanted in full.items() if wanted is not None}
    with application(MODULE, token.environment, token.label, token.pin) as app:
        (before,) = app.find({**named, ck.CKA_CLASS: ck.CKO_SECRET_KEY})
        app.destroy(before)
        if not untold:
            app.create({**template, ck.CKA_VALUE: value})
            return
        transport = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: bytes(32)}
        wrapping = app.create({**transport, ck.CKA_TOKEN: False, ck.CKA_UNWRAP: True})
        made = app.unwrap(ck.CKM_AES_KEY_WRAP, wrapping, aes_key_wrap(bytes(32), value), template)
        assert not app.read(made, ck.CKA_CHECK_VALUE)[ck.CKA_CHECK_VALUE]


def opened_values(place: Place) -> dict[DomainKey, bytes]:
    """The values of the AES domain keys, out of the backup."""
    with sealing.open_backup(str(place.backup), str(place.private)) as backup:
        return {key: bytes(value) for key, value in backup.values.items()}


def sealed_value(place: Place) -> bytes:
    """The value of the sealed domain key, out of the backup."""
    return opened_values(place)[DomainKey.SEALED]


def places(tmp_path_factory: pytest.TempPathFactory, label: str, members: int) -> Iterator[Callable[[Path], Place]]:
    """For a fixture: copies of one group."""
    kept = make_place(tmp_path_factory.mktemp("domain"), label, members)
    yield lambda directory: copy_place(kept, directory)
