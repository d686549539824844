"""A member is away, the others go on; it returns and has everything as they have it (SEMANTICS.md section 5)."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyha.cli import config_write
from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings
from pyha.runtime import config
from pyha.runtime.settings import LogLevel
from tests.application import Application, Template
from tests.chaos import Plan, behind_chaos
from tests.client import aes_key, client, helpers
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import (
    LEAVES,
    OPEN,
    P256,
    STAYS,
    big,
    dh_private,
    ec_private,
    point_of,
    rsa_private,
)

Group = Callable[..., TestGroup]
LABEL = f"resynced-{os.getpid()}"
AT_ONCE = RecoverySettings(RecoveryMode.BACKGROUND, interval=0.2, attempts=-1)
LONGEST = 60.0
"""Seconds after which a test stops waiting for what does not happen."""

SEEN = (
    *(ck.CKA_CLASS, ck.CKA_KEY_TYPE, ck.CKA_LABEL, ck.CKA_ID, ck.CKA_PRIVATE, ck.CKA_MODIFIABLE, ck.CKA_COPYABLE),
    *(ck.CKA_SENSITIVE, ck.CKA_EXTRACTABLE, ck.CKA_WRAP_WITH_TRUSTED, ck.CKA_ALWAYS_AUTHENTICATE),
    *(ck.CKA_ENCRYPT, ck.CKA_DECRYPT, ck.CKA_SIGN, ck.CKA_VERIFY, ck.CKA_WRAP, ck.CKA_UNWRAP, ck.CKA_DERIVE),
    *(ck.CKA_MODULUS, ck.CKA_EC_POINT, ck.CKA_SUBJECT, ck.CKA_SERIAL_NUMBER, ck.CKA_APPLICATION, ck.CKA_OBJECT_ID),
)
DATA: dict[int, Any] = {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_TOKEN: True, ck.CKA_PRIVATE: True}
CERTIFICATE: dict[int, Any] = {
    **{ck.CKA_CLASS: ck.CKO_CERTIFICATE, ck.CKA_CERTIFICATE_TYPE: 0, ck.CKA_TOKEN: True, ck.CKA_PRIVATE: False},
    **{ck.CKA_SUBJECT: b"\x30\0", ck.CKA_ISSUER: b"\x30\0", ck.CKA_SERIAL_NUMBER: b"\2\1\1", ck.CKA_VALUE: b"\x30\1\0"},
}
BIG = bytes(range(256)) * 4096


def content(member: Application) -> list[tuple[Any, ...]]:
    """Every object of a member, as far as members have to agree."""
    found = []
    for real in member.find({}):
        shown = member.read(real, *SEEN)
        if not (shown[ck.CKA_LABEL] or b"").startswith(b"pyha domain key"):
            valued = shown[ck.CKA_CLASS] in (bytes(8), b"\1" + bytes(7))
            value = member.read(real, ck.CKA_VALUE)[ck.CKA_VALUE] if valued else None
            found.append((*shown.items(), ("value", value)))
    return sorted(found, key=repr)


def contents(made: TestGroup) -> list[list[tuple[Any, ...]]]:
    """Of all members."""
    with ExitStack() as stack:
        members = [stack.enter_context(made.member(index)) for index in range(len(made.tokens))]
        return [content(member) for member in members]


def labels(each: list[tuple[Any, ...]]) -> list[bytes]:
    """CKA_LABEL of every object but records."""
    shown = [dict(attributes) for attributes in each]
    return sorted(attributes[ck.CKA_LABEL] or b"" for attributes in shown if attributes[ck.CKA_APPLICATION] != b"pyha")


def recovering(group: Group, **settings: Any) -> TestGroup:
    made = group(label=LABEL, recovery=AT_ONCE, **settings)
    written = replace(config.load(str(made.conf)), log_level=LogLevel.NOTICE)
    config_write.write(str(made.conf), config_write.render(written))
    return made


def until(made: TestGroup, text: str) -> None:
    """Wait for a line of the log."""
    end = time.monotonic() + LONGEST
    while text not in made.logged():
        assert time.monotonic() < end, made.logged()
        time.sleep(0.01)  # the log is a file of another process: there is no event to wait for


PROTECTIONS = {b"stays": STAYS, b"leaves": LEAVES, b"open": OPEN}


def make(app: Application, name: bytes, *protections: bytes) -> None:
    """Objects of every kind, the label of each begins with `name`."""

    def named(kind: bytes, template: Template) -> dict[int, Any]:
        return {**template, ck.CKA_LABEL: name + b" " + kind, ck.CKA_ID: kind}

    for kind in protections or PROTECTIONS:
        protection = PROTECTIONS[kind]
        app.generate(ck.CKM_AES_KEY_GEN, {**named(b"aes " + kind, protection), ck.CKA_VALUE_LEN: 32})
        secret = named(b"secret " + kind, protection)
        app.generate(ck.CKM_GENERIC_SECRET_KEY_GEN, {**secret, ck.CKA_VALUE_LEN: 33, ck.CKA_SIGN: True})
        app.generate(ck.CKM_DES3_KEY_GEN, named(b"des3 " + kind, protection))
        public = named(b"ec " + kind, {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256})
        app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, named(b"ec " + kind, protection))
        app.create({**named(b"dh " + kind, {**dh_private()[1], **protection}), ck.CKA_DERIVE: True})
        app.create(named(b"rsa " + kind, {**rsa_private(1024)[1], **protection}))
    # As key stores keep them: no public key beside it, and it signs only.
    key, private = ec_private()
    assert point_of(key.public_key())
    public = named(b"store", {ck.CKA_TOKEN: False, ck.CKA_EC_PARAMS: P256})
    _, alone = app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**STAYS, ck.CKA_TOKEN: False, ck.CKA_SIGN: True})
    app.copy(alone, named(b"store", {ck.CKA_TOKEN: True}))
    app.create(named(b"raw", {**private, **LEAVES, ck.CKA_DERIVE: True, ck.CKA_SIGN: True}))
    app.create({**DATA, ck.CKA_LABEL: name + b" big", ck.CKA_VALUE: BIG, ck.CKA_OBJECT_ID: b"\6\1\1"})
    app.create({**DATA, ck.CKA_LABEL: name + b" \xff\xfe\0", ck.CKA_VALUE: b""})
    app.create({**DATA, ck.CKA_LABEL: b"", ck.CKA_VALUE: name, ck.CKA_PRIVATE: False})
    app.create(named(b"certificate", CERTIFICATE))
    number = rsa_private(1024)[0].public_key().public_numbers()
    app.create(
        {
            **named(b"public", {ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, ck.CKA_KEY_TYPE: ck.CKK_RSA, ck.CKA_TOKEN: True}),
            **{ck.CKA_MODULUS: big(number.n), ck.CKA_PUBLIC_EXPONENT: big(number.e), ck.CKA_ENCRYPT: False},
        }
    )


def test_away_while_objects_of_every_kind_are_made_changed_and_deleted(group: Group) -> None:
    made = recovering(group)
    with made.application() as app:
        make(app, b"old", b"stays", b"leaves")
        make(app, b"gone", b"stays")
    made.only(0, 1)
    with made.application() as app:
        for handle in app.find({}):
            label = app.read(handle, ck.CKA_LABEL)[ck.CKA_LABEL] or b""
            if label.startswith(b"gone"):
                app.destroy(handle)
            elif label.startswith(b"old"):
                app.set(handle, {ck.CKA_LABEL: label.replace(b"old", b"new")})
        (key,) = app.find({ck.CKA_LABEL: b"new aes stays", ck.CKA_CLASS: ck.CKO_SECRET_KEY})
        app.set(key, {ck.CKA_DERIVE: False, ck.CKA_ENCRYPT: False})
        (leaves,) = app.find({ck.CKA_LABEL: b"new aes leaves", ck.CKA_CLASS: ck.CKO_SECRET_KEY})
        app.set(leaves, {ck.CKA_EXTRACTABLE: False})
        make(app, b"made")
        before = [app.find({ck.CKA_LABEL: label}) for label in (b"made ec stays", b"made aes stays")]
        made.only(0, 1, 2)
        until(made, f"member {made.tokens[2].label} returned")
        assert [app.find({ck.CKA_LABEL: label}) for label in (b"made ec stays", b"made aes stays")] == before
    first, second, third = contents(made)
    assert first == second
    assert first == third
    assert not [label for label in labels(third) if label.startswith((b"gone", b"old"))]
    made.only(2)
    with made.application() as app:
        for each in (b"stays", b"leaves", b"open"):
            (private,) = app.find({ck.CKA_LABEL: b"made ec " + each, ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})
            (public,) = app.find({ck.CKA_LABEL: b"made ec " + each, ck.CKA_CLASS: ck.CKO_PUBLIC_KEY})
            assert app.verify(ck.CKM_ECDSA, public, bytes(32), app.sign(ck.CKM_ECDSA, private, bytes(32)))
            (aes,) = app.find({ck.CKA_LABEL: b"made aes " + each})
            assert len(app.encrypt(ck.CKM_AES_ECB, aes, bytes(16))) == 16
        (store,) = app.find({ck.CKA_LABEL: b"made store"})
        assert len(app.sign(ck.CKM_ECDSA, store, bytes(32))) == 64
    assert "conflict" not in made.logged()


def test_what_it_made_alone_goes_to_the_others(group: Group) -> None:
    made = recovering(group)
    made.only(2)
    with made.application() as app:
        make(app, b"alone", b"stays")
        made.only(0, 1, 2)
        for token in made.tokens[:2]:
            until(made, f"member {token.label} returned")
    first, second, third = contents(made)
    assert first == second == third
    assert b"alone ec stays" in labels(first)


def test_an_application_that_starts_finds_out_and_mends_it(group: Group) -> None:
    """Nobody who met the loss is left when the member is back: whoever starts next brings it up to date."""
    made = recovering(group)
    with made.application() as app:
        app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: b"old", ck.CKA_VALUE_LEN: 32})
    made.only(0, 1)
    with made.application() as app:
        app.destroy(app.find({ck.CKA_LABEL: b"old"})[0])
        app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: b"new", ck.CKA_VALUE_LEN: 32})
    made.only(0, 1, 2)
    with made.application() as app:
        until(made, f"member {LABEL}-2 returned")
        assert len(app.find({ck.CKA_LABEL: b"new"})) == 1
    first, second, third = contents(made)
    assert first == second == third
    assert labels(third) == [b"new"]


@pytest.mark.parametrize(
    ("unreplicable", "holders", "serves"), [("refuse", 2, False), ("pin", 2, True), ("refuse", 1, True)]
)
def test_a_key_that_cannot_be_brought_keeps_out_only_who_would_be_alone_without_it(
    group: Group, unreplicable: str, holders: int, serves: bool
) -> None:
    made = recovering(group, unreplicable=unreplicable)
    foreign = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_LABEL: b"foreign"}
    for holder in range(holders):
        with made.member(holder) as plain:
            # Made by the vendor's tools: nobody has a record of it.
            plain.create({**foreign, **STAYS, ck.CKA_VALUE: bytes(range(32))})
    made.only(0, 1)
    with made.application() as app:
        app.create({**DATA, ck.CKA_LABEL: b"made", ck.CKA_VALUE: b"1"})
        made.only(0, 1, 2)
        name = made.tokens[2].label
        until(made, f"member {name} returned" if serves else f"member {name} stays out: its objects differ")
        until(made, 'secret key "foreign"')
    first, _, third = map(labels, contents(made))
    assert (first, third) == ([b"foreign", b"made"], [b"made"])


def test_what_a_module_overlooks_is_not_made_a_second_time(group: Group) -> None:
    """SoftHSM need not see what another process made: provoked by the number in which it counts the changes."""
    made = recovering(group)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        aes_key(app, session, b"seen")
        here = helpers(LABEL)
        counts = {
            file: file.read_bytes() for token in made.tokens for file in token.conf.parent.glob("tokens/*/generation")
        }
        with client(made.module, made.environment) as other:
            aes_key(other, other.logged_in(other.slot_of(LABEL)), b"overlooked")
        for file, count in counts.items():
            file.write_bytes(count)
        os.kill(here[made.tokens[2].label], signal.SIGKILL)
        end = time.monotonic() + LONGEST
        while f"member {made.tokens[2].label} returned" not in made.logged():
            assert time.monotonic() < end, made.logged()
            assert app.random(session)[0] == ck.CKR_OK
        assert f"member {made.tokens[2].label}: resync" not in made.logged()
    assert list(map(labels, contents(made))) == [[b"overlooked", b"seen"]] * 3


@contextmanager
def behind(group: Group, tmp_path: Path) -> Iterator[tuple[TestGroup, Plan]]:
    """The third member is away while a key is deleted, one is changed and two objects are made; then its plan, with
    which it comes back at the end of the block."""
    made = recovering(group)
    plan = behind_chaos(made, tmp_path)[2]
    aes = {**LEAVES, ck.CKA_VALUE_LEN: 32}
    with made.application() as app:
        for name in (b"gone", b"changed"):
            app.generate(ck.CKM_AES_KEY_GEN, {**aes, ck.CKA_LABEL: name})
    made.only(0, 1)
    with made.application() as app:
        for name in (b"gone", b"changed"):
            (key,) = app.find({ck.CKA_LABEL: name})
            app.destroy(key) if name == b"gone" else app.set(key, {ck.CKA_ID: b"id"})
        app.generate(ck.CKM_AES_KEY_GEN, {**aes, ck.CKA_LABEL: b"new"})
        app.create({**DATA, ck.CKA_LABEL: b"paper"})
        yield made, plan
        until(made, f"member {made.tokens[2].label} returned")
    first, second, third = contents(made)
    assert first == second == third
    assert labels(first) == [b"changed", b"new", b"paper"], made.logged()


@pytest.mark.parametrize("function", ["C_CreateObject", "C_UnwrapKey", "C_SetAttributeValue", "C_DestroyObject"])
def test_a_step_that_fails_without_a_reason_is_done_in_the_same_resync(
    group: Group, tmp_path: Path, function: str
) -> None:
    """SoftHSM fails now and then while another process changes the token; the member need not stay out for that."""
    with behind(group, tmp_path) as (made, plan):
        plan.set(f"{function} once -> answer CKR_GENERAL_ERROR")
        made.only(0, 1, 2)
    assert plan.fired() == [function]
    assert "stays out" not in made.logged(), made.logged()


@pytest.mark.parametrize("function", ["C_SetAttributeValue", "C_DestroyObject"])
def test_what_cannot_be_deleted_or_changed_keeps_the_member_out_and_does_not_come_back(
    group: Group, tmp_path: Path, function: str
) -> None:
    with behind(group, tmp_path) as (made, plan):
        plan.set(f"{function} -> answer CKR_ACTION_PROHIBITED")
        made.only(0, 1, 2)
        until(made, "stays out: its objects differ")
        for index in (0, 1):
            with made.member(index) as member:
                assert labels(content(member)) == [b"changed", b"new", b"paper"], made.logged()
        plan.set()
