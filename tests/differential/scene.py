"""Both sides with their tokens: made once, and put back to what they were before each sequence, so that no sequence
knows of another."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import ATTRIBUTES
from pyha.cryptoki.names import rv_name
from pyha.ha.domain import APPLICATION
from tests.differential.faults import Fault, Trouble
from tests.differential.lockstep import Lockstep
from tests.differential.worker import Answer, Worker
from tests.integration.conftest import TestGroup
from tests.softhsm import MODULE, SoftHSM

_ROOM = 1024
_READ = tuple(sorted(each for each in ATTRIBUTES if each & ck.CKF_ARRAY_ATTRIBUTE == 0))

Object = Mapping[int, bytes | None]
"""CKA_ -> value; without those that an object of its kind does not have, None where it is not shown."""


class Scene:
    """A plain token, a group, and a process for each: of the plain module, of the slot, of the members' plain
    module."""

    def __init__(self, group: TestGroup, directory: Path, trouble: Trouble | None = None) -> None:
        """`trouble`: what the members' modules are behind, where faults are to strike them."""
        self.group = group
        self.trouble = trouble
        self._token = SoftHSM(directory).token("plain", own_store=True)
        with self._token.conf.open("a") as conf:
            conf.write("library.reset_on_fork = true\n")  # without it no child can initialise SoftHSM again
        self._stores = {token.conf.parent / "tokens" for token in (self._token, *group.tokens)}
        for store in self._stores:
            shutil.copytree(store, self._kept(store))
        self.bare = Worker(MODULE, self._token.environment)
        self.slot = Worker(group.module, group.environment)
        self.members = Worker(MODULE, group.tokens[0].environment)

    @staticmethod
    def _kept(store: Path) -> Path:
        return store.with_name("kept")

    def start(self) -> Lockstep:
        """Both sides initialised, with their tokens as at first."""
        for store in self._stores:
            shutil.rmtree(store)
            shutil.copytree(self._kept(store), store)
        if self.trouble is not None:
            self.trouble.begin()
        for worker in (self.bare, self.slot):
            initialized = worker.call("C_Initialize", None).rv
            assert initialized == ck.CKR_OK, rv_name(initialized)
        return Lockstep(
            self.bare, self.slot, (slot_of(self.bare, self._token.label), slot_of(self.slot, self.group.label))
        )

    def present(self) -> list[int]:
        """The members that are in."""
        return list(range(len(self.group.tokens))) if self.trouble is None else self.trouble.present()

    def strike(self, fault: Fault) -> str:
        """Make a fault happen; what was done, in a word."""
        assert self.trouble is not None
        return self.trouble.strike(fault)

    def stop(self) -> None:
        """Both sides finalised, in the processes that were there at first. What had crashed is not initialised any
        more."""
        for worker in (self.bare, self.slot):
            worker.home()
            finalized = worker.call("C_Finalize", None).rv
            assert finalized in (ck.CKR_OK, ck.CKR_CRYPTOKI_NOT_INITIALIZED), rv_name(finalized)
        if self.trouble is not None:
            self.trouble.end()

    def said(self) -> str:
        """What the slot has logged in this sequence, where that is known."""
        return "" if self.trouble is None else self.trouble.said()

    def restart(self) -> None:
        """Both sides initialised anew, in the processes that were there at first: what is looked at now is on the
        tokens, whatever the modules had in memory."""
        self.stop()
        for worker in (self.bare, self.slot):
            assert worker.call("C_Initialize", None).rv == ck.CKR_OK

    def close(self) -> None:
        """Ends the processes."""
        for worker in (self.bare, self.slot, self.members):
            worker.close()

    def on_members(self, indices: list[int]) -> dict[int, dict[bytes, Object]]:
        """What these members' tokens hold of the application's objects, asked of their own module. To be called once
        the group is finalised."""
        _done(self.members, "C_Initialize", None)
        try:
            tokens = self.group.tokens
            return {at: token_objects(self.members, slot_of(self.members, tokens[at].label)) for at in indices}
        finally:
            _done(self.members, "C_Finalize", None)


def slot_of(worker: Worker, label: str) -> int:
    """The slot with this token."""
    slots = worker.call("C_GetSlotList", 1, 64).results[1]
    for slot in slots:
        info = worker.call("C_GetTokenInfo", slot, True).results[1]
        if info[:32].decode().rstrip() == label:
            return int(slot)
    raise AssertionError(f"no token {label}")


def _done(worker: Worker, name: str, *values: Any) -> Answer:
    """A call that has to succeed."""
    answer = worker.call(name, *values)
    assert answer.rv == ck.CKR_OK, f"{name} answered {rv_name(answer.rv)}"
    return answer


def token_objects(worker: Worker, slot: int, pins: tuple[bytes, ...] = (b"1234", b"4321")) -> dict[bytes, Object]:
    """The token objects that a new login sees, by their label and class, without the group's own."""
    _done(worker, "C_CloseAllSessions", slot)
    session = _done(worker, "C_OpenSession", slot, ck.CKF_SERIAL_SESSION, None, True).results[3]
    logins = []
    for pin in pins:
        logins.append(worker.call("C_Login", session, ck.CKU_USER, pin).rv)
        if logins[-1] == ck.CKR_OK:
            break
    assert ck.CKR_OK in logins, f"C_Login answered {[rv_name(rv) for rv in logins]} on slot {slot}"
    _done(worker, "C_FindObjectsInit", session, ((ck.CKA_TOKEN, True),))
    handles = _done(worker, "C_FindObjects", session, 1000).results[1]
    _done(worker, "C_FindObjectsFinal", session)
    found: dict[bytes, Object] = {}
    for handle in handles:
        shown = _attributes(worker, session, handle)
        label = shown.get(ck.CKA_LABEL) or b""
        if shown.get(ck.CKA_APPLICATION) == APPLICATION or label.startswith(APPLICATION):
            continue
        key = label + b" " + (shown[ck.CKA_CLASS] or b"")[:1].hex().encode()
        while key in found and not label:
            key += b"+"  # of what was refused, a module may leave parts that have no name
        assert key not in found, f"two objects {key!r}"
        found[key] = shown
    _done(worker, "C_CloseAllSessions", slot)
    return found


def _attributes(worker: Worker, session: int, handle: int) -> dict[int, bytes | None]:
    answer = worker.call("C_GetAttributeValue", session, handle, tuple((each, _ROOM) for each in _READ))
    if answer.results[2] is None:
        return {ck.CKA_CLASS: None}  # a part that is left of what was refused, and cannot be read
    entries: list[Any] = list(answer.results[2])
    # Which of the two it is, absent or not shown, one call tells only of all together.
    return {kind: value for kind, (_, value) in zip(_READ, entries, strict=True) if value is not None}
