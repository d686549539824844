"""Keys that look like one another: the one that is used on a member is the one that is meant, or none."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from tests.application import Answered, Application
from tests.client import helpers
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, P256, Scene, ec_private, point_of, scene

Group = Callable[..., TestGroup]
LABEL = f"alikes-{os.getpid()}"
NAMED: dict[int, Any] = {ck.CKA_LABEL: b"it", ck.CKA_ID: b"\1"}
PRIVATE: dict[int, Any] = {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, **NAMED}
PUBLIC: dict[int, Any] = {ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, **NAMED}
DIGEST = bytes(range(32))


@contextmanager
def pair(group: Group) -> Iterator[tuple[Scene, Application, dict[int, Any]]]:
    """A pair on both members, and the second one without the public half; the private half's template."""
    made = group(members=2, label=LABEL)
    with scene(made) as it:
        key, private = ec_private()
        point = {ck.CKA_KEY_TYPE: ck.CKK_EC, ck.CKA_EC_PARAMS: P256, ck.CKA_EC_POINT: point_of(key.public_key())}
        it.app.create({**PUBLIC, **point, ck.CKA_TOKEN: True, ck.CKA_VERIFY: True})
        private = {**private, **LEAVES, **NAMED, ck.CKA_SIGN: True}
        it.app.create(private)
        second = it.members[1]
        for public in second.find(PUBLIC):
            second.destroy(public)
        yield it, second, private


def foreign(member: Application, count: int) -> None:
    for _ in range(count):
        member.create({**ec_private()[1], **LEAVES, **NAMED, ck.CKA_SIGN: True})


def on_the_second(made: TestGroup) -> None:
    """From now on only it serves."""
    os.kill(helpers(LABEL)[made.tokens[0].label], signal.SIGKILL)


def test_the_one_that_the_public_key_proves_is_used(group: Group) -> None:
    with pair(group) as (it, second, template), it.group.application() as app:
        (own,) = second.find(PRIVATE)
        second.destroy(own)
        foreign(second, 4)
        second.create(template)
        (private,) = app.find(PRIVATE)
        first = it.members[0]
        (verifier,) = first.find(PUBLIC)
        on_the_second(it.group)
        signature = app.sign(ck.CKM_ECDSA, private, DIGEST)
        assert first.verify(ck.CKM_ECDSA, verifier, DIGEST, signature)


def test_another_key_of_that_name_is_not_used(group: Group) -> None:
    with pair(group) as (it, second, _), it.group.application() as app:
        (own,) = second.find(PRIVATE)
        second.destroy(own)
        foreign(second, 1)
        (private,) = app.find(PRIVATE)
        on_the_second(it.group)
        with pytest.raises(Answered, match="CKR_KEY_HANDLE_INVALID"):
            app.sign(ck.CKM_ECDSA, private, DIGEST)
        assert "needs a resync: an object is missing" in it.group.logged()


def test_nothing_is_destroyed_that_cannot_be_told_apart(group: Group) -> None:
    """None of them signs, and the public half is gone."""
    with pair(group) as (it, second, _), it.group.application() as app:
        (own,) = second.find(PRIVATE)
        second.set(own, {ck.CKA_SIGN: False})
        for _ in range(2):
            second.create({**ec_private()[1], **LEAVES, **NAMED, ck.CKA_SIGN: False})
        (private,) = app.find(PRIVATE)
        with pytest.raises(Answered, match="CKR_DEVICE_ERROR"):
            app.destroy(private)
        assert [len(member.find(PRIVATE)) for member in it.members] == [1, 3]
