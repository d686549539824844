"""Templates of published objects hold what they need of the application's, and no copy of a key's value."""

from collections.abc import Callable

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.domain import DomainKey
from pyha.ha.identity import ulong
from pyha.ha.replication import created_template, guards, published_template, restated_template

READ = {ck.CKA_CLASS: ulong(ck.CKO_SECRET_KEY), ck.CKA_KEY_TYPE: ulong(ck.CKK_AES), ck.CKA_SENSITIVE: b"\1"}
MAKERS: list[Callable[[Template], Template]] = [
    lambda asked: published_template(asked, READ),
    lambda asked: created_template(asked, READ, token=True),
    lambda asked: restated_template(asked, (), ck.CKO_SECRET_KEY, ck.CKK_AES),
]


@pytest.mark.parametrize("make", MAKERS)
def test_a_value_is_not_even_looked_at(make: Callable[[Template], Template]) -> None:
    value = memoryview(bytes(32))
    value.release()  # whoever reads it now gets a ValueError
    made = make((Attribute(ck.CKA_VALUE, value), Attribute(ck.CKA_MODIFIABLE, b"\1")))
    assert ck.CKA_VALUE not in {each.type for each in made}
    assert Attribute(ck.CKA_MODIFIABLE, b"\1") in made


@pytest.mark.parametrize("make", MAKERS)
def test_the_rest_is_a_copy(make: Callable[[Template], Template]) -> None:
    memory = bytearray(b"\1")
    made = make((Attribute(ck.CKA_COPYABLE, memory),))
    memory[0] = 0
    assert Attribute(ck.CKA_COPYABLE, b"\1") in made


STAYS = (Attribute(ck.CKA_SENSITIVE, b"\1"), Attribute(ck.CKA_EXTRACTABLE, b"\0"))
READABLE = (Attribute(ck.CKA_SENSITIVE, b"\0"), Attribute(ck.CKA_EXTRACTABLE, b"\0"))


@pytest.mark.parametrize(
    ("key", "template", "good"),
    [
        (DomainKey.SEALED, STAYS, True),
        (DomainKey.SEALED_RSA, STAYS, True),
        (DomainKey.OPEN, STAYS, False),
        (DomainKey.OPEN_RSA, STAYS, False),
        (DomainKey.OPEN, READABLE, True),
        (DomainKey.OPEN_RSA, READABLE, True),
    ],
)
def test_which_domain_key_guards_which_key(key: DomainKey, template: Template, good: bool) -> None:
    assert guards(key, template) is good
