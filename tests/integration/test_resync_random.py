"""Random histories of two hosts that use one group: each sees other members, which it loses in the middle of calls and
gets back; both create, change and delete. In the end `pyha group sync` leaves all members alike: what was deleted is
gone, what was kept is usable, and no protection is weaker than it was asked to be.

PYHA_RANDOM_SEEDS=a:b in the environment plays the histories of those seeds instead of a few.
"""

import os
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pyha.cli.main import main
from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings
from tests.application import Answered, Application
from tests.chaos import Plan, behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, P256, STAYS
from tests.integration.test_resync import CERTIFICATE, DATA, content

Group = Callable[..., TestGroup]
LABEL = f"random-{os.getpid()}"
MEMBERS = 3
STEPS = 14
KINDS = ("sealed", "open", "imported", "pair", "data", "certificate")
GENERATED = ("sealed", "open", "pair")
CRASHES = ("C_CreateObject", "C_UnwrapKey", "C_DestroyObject", "C_SetAttributeValue", "C_FindObjectsInit", "C_WrapKey")
AT_NEXT_CALL = RecoverySettings(RecoveryMode.ON_CALL, interval=0.1, attempts=-1)


def seeds() -> list[int]:
    """Those that were asked for, or a few."""
    first, _, last = os.environ.get("PYHA_RANDOM_SEEDS", "").partition(":")
    return list(range(int(first), int(last))) if last else [7, 62]


@dataclass
class Host:
    """One application, behind plans of its own."""

    app: Application
    plans: list[Plan]
    cut: set[int] = field(default_factory=set)


@dataclass
class Known:
    """What the histories' observer knows of one name. `there`: whether the application was told that it is made, or
    gone; None: nobody can say. `by`: who touched it. `sealed`: it must not leave its tokens."""

    there: bool | None
    by: set[int]
    sealed: bool = False


class History:
    """One history. Every object has a label of its own, except that now and then one is made again as it was."""

    def __init__(self, seed: int, hosts: list[Host]) -> None:
        self.random = random.Random(seed)
        self.hosts = hosts
        self.known: dict[bytes, Known] = {}
        self.told: list[str] = []
        self._made = 0

    def play(self) -> None:
        """All of it."""
        for _ in range(STEPS):
            at = self.random.randrange(len(self.hosts))
            what = self.random.choice(
                ("make", "make", "make", "again", "change", "change", "delete", "delete", "cut", "cut", "back", "crash")
            )
            self._step(at, what)

    def _step(self, at: int, what: str) -> None:
        host = self.hosts[at]
        if what == "cut":
            index = self.random.randrange(MEMBERS)
            if len(host.cut) < MEMBERS - 1:
                host.cut.add(index)
                host.plans[index].set("any -> dead CKR_DEVICE_REMOVED")
                self.told.append(f"{at}: cut off from {index}")
        elif what == "back":
            for index in sorted(host.cut):
                host.plans[index].set()
            host.cut.clear()
            self.told.append(f"{at}: all are back")
        elif what == "crash":
            index, name = self.random.randrange(MEMBERS), self.random.choice(CRASHES)
            nth = self.random.randint(1, 4)
            if index not in host.cut:
                host.plans[index].set(f"{name} nth={nth} once -> crash")
                self.told.append(f"{at}: {index} crashes at {name} {nth}")
        elif what == "make":
            self._made += 1
            kind = self.random.choice(KINDS)
            self._make(at, f"{kind}-{self._made}".encode())
        else:
            names = sorted(self.known)
            if names:
                touch = {"again": self._make, "change": self._change, "delete": self._delete}[what]
                touch(at, self.random.choice(names))

    def _make(self, at: int, name: bytes) -> None:
        if self._find(at, name):
            return
        before = self.known.get(name)
        kind = name.split(b"-")[0].decode()
        if before is not None and kind in GENERATED:
            return  # of the same name, but another key
        done = self._told(at, f"make {name!r}", lambda: make(self.hosts[at].app, kind, name))
        alone = before is None or before.by == {at}
        sealed = kind in ("sealed", "pair")
        self.known[name] = Known(done if alone and done else None, {at, *(before.by if before else ())}, sealed)

    def _change(self, at: int, name: bytes) -> None:
        found, known = self._find(at, name), self.known[name]
        if not found:
            return
        kind = name.split(b"-")[0].decode()
        change: dict[int, Any] = {ck.CKA_ID: bytes([self.random.randrange(4)])}
        if kind in ("data", "certificate"):
            change = {ck.CKA_VALUE: bytes([self.random.randrange(4)])} if kind == "data" else change
        elif self.random.random() < 0.7:
            change = self.random.choice(
                [{ck.CKA_EXTRACTABLE: False}, {ck.CKA_SENSITIVE: True}, {ck.CKA_DERIVE: True}, {ck.CKA_DERIVE: False}]
            )
        app = self.hosts[at].app
        done = self._told(at, f"change {name!r} {change}", lambda: each_of(found, lambda real: app.set(real, change)))
        known.sealed |= done is True and change == {ck.CKA_EXTRACTABLE: False}
        self._touch(at, known, known.there)

    def _delete(self, at: int, name: bytes) -> None:
        found, known = self._find(at, name), self.known[name]
        if not found:
            return
        app = self.hosts[at].app
        done = self._told(at, f"delete {name!r}", lambda: each_of(found, app.destroy))
        self._touch(at, known, False if done else None)

    def _touch(self, at: int, known: Known, there: bool | None) -> None:
        """By one host alone: then it is as that host was told. What both touched may have met on the way."""
        known.there = there if known.by <= {at} and known.there is not None else None
        known.by.add(at)

    def _find(self, at: int, name: bytes) -> list[int]:
        try:
            return self.hosts[at].app.find({ck.CKA_LABEL: name})
        except Answered:
            return []

    def _told(self, at: int, what: str, work: Callable[[], object]) -> bool | None:
        try:
            work()
        except Answered as answered:
            self.told.append(f"{at}: {what}: {answered}")
            return None
        self.told.append(f"{at}: {what}")
        return True


