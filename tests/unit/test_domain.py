"""Domain keys as templates: what they may do is said of each flag, and nothing of theirs passes from an application."""

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.keys import USAGE
from pyha.cryptoki.values import Attribute, Template
from pyha.ha import domain
from pyha.ha.domain import AES_KEYS, RSA_KEYS, DomainKey
from pyha.ha.identity import number, ulong
from pyha.ha.replication import value_of

GROUP = bytes(range(16))
TEMPLATES: list[tuple[DomainKey, Template, set[int]]] = [
    *((key, domain.aes_template(GROUP, key), {ck.CKA_WRAP, ck.CKA_UNWRAP}) for key in AES_KEYS),
    *((key, domain.rsa_private_template(GROUP, key), {ck.CKA_UNWRAP}) for key in RSA_KEYS),
    *((key, domain.rsa_public_template(GROUP, key, b"n", b"e"), {ck.CKA_WRAP}) for key in RSA_KEYS),
]


@pytest.mark.parametrize(("key", "template", "able"), TEMPLATES)
def test_a_domain_key_can_do_one_thing_only(key: DomainKey, template: Template, able: set[int]) -> None:
    object_class = number(value_of(template, ck.CKA_CLASS)) or 0
    flags = {usage: value_of(template, usage) for usage in USAGE[object_class]}
    assert {usage for usage, value in flags.items() if value == b"\1"} == able
    assert None not in flags.values()
    assert value_of(template, ck.CKA_PRIVATE) == value_of(template, ck.CKA_TOKEN) == b"\1"
    assert value_of(template, ck.CKA_COPYABLE) == value_of(template, ck.CKA_MODIFIABLE) == b"\0"
    assert template[-1].type == ck.CKA_MODIFIABLE
    if object_class != ck.CKO_PUBLIC_KEY:
        assert value_of(template, ck.CKA_EXTRACTABLE) == b"\0"
        assert value_of(template, ck.CKA_SENSITIVE) == b"\1"
        guards = [each.value for each in template if each.type == ck.CKA_UNWRAP_TEMPLATE]
        assert bool(guards) == key.value.startswith("sealed")
    assert domain.impersonates(template)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (ck.CKA_APPLICATION, b"pyha"),
        (ck.CKA_LABEL, domain.domain_label(GROUP)),
        (ck.CKA_LABEL, domain.domain_label(bytes(16))),
        (ck.CKA_ID, domain.domain_id(GROUP, DomainKey.OPEN_RSA)),
    ],
)
def test_an_impostor_is_noticed(attribute: int, value: bytes) -> None:
    assert domain.impersonates((Attribute(ck.CKA_TOKEN, b"\1"), Attribute(attribute, memoryview(value))))


@pytest.mark.parametrize(
    ("attribute", "value"), [(ck.CKA_APPLICATION, b"pyha2"), (ck.CKA_ID, b"pyha"), (ck.CKA_ID, b"")]
)
def test_others_pass(attribute: int, value: bytes) -> None:
    assert not domain.impersonates((Attribute(attribute, value),))


def test_ids_differ_by_key_and_group() -> None:
    ids = {domain.domain_id(group, key) for key in DomainKey for group in (GROUP, bytes(16))}
    assert len(ids) == 8
    assert {len(each) for each in ids} == {20}


def test_which_searches_may_find_what() -> None:
    def of(object_class: int) -> Template:
        return (Attribute(ck.CKA_CLASS, ulong(object_class)),)

    assert domain.could_match_record(())
    assert domain.could_match_domain(())
    assert [domain.could_match_domain(of(each)) for each in range(5)] == [False, False, True, True, True]
    assert [domain.could_match_record(of(each)) for each in range(5)] == [True, False, False, False, False]
    for odd in (b"", b"\4", bytes(4), bytes(16)):
        assert domain.could_match_domain((Attribute(ck.CKA_CLASS, odd),))
        assert domain.could_match_record((Attribute(ck.CKA_CLASS, odd),))
