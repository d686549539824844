"""Nothing grows with the calls of an application: real sessions, handles, bindings, load."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, Function
from pyha.cryptoki.values import Attribute, Mechanism, Out
from pyha.entry import guarded
from pyha.ha.identity import ulong
from pyha.provider import Provider
from pyha.runtime.assembly import assemble
from pyha.runtime.member import Connection
from tests.integration.conftest import TestGroup

Group = Callable[..., TestGroup]
OK = ck.CKR_OK


class Sessions:
    """The real sessions that are open on each member, counted where they are opened and closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open: dict[str, set[int]] = {}
        invoke = Connection.invoke

        def counted(
            connection: Connection, function: Function, values: list[Any], deadline: float
        ) -> tuple[int, list[Any]]:
            rv, results = invoke(connection, function, values, deadline)
            mine = self.open.setdefault(connection.name, set())
            if function.name == "C_OpenSession" and rv == OK:
                mine.add(results[3])
            elif function.name == "C_CloseSession":
                mine.discard(values[0])
            elif function.name == "C_CloseAllSessions":
                mine.clear()
            return rv, results

        monkeypatch.setattr(Connection, "invoke", counted)


@pytest.fixture
def used(group: Group, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Provider, Any, Sessions]]:
    made = group(label="leaks")
    monkeypatch.setenv("PYHA_CONF", str(made.conf))
    sessions = Sessions(monkeypatch)
    groups, _, reload = assemble(secure=False)
    provider = Provider(groups, reload, guarded)
    yield provider, groups[0], sessions
    provider.finalize()


def test_rounds_of_everything_leave_nothing(used: tuple[Provider, Any, Sessions]) -> None:
    provider, group, sessions = used

    def call(name: str, *values: Any) -> tuple[int, list[Any]]:
        return provider.call(BY_NAME[name], list(values))

    def opened() -> int:
        rv, results = call("C_OpenSession", group.slot, 6, None, None)
        assert rv == OK
        return int(results[3])

    def template(*attributes: tuple[int, bytes]) -> tuple[Attribute, ...]:
        return tuple(Attribute(*attribute) for attribute in attributes)

    def size() -> tuple[Any, ...]:
        connections = [connection for connection in group.connections if connection is not None]
        return (
            {name: len(handles) for name, handles in sessions.open.items()},
            [(len(each.bound), len(each.known)) for each in connections],
            len(group.objects.entries()),
            group.loads,
            len(group.sessions),
        )

    def once(number: int) -> None:
        own = opened()
        aes = (ck.CKA_VALUE_LEN, ulong(32)), (ck.CKA_LABEL, b"s%d" % number)
        rv, made = call(
            "C_GenerateKey", own, Mechanism(ck.CKM_AES_KEY_GEN), template(*aes, (ck.CKA_TOKEN, b"\0")), None
        )
        assert rv == OK
        for data, good in ((bytes(15), False), (bytes(16), True)):
            assert call("C_EncryptInit", own, Mechanism(ck.CKM_AES_ECB), made[3])[0] == OK
            assert (call("C_Encrypt", own, data, Out(64))[0] == OK) is good
        assert call("C_EncryptInit", own, Mechanism(ck.CKM_ECDSA), made[3])[0] != OK
        assert call("C_FindObjectsInit", keeper, template(aes[1]))[0] == OK
        assert call("C_FindObjects", keeper, 10)[1][1] == (made[3],)
        assert call("C_FindObjectsFinal", keeper)[0] == OK
        assert call("C_DigestInit", keeper, Mechanism(ck.CKM_SHA256))[0] == OK
        assert call("C_DigestInit", keeper, Mechanism(ck.CKM_SHA256))[0] == ck.CKR_OPERATION_ACTIVE
        assert call("C_Digest", keeper, b"x", Out(32))[0] == OK
        if number % 2:
            assert call("C_DestroyObject", own, made[3])[0] == OK
        if number % 5 == 0:
            hard = template(*aes, (ck.CKA_TOKEN, b"\1"), (ck.CKA_EXTRACTABLE, b"\0"))
            rv, made = call("C_GenerateKey", own, Mechanism(ck.CKM_AES_KEY_GEN), hard, None)
            assert rv == OK
            assert call("C_FindObjectsInit", keeper, template(aes[1], (ck.CKA_TOKEN, b"\1")))[0] == OK
            assert call("C_FindObjects", keeper, 10)[1][1] == (made[3],)
            assert call("C_FindObjectsFinal", keeper)[0] == OK
            assert call("C_DestroyObject", own, made[3])[0] == OK
        if number % 7 == 0:
            assert call("C_DigestInit", own, Mechanism(ck.CKM_SHA256))[0] == OK
        assert call("C_CloseSession", own)[0] == OK

    keeper = opened()
    assert call("C_Login", keeper, ck.CKU_USER, b"1234")[0] == OK
    for number in range(10):
        once(number)
    before = size()
    for number in range(10, 45):
        once(number)
    assert size()[1:] == before[1:]
    assert max(size()[0].values()) <= 3  # the anchor, and idle ones for the operations that the application has at once
    assert call("C_CloseAllSessions", group.slot)[0] == OK
    assert set(size()[0].values()) == {0}
    assert size()[1:] == ([(0, 0)] * 3, 0, [0.0] * 3, 0)
