"""Who serves without having been compared with another member, and who waits until it can be (SEMANTICS.md sections 2
and 4)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pyha.cli import config_write
from pyha.cli.status_reader import Reader
from pyha.cryptoki import constants as ck
from pyha.runtime import config
from tests.chaos import behind_chaos
from tests.client import aes_key, client
from tests.integration.conftest import TestGroup
from tests.integration.test_recovery import LABEL, kill, recovering, until

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
AWAY = "C_Initialize -> answer CKR_DEVICE_ERROR"


def test_who_served_alone_is_resynchronised_when_another_returns(group: Group, tmp_path: Path) -> None:
    made = recovering(group)
    board = tmp_path / "board"
    written = replace(config.load(str(made.conf)), status_directory=str(board))
    config_write.write(str(made.conf), config_write.render(written))

    def unsynchronised() -> list[str]:
        (seen,) = Reader([str(board)]).look()
        return [member.name for member in seen.view.members if member.unsynchronised]

    plans = behind_chaos(made, tmp_path)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))

        def found(label: bytes) -> int:
            return len(app.find(session, {ck.CKA_LABEL: label})[1])

        deleted = aes_key(app, session, b"deleted")
        plans[0].set(AWAY)
        kill(made, 0)
        until(made, f"member {LABEL}-0 lost", app, session)
        assert app.destroy(session, deleted) == OK
        aes_key(app, session, b"missed")
        for plan in plans[1:]:
            plan.set(AWAY)
        kill(made, 1, 2)
        while app.random(session)[0] == OK:
            pass
        plans[0].set()
        until(made, f"member {LABEL}-0 serves unsynchronised")
        assert unsynchronised() == [f"{LABEL}-0"]
        assert (found(b"deleted"), found(b"missed")) == (1, 0), "it knows of nothing that happened without it"
        aes_key(app, session, b"alone")
        plans[1].set()
        until(made, f"member {LABEL}-1 returned", app, session)
        assert (found(b"deleted"), found(b"missed"), found(b"alone")) == (0, 1, 1)
        assert unsynchronised() == []
        assert f"member {LABEL}-0 was resynchronised with {LABEL}-1" in made.logged()
    for index in (0, 1):
        with made.member(index) as token:
            assert [len(token.find({ck.CKA_LABEL: label})) for label in (b"deleted", b"missed", b"alone")] == [0, 1, 1]


def test_while_the_security_officer_is_logged_in_nobody_returns_uncompared(group: Group, tmp_path: Path) -> None:
    """An SO does not see what is to be compared: what was deleted meanwhile must not be there again."""
    made = recovering(group)
    plans = behind_chaos(made, tmp_path)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        template = {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_TOKEN: True, ck.CKA_LABEL: b"deleted", ck.CKA_PRIVATE: False}
        rv, public = app.create(session, template)
        assert rv == OK
        plans[0].set(AWAY)
        kill(made, 0)
        until(made, f"member {LABEL}-0 lost", app, session)
        assert app.destroy(session, public) == OK
        assert app.logout(session) == OK
        assert app.login(session, made.tokens[0].so_pin, ck.CKU_SO) == OK
        plans[0].set()
        until(made, f"member {LABEL}-0 stays out: awaiting login")
        assert app.find(session, {ck.CKA_LABEL: b"deleted"}) == (OK, [])
        assert app.logout(session) == OK
        assert app.login(session, made.pin) == OK
        assert f"member {LABEL}-0 returned" in made.logged()
        assert app.find(session, {ck.CKA_LABEL: b"deleted"}) == (OK, [])
