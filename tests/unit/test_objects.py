"""Virtual object handles: one object has one, however many searches find it."""

from pyha.abi.codec import Codecs
from pyha.abi.link import open_local
from pyha.cryptoki import constants as ck
from pyha.ha.identity import identity_of, ulong
from pyha.runtime.member import Connection
from pyha.runtime.objects import ObjectTable
from pyha.runtime.uri import TokenUri

KEY = identity_of({ck.CKA_CLASS: ulong(ck.CKO_PRIVATE_KEY), ck.CKA_TOKEN: b"\1", ck.CKA_LABEL: b"key"})


def connection(name: str) -> Connection:
    """A member that is never connected."""
    return Connection(name, 1, lambda deadline: open_local(""), TokenUri(), Codecs())


def test_two_searches_that_meet_give_one_handle() -> None:
    """Both saw the object unknown, read it, and come here: a second handle could be bound on no other member."""
    objects, member = ObjectTable(), connection("a")
    first = objects.found(member, 7, KEY)
    assert objects.found(member, 7, KEY) is first


def test_one_object_keeps_its_handle_on_another_member() -> None:
    objects = ObjectTable()
    first = objects.found(connection("a"), 7, KEY)
    assert objects.found(connection("b"), 3, KEY) is first


def test_two_objects_that_look_alike_have_two_handles() -> None:
    objects, member = ObjectTable(), connection("a")
    assert objects.found(member, 7, KEY) is not objects.found(member, 8, KEY)


def test_a_handle_of_one_of_two_that_look_alike_is_not_carried_over() -> None:
    """They may come in another order there: the handle of one key must never sign with the other."""
    objects, here, there = ObjectTable(), connection("a"), connection("b")
    handles = {objects.found(here, real, KEY).handle for real in (7, 8)}
    assert objects.found(there, 3, KEY).handle not in handles


def test_a_handle_of_one_of_two_copies_of_one_key_is() -> None:
    certain = identity_of({**dict(KEY.attributes), ck.CKA_CHECK_VALUE: b"abc"})
    objects, here, there = ObjectTable(), connection("a"), connection("b")
    handles = {objects.found(here, real, certain).handle for real in (7, 8)}
    assert objects.found(there, 3, certain).handle in handles


def test_a_real_handle_that_is_used_again_is_a_new_object() -> None:
    objects, member = ObjectTable(), connection("a")
    gone = objects.found(member, 7, KEY)
    objects.remove(gone.handle)
    assert objects.found(member, 7, KEY).handle != gone.handle
