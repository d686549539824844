"""The helpers of three members are killed at the same instant, under an application's threads."""

import os
import signal
import threading
from collections.abc import Callable
from hashlib import sha256

from pyha.cryptoki import constants as ck
from tests.client import client, ec_pair, helpers
from tests.integration.conftest import TestGroup
from tests.integration.test_failover import lost, point_of, verifies
from tests.integration.test_recovery import AT_ONCE, until

Group = Callable[..., TestGroup]
LABEL = f"three-{os.getpid()}"
THREADS = 6


def test_no_call_fails_and_all_three_return(group: Group) -> None:
    made = group(members=3, standby=1, label=LABEL, recovery=AT_ONCE)
    names = [token.label for token in made.tokens]
    with client(made.module, made.environment) as app:
        slot = app.slot_of(LABEL)
        session = app.logged_in(slot)
        public, private = ec_pair(app, session)
        key = point_of(app, session, public)
        stop, busy = threading.Event(), threading.Barrier(THREADS + 1)
        answers: list[tuple[int, bytes, bytes]] = []

        def work(number: int) -> None:
            own = app.open(slot)[1]
            turn = 0
            while not stop.is_set():
                digest = sha256(b"%d %d" % (number, turn)).digest()
                answers.append((*app.sign(own, ck.CKM_ECDSA, private, digest), digest))
                turn += 1
                if turn == 5:
                    busy.wait(60)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            here = helpers(LABEL)
            busy.wait(60)
            for name in names[:3]:
                os.kill(here[name], signal.SIGKILL)
            until(made, "no active member is left, standby members serve")
            until(made, "an active member is back, standby members stand by")
            for name in names[:3]:
                until(made, f"member {name} returned")
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert {rv for rv, _, _ in answers} == {ck.CKR_OK}
        assert all(verifies(key, signature, digest) for _, signature, digest in answers)
        assert sorted(lost(made)) == [0, 1, 2]
        assert set(helpers(LABEL)) == set(names)