def each_of(reals: list[int], work: Callable[[int], object]) -> None:
    """The work on each of them."""
    for real in reals:
        work(real)


def make(app: Application, kind: str, name: bytes) -> None:
    """One object, or a pair."""
    named = {ck.CKA_LABEL: name}
    if kind in ("sealed", "open"):
        app.generate(ck.CKM_AES_KEY_GEN, {**(STAYS if kind == "sealed" else LEAVES), **named, ck.CKA_VALUE_LEN: 32})
    elif kind == "imported":
        value = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: name.ljust(32, b".")}
        app.create({**value, **LEAVES, **named})
    elif kind == "pair":
        pair = {**named, ck.CKA_ID: name}
        public = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, **pair}
        app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**STAYS, ck.CKA_SIGN: True, **pair})
    else:
        app.create({**(DATA if kind == "data" else CERTIFICATE), **named})


def used(member: Application, name: bytes) -> bytes:
    """What shows that a key is usable, and which one it is; empty for what is none."""
    for real in member.find({ck.CKA_LABEL: name, ck.CKA_CLASS: ck.CKO_SECRET_KEY}):
        return member.encrypt(ck.CKM_AES_ECB, real, bytes(16))
    for real in member.find({ck.CKA_LABEL: name, ck.CKA_CLASS: ck.CKO_PRIVATE_KEY}):
        signature = member.sign(ck.CKM_ECDSA, real, bytes(32))
        (public,) = member.find({ck.CKA_LABEL: name, ck.CKA_CLASS: ck.CKO_PUBLIC_KEY})
        assert member.verify(ck.CKM_ECDSA, public, bytes(32), signature), name
    return b""


def check(made: TestGroup, history: History) -> None:
    """All members, looked at directly."""
    with ExitStack() as stack:
        members = [stack.enter_context(made.member(index)) for index in range(MEMBERS)]
        contents = [content(member) for member in members]
        assert contents[0] == contents[1] == contents[2]
        records = {dict(each)[ck.CKA_LABEL] for each in contents[0] if dict(each)[ck.CKA_APPLICATION] == b"pyha"}
        assert not [label for label in records if label.startswith(b"tombstone")]
        sealed = 0
        for name, known in history.known.items():
            reals = members[0].find({ck.CKA_LABEL: name})
            expected = 2 if name.startswith(b"pair") else 1
            if known.there is not None:
                assert len(reals) == (expected if known.there else 0), (name, known)
            assert len(reals) <= expected, name
            if len(reals) == expected:
                assert len({used(member, name) for member in members}) == 1
            for real in members[0].find({ck.CKA_LABEL: name, ck.CKA_EXTRACTABLE: False}):
                sealed += 1
                assert members[0].read(real, ck.CKA_SENSITIVE)[ck.CKA_SENSITIVE] == b"\1"
            if known.sealed:
                assert not members[0].find({ck.CKA_LABEL: name, ck.CKA_EXTRACTABLE: True}), name
        assert len(records) == sealed


@pytest.mark.parametrize("seed", seeds())
def test_all_members_are_alike_in_the_end(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    made = group(members=MEMBERS, label=LABEL, recovery=AT_NEXT_CALL)
    monkeypatch.setenv("TEST_PIN", made.pin)
    with ExitStack() as stack:
        hosts = []
        for at in range(2):
            own = replace(made, conf=made.conf.with_name(f"host-{at}.toml"))
            own.conf.write_bytes(made.conf.read_bytes())
            own.conf.chmod(0o600)
            directory = tmp_path / f"plans-{at}"
            directory.mkdir()
            plans = behind_chaos(own, directory)
            hosts.append(Host(stack.enter_context(own.application()), plans))
        history = History(seed, hosts)
        history.play()
    print("\n".join(history.told))
    words = ["group", "sync", LABEL, "--pin-source", "env:TEST_PIN", "--config", str(made.conf)]
    assert main(words) == 0, made.logged()
    assert main([*words, "--dry-run"]) == 0
    check(made, history)
