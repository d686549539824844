"""RFC 7512 URIs: the round trip, what is refused and how it is said, and which tokens match."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyha.cryptoki.info import TokenInfo
from pyha.runtime import uri
from pyha.runtime.uri import TokenUri, UriError


def _text(limit: int) -> st.SearchStrategy[str]:
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    return st.text(characters, max_size=limit).filter(lambda text: len(text.encode()) <= limit)


URIS = st.builds(
    TokenUri,
    token=st.none() | _text(32),
    manufacturer=st.none() | _text(32),
    model=st.none() | _text(16),
    serial=st.none() | _text(16),
    slot_id=st.none() | st.integers(0, (1 << 64) - 1),
    slot_description=st.none() | _text(64),
    slot_manufacturer=st.none() | _text(32),
    library_description=st.none() | _text(32),
    library_manufacturer=st.none() | _text(32),
    library_version=st.none() | st.tuples(st.integers(0, 255), st.integers(0, 255)),
    object=st.none() | _text(40),
    type=st.none() | st.sampled_from(uri.TYPES),
    id=st.none() | st.binary(max_size=20),
    module_path=st.none() | _text(40),
    module_name=st.none() | _text(40),
    pin_source=st.none() | _text(40),
    pin_value=st.none() | _text(40),
)


@given(URIS)
def test_what_is_formatted_is_parsed_again(value: TokenUri) -> None:
    assert uri.parse(uri.format(value)) == value


@given(URIS)
def test_the_text_is_plain_ascii_without_blanks(value: TokenUri) -> None:
    text = uri.format(value)
    assert text.isascii()
    assert text.isprintable()
    assert not set(' #<>"').intersection(text)


@given(st.text(max_size=60))
@example("pkcs11:token=%")
@example("pkcs11:?")
@example("pkcs11:slot-id=" + "9" * 5000)
@example("pkcs11:library-version=" + "9" * 5000)
@example("pkcs11:token=\ud800")
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for attempt in (text, "pkcs11:" + text):
        with suppress(UriError):
            assert uri.parse(uri.format(uri.parse(attempt))) == uri.parse(attempt)


def test_the_example_of_the_readme() -> None:
    parsed = uri.parse(
        "pkcs11:token=hsm-a;serial=599447001;manufacturer=SoftHSM%20project"
        "?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/pyha/pin"
    )
    assert parsed == TokenUri(
        token="hsm-a",
        serial="599447001",
        manufacturer="SoftHSM project",
        module_path="/usr/lib/softhsm/libsofthsm2.so",
        pin_source="file:/etc/pyha/pin",
    )
    assert parsed.stated() == ("token", "manufacturer", "serial", "module-path", "pin-source")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pkcs11:", TokenUri()),
        ("PKCS11:token=a", TokenUri(token="a")),
        ("pkcs11:token=", TokenUri(token="")),
        ("pkcs11:id=%00%ff", TokenUri(id=b"\x00\xff")),
        ("pkcs11:library-version=3", TokenUri(library_version=(3, 0))),
        ("pkcs11:token=a&b", TokenUri(token="a&b")),
        ("pkcs11:?pin-source=file:/a?b|c", TokenUri(pin_source="file:/a?b|c")),
    ],
)
def test_corners_of_the_grammar(text: str, expected: TokenUri) -> None:
    assert uri.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begin with pkcs11:"),
        ("file:/x", "begin with pkcs11:"),
        ("pkcs11:token=a;token=b", "token is there twice"),
        ("pkcs11:tokn=a", "'tokn' is unknown: is token meant?"),
        ("pkcs11:token=a;", "empty attribute before the ?"),
        ("pkcs11:token=a?", "empty attribute after the ?"),
        ("pkcs11:token", "without a value"),
        ("pkcs11:module-path=%2Fx", "module-path belongs after the ?"),
        ("pkcs11:?token=a", "token belongs before the ?"),
        ("pkcs11:token=a/b", "token has a character that must be written as %"),
        ("pkcs11:token=a b", "token has a character that must be written as %"),
        ("pkcs11:token=é", "token has a character that must be written as %"),
        ("pkcs11:token=a?module-path=/x#y", "module-path has a character"),
        ("pkcs11:serial=%4", "serial has a % that two hexadecimal digits do not follow"),
        ("pkcs11:serial=%+4", "serial has a % that"),
        ("pkcs11:token=%ff", "token is not UTF-8"),
        ("pkcs11:token=%00", "token holds a zero byte"),
        ("pkcs11:token=" + "a" * 33, "token is longer than the 32 bytes"),
        ("pkcs11:serial=" + "1" * 17, "serial is longer than the 16 bytes"),
        ("pkcs11:slot-id=-1", "slot-id is not a decimal number"),
        ("pkcs11:slot-id=18446744073709551616", "slot-id is not a decimal number of 64 bits"),
        ("pkcs11:library-version=1.2.3", "library-version is not a version"),
        ("pkcs11:type=key", "type is none of public, private"),
    ],
)
def test_what_is_refused_is_named(text: str, words: str) -> None:
    with pytest.raises(UriError) as refusal:
        uri.parse(text)
    assert words in str(refusal.value)


def test_a_pin_is_in_no_message_and_no_repr() -> None:
    held = TokenUri(token="a", pin_value="98761234")
    assert "98761234" not in repr(held) + str(held)
    assert "98761234" in uri.format(held)
    for text in (
        "?pin-value=9876 1234",
        "?pin-value=98%761234%",
        "?pin-value=4711&98761234",
        "?pin-value=4711&98761234=5",
    ):
        with pytest.raises(UriError) as refusal:
            uri.parse("pkcs11:token=a" + text)
        assert not any(part in str(refusal.value) for part in ("9876", "1234", "4711"))


INFO = TokenInfo(
    "hsm-a", "SoftHSM project", "SoftHSM v2", "0123456789abcdef",
    flags=0, max_sessions=0, sessions=0, max_rw_sessions=0, rw_sessions=0, max_pin=255, min_pin=4,
    total_public_memory=0, free_public_memory=0, total_private_memory=0, free_private_memory=0,
    hardware_version=(2, 6), firmware_version=(2, 6), time="",
)  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (TokenUri(), True),
        (TokenUri(token="hsm-a"), True),
        (TokenUri(token="hsm-A"), False),
        (TokenUri(token=""), False),
        (TokenUri(token="hsm-a", serial="0123456789abcdef", manufacturer="SoftHSM project", model="SoftHSM v2"), True),
        (TokenUri(token="hsm-a", serial="0123456789abcdee"), False),
        (TokenUri(token="hsm-a", model="SoftHSM v3"), False),
        (TokenUri(token="hsm-a", manufacturer="other"), False),
        (TokenUri(slot_id=7), True),
        (TokenUri(slot_id=8), False),
    ],
)
def test_every_stated_attribute_must_match(wanted: TokenUri, expected: bool) -> None:
    assert wanted.matches(INFO, 7) is expected
