"""A second strategy of cloning, as a vendor's own would be one, beside the one that is shipped: creations, resync and
session keys go through it, for the keys that it takes."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME
from pyha.cryptoki.plain import replace
from pyha.cryptoki.values import Attribute, Mechanism, Out, Query, Template
from pyha.entry import guarded
from pyha.ha.cloning import Carried
from pyha.ha.identity import ulong
from pyha.ha.records import decode
from pyha.provider import Provider
from pyha.runtime.assembly import assemble
from pyha.runtime.bench import Bench
from pyha.runtime.proving import Proof
from pyha.runtime.resync import Outcome, resynchronise
from pyha.runtime.strategy import Strategy
from pyha.runtime.wrapping import Wrapping
from tests.client import helpers
from tests.integration.conftest import TestGroup

Group = Callable[..., TestGroup]
LABEL = f"ways-{os.getpid()}"
SECRET, AES = ck.CKK_GENERIC_SECRET, ck.CKK_AES


class Turned:
    """It takes generic secrets only, and its form is of no use to the other one: what wrapping gives, back to front.
    `made`, `carried`: CKA_LABEL of what has gone through it."""

    name = "turned"

    def __init__(self) -> None:
        self.made: list[bytes] = []
        self.carried: list[bytes] = []
        self._by = Wrapping()

    def takes(self, object_class: int, key_type: int) -> bool:
        return (object_class, key_type) == (ck.CKO_SECRET_KEY, SECRET)

    def obstacle(self, settings: Mapping[int, bytes]) -> str | None:
        return self._by.obstacle(settings)

    def _turned(self, carried: Carried) -> Carried:
        self.carried.append(label_of(carried.template))
        return replace(carried, blob=carried.blob[::-1], strategy=self.name)

    def carry(
        self, bench: Bench, original: int, shown: Mapping[int, bytes], template: Template, proof: Proof | None
    ) -> Carried:
        return self._turned(self._by.carry(bench, original, shown, template, proof))

    def carry_of_session(self, bench: Bench, original: int, shown: Mapping[int, bytes], template: Template) -> Carried:
        return self._turned(self._by.carry_of_session(bench, original, shown, template))

    def make(self, bench: Bench, carried: Carried, template: Template) -> tuple[int, int]:
        self.made.append(label_of(template))
        return self._by.make(bench, replace(carried, blob=carried.blob[::-1]), template)

    def is_again(self, bench: Bench, real: int, carried: Carried) -> bool | None:
        return self._by.is_again(bench, real, replace(carried, blob=carried.blob[::-1]))


def label_of(template: Template) -> bytes:
    return next(bytes(each.value) for each in template if each.type == ck.CKA_LABEL)


class Application:
    """The inside of the module, without the C of it. `group`: its only one."""

    def __init__(self, pin: str, strategy: Strategy) -> None:
        groups, _, reload = assemble(secure=False)
        (self.group,) = groups
        self.group.strategies = (strategy,)
        self.provider = Provider(groups, reload, guarded)
        self.session = self("C_OpenSession", self.group.slot, 6, None, None, None)[3]
        self("C_Login", ck.CKU_USER, pin.encode())

    def __call__(self, name: str, *values: Any) -> list[Any]:
        """One call on the session; the results."""
        given = list(values) if name == "C_OpenSession" else [self.session, *values]
        rv, results = self.provider.call(BY_NAME[name], given)
        assert rv == ck.CKR_OK, hex(rv)
        return results

    def key(self, label: bytes, key_type: int, extractable: bool, token: bool = True) -> int:
        """C_GenerateKey."""
        mechanism = ck.CKM_AES_KEY_GEN if key_type == AES else ck.CKM_GENERIC_SECRET_KEY_GEN
        template = (
            Attribute(ck.CKA_TOKEN, bytes([token])),
            Attribute(ck.CKA_LABEL, label),
            Attribute(ck.CKA_SENSITIVE, b"\1"),
            Attribute(ck.CKA_EXTRACTABLE, bytes([extractable])),
            Attribute(ck.CKA_SIGN, b"\1"),
            Attribute(ck.CKA_VALUE_LEN, ulong(32)),
        )
        return int(self("C_GenerateKey", Mechanism(mechanism), template, None)[3])

    def tag(self, key: int) -> bytes:
        """C_SignInit, C_Sign: an HMAC."""
        self("C_SignInit", Mechanism(ck.CKM_SHA256_HMAC), key)
        return bytes(self("C_Sign", b"message", Out(64))[2][1])

    def resync(self) -> Outcome:
        """All members made to hold the same."""
        return resynchronise(self.group, self.group.present())


@pytest.fixture
def two(group: Group, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TestGroup, Application, Turned]]:
    made = group(members=2, label=LABEL)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    strategy = Turned()
    application = Application(made.pin, strategy)
    yield made, application, strategy
    application.provider.finalize()


def test_creations_and_resync_go_through_it(two: tuple[TestGroup, Application, Turned]) -> None:
    made, app, turned = two
    for extractable in (False, True):
        app.key(b"secret %d" % extractable, SECRET, extractable)
        app.key(b"aes %d" % extractable, AES, extractable)
    assert set(turned.carried) == set(turned.made) == {b"secret 0", b"secret 1"}
    with made.member(1) as plain:
        records = [decode(plain.value(each, ck.CKA_VALUE) or b"") for each in plain.find({ck.CKA_APPLICATION: b"pyha"})]
        assert {label_of(each.template): each.strategy for each in records} == {
            b"secret 0": "turned",
            b"aes 0": "wrapping",
        }
        for label in (b"secret 0", b"secret 1", b"aes 0", b"aes 1"):
            (key,) = plain.find({ck.CKA_LABEL: label})
            plain.destroy(key)
    turned.carried.clear()
    turned.made.clear()
    app.group.strategies = ()
    (left,) = app.resync().left
    assert left.reason == "it cannot be copied: it was carried by a strategy that is not here: turned"
    with made.member(1) as plain:
        plain.destroy(*plain.find({ck.CKA_LABEL: b"secret 1"}))
    app.group.strategies = (turned,)
    assert app.resync().left == ()
    assert set(turned.carried) == {b"secret 1"}, "the other one comes from its record"
    assert set(turned.made) == {b"secret 0", b"secret 1"}
    with made.member(1) as plain:
        assert len(plain.find({ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: SECRET})) == 2


@pytest.mark.parametrize("extractable", [False, True])
def test_session_keys_go_through_it(two: tuple[TestGroup, Application, Turned], extractable: bool) -> None:
    made, app, turned = two
    key = app.key(b"session", SECRET, extractable, token=False)
    before = app.tag(key)
    assert turned.carried == [b"session"]
    turned.made.clear()
    os.kill(helpers(LABEL)[made.tokens[0].label], signal.SIGKILL)
    assert app.tag(key) == before
    assert b"session" in turned.made
    found = app("C_GetAttributeValue", key, (Query(ck.CKA_EXTRACTABLE, 1),))[2]
    assert bytes(found[0].value) == bytes([extractable])
