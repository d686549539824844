"""All that one call of the application does on one member shares one deadline: waiting for a place, opening a session,
login, binding, replay, the call itself (SEMANTICS.md section 4). So it waits for a hung member once."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyha.abi.link import Arena, _Link
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, Function
from pyha.cryptoki.values import Attribute, Mechanism, Out, Query
from pyha.entry import guarded
from pyha.ha.identity import ulong
from pyha.provider import Provider
from pyha.runtime.assembly import assemble
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from tests.integration.conftest import TestGroup

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
LABEL = "deadline"
HMAC = Mechanism(ck.CKM_SHA256_HMAC)


class Inside:
    """The inside of the module, and what each call on a member was given as its deadline. `calls`: (member, function,
    deadline); `places`: the deadlines until which a place was waited for."""

    def __init__(self, made: TestGroup, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str, float]] = []
        self.places: set[float] = set()
        self.refuses: dict[str, int] = {}  # function -> what each member answers it once
        invoke = Connection.invoke

        def seen(
            connection: Connection, function: Function, values: list[Any], deadline: float
        ) -> tuple[int, list[Any]]:
            self.calls.append((connection.name, function.name, deadline))
            rv = self.refuses.pop(function.name, None)
            return invoke(connection, function, values, deadline) if rv is None else (rv, [None] * len(values))

        arena = _Link.arena

        def leased(link: _Link, capacity: int, deadline: float) -> Arena:
            self.places.add(deadline)
            return arena(link, capacity, deadline)

        monkeypatch.setattr(Connection, "invoke", seen)
        monkeypatch.setattr(_Link, "arena", leased)
        groups, _, reload = assemble(secure=False)
        self.group: GroupRuntime = groups[0]
        self.provider = Provider(groups, reload, guarded)
        ticks = itertools.count()
        now = self.group.clock
        # No two readings are the same, however fast it goes.
        self.group.clock = lambda: now() + next(ticks) * 1e-6
        self.session = self("C_OpenSession", self.group.slot, 6, None, None)[3]
        self("C_Login", ck.CKU_USER, made.pin.encode())

    def __call__(self, name: str, *values: Any, answer: int = OK) -> list[Any]:
        given = list(values) if name == "C_OpenSession" else [self.session, *values]
        rv, results = self.provider.call(BY_NAME[name], given)
        assert rv == answer, hex(rv)
        return results

    def forget(self) -> None:
        """Each member is as one that the application comes to for the first time, and that has lost its login."""
        for connection in self.group.connections:
            assert connection is not None
            connection.drop_idle(self.group.deadline())
            connection.forget_login(connection.logins, self.group.deadline())

    def watched(self, name: str, *values: Any, answer: int = OK) -> list[str]:
        """One call of the application, on one member: what was called there, with one deadline."""
        self.calls.clear()
        self.places.clear()
        self(name, *values, answer=answer)
        assert len({member for member, _, _ in self.calls}) == 1
        assert len(self.places | {deadline for _, _, deadline in self.calls}) == 1, self.calls
        return [function for _, function, _ in self.calls]


@pytest.fixture
def inside(group: Group, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    made = group(label=LABEL)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    found = Inside(made, monkeypatch)
    yield found
    found.provider.finalize()


def test_every_kind_of_call(inside: Inside) -> None:
    template = (
        *(Attribute(each, b"\1") for each in (ck.CKA_TOKEN, ck.CKA_SIGN, ck.CKA_EXTRACTABLE)),
        Attribute(ck.CKA_LABEL, b"key"),
        Attribute(ck.CKA_VALUE_LEN, ulong(32)),
    )
    key = inside("C_GenerateKey", Mechanism(ck.CKM_GENERIC_SECRET_KEY_GEN), template, None)[3]
    for name, *values in (
        ("C_GenerateRandom", Out(8)),
        ("C_GetAttributeValue", key, (Query(ck.CKA_LABEL, 8),)),
        ("C_FindObjectsInit", template[:1]),
        ("C_SignInit", HMAC, key),
        ("C_SignUpdate", b"part"),
        ("C_SignFinal", Out(64)),
    ):
        inside.forget()
        assert len(inside.watched(name, *values)) > 1, "a session or a login had to be had"
        if name == "C_FindObjectsInit":
            inside("C_FindObjectsFinal")
        if name in ("C_GenerateRandom", "C_GetAttributeValue", "C_SignUpdate"):
            inside.refuses[name] = ck.CKR_SESSION_HANDLE_INVALID
            assert inside.watched(name, *values).count(name) > 1


def test_an_operation_that_ends_with_an_error(inside: Inside) -> None:
    """Its session on the member is thrown away: a member that does not let it be closed is not waited for anew."""
    for name, *values in (("C_Digest", b"data", Out(64)), ("C_DigestUpdate", b"data")):
        inside("C_DigestInit", Mechanism(ck.CKM_SHA256))
        inside.refuses[name] = ck.CKR_DATA_INVALID
        assert inside.watched(name, *values, answer=ck.CKR_DATA_INVALID) == [name, "C_CloseSession"]
