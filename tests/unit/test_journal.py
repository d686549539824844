"""The journal keeps what has to be said again, up to its limit, and leaves nothing of it behind."""

from pyha.cryptoki.functions import BY_NAME
from pyha.ha.journal import Journal, fingerprint

UPDATE = BY_NAME["C_SignUpdate"]


def test_calls_are_kept_in_order_up_to_the_limit() -> None:
    journal = Journal(limit=8)
    journal.add(UPDATE, [1, bytearray(b"abcd")], 4)
    journal.add(UPDATE, [1, bytearray(b"efgh")], 4)
    assert journal.replayable()
    assert [bytes(entry.values[1]) for entry in journal.entries] == [b"abcd", b"efgh"]


def test_past_the_limit_nothing_is_kept_and_nothing_can_move() -> None:
    journal = Journal(limit=8)
    kept = bytearray(b"abcdefgh")
    journal.add(UPDATE, [1, kept], 8)
    journal.add(UPDATE, [1, bytearray(b"i")], 1)
    assert not journal.replayable()
    assert journal.entries == []
    assert kept == bytes(8), "the application's data is wiped, not only dropped"
    journal.add(UPDATE, [1, bytearray(b"")], 0)
    assert journal.entries == []


def test_wiping_clears_the_data_itself() -> None:
    journal = Journal(limit=100)
    data = bytearray(b"plaintext")
    journal.add(UPDATE, [1, data], len(data))
    journal.wipe()
    assert data == bytes(9)


def test_a_fingerprint_tells_length_and_content() -> None:
    assert fingerprint(b"ab") != fingerprint(b"ac")
    assert fingerprint(b"") != fingerprint(b"\0")
    assert fingerprint(b"ab") == fingerprint(bytearray(b"ab"))
