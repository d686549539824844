"""Two processes that change one object at the same instant: afterwards all members have it alike (SEMANTICS.md
section 5)."""

import threading
from collections.abc import Callable
from contextlib import suppress

from pyha.cryptoki import constants as ck
from tests.application import Answered, Application
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import STAYS, scene

Group = Callable[..., TestGroup]
LABEL = "synced"
TIMES = 8


def test_two_that_change_one_attribute_or_delete(group: Group) -> None:
    made = group(label=LABEL)
    with scene(made) as it, made.application() as other:
        key = it.app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_ID: b"it", ck.CKA_VALUE_LEN: 32})
        (seen,) = other.find({ck.CKA_ID: b"it"})

        def at_once(*works: Callable[[int], object]) -> None:
            together = threading.Barrier(len(works))

            def begin(work: Callable[[int], object]) -> None:
                for time in range(TIMES):
                    together.wait()
                    work(time)

            threads = [threading.Thread(target=begin, args=(work,)) for work in works]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        def names(app: Application, handle: int, what: bytes) -> Callable[[int], None]:
            return lambda time: app.set(handle, {ck.CKA_LABEL: b"%b %d" % (what, time)})

        at_once(names(it.app, key, b"one"), names(other, seen, b"another"))
        shown = [[member.read(real, ck.CKA_LABEL) for real in member.find({ck.CKA_ID: b"it"})] for member in it.members]
        assert shown[0] == shown[1] == shown[2], shown
        assert len(shown[0]) == 1

        def renamed(time: int) -> None:
            with suppress(Answered):  # it may be gone
                it.app.set(key, {ck.CKA_LABEL: b"last %d" % time})

        def deleted(time: int) -> None:
            if time == TIMES // 2:
                other.destroy(seen)

        at_once(renamed, deleted)
        assert [member.find({ck.CKA_ID: b"it"}) for member in it.members] == [[], [], []]
        assert it.records() == [0, 0, 0], made.logged()
