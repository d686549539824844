"""Which way a creation goes, and the templates of originals and of what is published."""

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.keys import USAGE
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.domain import DomainKey
from pyha.ha.identity import ulong
from pyha.ha.replication import (
    Way,
    created_template,
    domain_for,
    generated_class,
    misstates_token,
    original_template,
    published_template,
    restated_template,
    value_of,
    way_of,
)

TOKEN = Attribute(ck.CKA_TOKEN, b"\1")
STAYS = Attribute(ck.CKA_EXTRACTABLE, b"\0")
LEAVES = Attribute(ck.CKA_EXTRACTABLE, b"\1")
SENSITIVE = Attribute(ck.CKA_SENSITIVE, b"\1")
AES = {
    ck.CKA_CLASS: ulong(ck.CKO_SECRET_KEY),
    ck.CKA_KEY_TYPE: ulong(ck.CKK_AES),
    ck.CKA_SENSITIVE: b"\1",
    **dict.fromkeys(USAGE[ck.CKO_SECRET_KEY], b"\0"),
}


@pytest.mark.parametrize(
    ("template", "object_class", "random", "way"),
    [
        ((), ck.CKO_SECRET_KEY, True, Way.SESSION),
        ((TOKEN,), ck.CKO_SECRET_KEY, True, Way.PUBLISH),
        ((TOKEN, LEAVES), ck.CKO_SECRET_KEY, True, Way.PUBLISH),
        ((TOKEN, LEAVES), ck.CKO_PRIVATE_KEY, False, Way.REPEAT),
        ((TOKEN, STAYS), ck.CKO_PRIVATE_KEY, False, Way.PUBLISH),
        ((TOKEN,), ck.CKO_PRIVATE_KEY, False, Way.PUBLISH),
        ((TOKEN,), ck.CKO_CERTIFICATE, False, Way.REPEAT),
        ((TOKEN,), ck.CKO_DOMAIN_PARAMETERS, True, Way.PUBLISH),
        ((TOKEN,), None, False, Way.REPEAT),
    ],
)
def test_the_way(template: Template, object_class: int | None, random: bool, way: Way) -> None:
    assert way_of(template, object_class, random) is way


def test_generated_classes() -> None:
    assert generated_class(ck.CKM_AES_KEY_GEN) == ck.CKO_SECRET_KEY
    assert generated_class(ck.CKM_DSA_PARAMETER_GEN) == ck.CKO_DOMAIN_PARAMETERS


def test_an_original_is_an_extractable_session_object_that_nothing_hinders() -> None:
    asked = (TOKEN, STAYS, SENSITIVE, Attribute(ck.CKA_MODIFIABLE, b"\0"), Attribute(ck.CKA_LABEL, b"x"))
    made = original_template(asked, ck.CKO_PRIVATE_KEY)
    assert value_of(made, ck.CKA_TOKEN) == b"\0"
    assert value_of(made, ck.CKA_EXTRACTABLE) == b"\1"
    assert value_of(made, ck.CKA_SENSITIVE) == b"\1"
    assert value_of(made, ck.CKA_LABEL) == b"x"
    assert value_of(made, ck.CKA_MODIFIABLE) is None
    assert value_of(original_template((TOKEN,), ck.CKO_PUBLIC_KEY), ck.CKA_EXTRACTABLE) is None


def test_what_the_published_object_is_not_told_stays_in_the_original() -> None:
    for object_class, attribute in (
        (ck.CKO_PUBLIC_KEY, ck.CKA_EXTRACTABLE),
        (ck.CKO_PUBLIC_KEY, ck.CKA_WRAP_WITH_TRUSTED),
        (ck.CKO_SECRET_KEY, ck.CKA_ALWAYS_AUTHENTICATE),
        (ck.CKO_PRIVATE_KEY, ck.CKA_WRAP_TEMPLATE),
    ):
        assert Attribute(attribute, b"\1") in original_template((TOKEN, Attribute(attribute, b"\1")), object_class)
    odd = Attribute(ck.CKA_EXTRACTABLE, b"\1\0")
    assert odd in original_template((TOKEN, odd), ck.CKO_SECRET_KEY)


def test_a_token_attribute_is_one_byte() -> None:
    assert not misstates_token((TOKEN, Attribute(ck.CKA_LABEL, b"x")))
    for value in (b"", b"\1\0", bytes(8)):
        assert misstates_token((Attribute(ck.CKA_TOKEN, value),))


def test_what_is_published_names_every_flag_and_ends_with_modifiable() -> None:
    asked = (
        TOKEN,
        Attribute(ck.CKA_MODIFIABLE, b"\0"),
        Attribute(ck.CKA_COPYABLE, b"\0"),
        Attribute(ck.CKA_SIGN, b"\1"),
    )
    made = published_template(asked, AES)
    assert all(value_of(made, usage) == b"\0" for usage in USAGE[ck.CKO_SECRET_KEY]), "the original says what is true"
    assert value_of(made, ck.CKA_EXTRACTABLE) == b"\0"
    assert [each.type for each in made][-2:] == [ck.CKA_COPYABLE, ck.CKA_MODIFIABLE]
    assert value_of(published_template(asked, AES, token=False), ck.CKA_TOKEN) == b"\0"


def test_the_applications_memory_is_not_kept() -> None:
    memory = bytearray(b"20200101")
    made = published_template((TOKEN, Attribute(ck.CKA_START_DATE, memory)), AES)
    memory[:] = b"99999999"
    assert value_of(made, ck.CKA_START_DATE) == b"20200101"


def test_changes_go_over_what_is_there() -> None:
    before = published_template((TOKEN, LEAVES, Attribute(ck.CKA_MODIFIABLE, b"\1")), {**AES, ck.CKA_SENSITIVE: b"\0"})
    more = (SENSITIVE, STAYS, Attribute(ck.CKA_ALLOWED_MECHANISMS, ulong(1)), Attribute(ck.CKA_LOCAL, b"\1"))
    after = restated_template(before, more, ck.CKO_SECRET_KEY, ck.CKK_AES)
    assert value_of(after, ck.CKA_SENSITIVE) == b"\1"
    assert value_of(after, ck.CKA_EXTRACTABLE) == b"\0"
    assert value_of(after, ck.CKA_ALLOWED_MECHANISMS) == ulong(1)
    assert value_of(after, ck.CKA_LOCAL) is None
    assert after[-1].type == ck.CKA_MODIFIABLE


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ((SENSITIVE, STAYS), DomainKey.SEALED),
        ((SENSITIVE, LEAVES), DomainKey.OPEN),
        ((Attribute(ck.CKA_SENSITIVE, b"\0"), STAYS), DomainKey.OPEN),
    ],
)
def test_the_domain(template: Template, key: DomainKey) -> None:
    assert domain_for(template) is key


def test_what_is_created_again_has_no_empty_values() -> None:
    shown = {ck.CKA_CLASS: ulong(ck.CKO_DATA), ck.CKA_LABEL: b"", ck.CKA_VALUE: b"v", ck.CKA_TOKEN: b"\0"}
    made = created_template((Attribute(ck.CKA_MODIFIABLE, b"\0"),), shown, token=True)
    assert [each.type for each in made] == [ck.CKA_TOKEN, ck.CKA_CLASS, ck.CKA_VALUE, ck.CKA_MODIFIABLE]
    assert value_of(made, ck.CKA_TOKEN) == b"\1"
