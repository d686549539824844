"""PKCS #11 URIs: how the configuration names a token and the module that reaches it.

Pure: knows the text and nothing of tokens, files or the configuration. Strict where RFC 7512 lets a reader choose: an
unknown attribute is an error, because a misspelt `serial` that is ignored would match another token.

Source: RFC 7512, section 2.3 (grammar) and 2.5 (matching).
"""

from collections.abc import Callable
from string import ascii_letters, digits
from typing import Any

from pyha.cryptoki.info import TokenInfo
from pyha.cryptoki.plain import dataclass, field, fields

_UNRESERVED = ascii_letters + digits + "-._~"
_PATH = frozenset((_UNRESERVED + ":[]@!$'()*+,=&").encode())
_QUERY = frozenset((_UNRESERVED + ":[]@!$'()*+,=/?|").encode())
_HEX = frozenset("0123456789abcdefABCDEF")
TYPES = ("public", "private", "cert", "secret-key", "data")


class UriError(ValueError):
    """The text is no PKCS #11 URI. `str()` is one sentence that names the attribute and never holds a PIN."""


def _attribute(name: str, read: Callable[[bytes], Any], *, query: bool = False, secret: bool = False) -> Any:
    return field(default=None, repr=not secret, metadata={"name": name, "read": read, "query": query})


def _text(limit: int | None = None) -> Callable[[bytes], str]:
    """Reads UTF-8 of at most `limit` bytes, the width of the field of CK_TOKEN_INFO, CK_SLOT_INFO or CK_INFO."""

    def read(value: bytes) -> str:
        if limit is not None and len(value) > limit:
            raise UriError(f"is longer than the {limit} bytes that PKCS #11 has for it")
        if b"\0" in value:
            raise UriError("holds a zero byte")
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise UriError("is not UTF-8") from None

    return read


def _number(value: bytes) -> int:
    if not value.isdigit() or len(value) > 20 or int(value) >= 1 << 64:
        raise UriError("is not a decimal number of 64 bits")
    return int(value)


def _version(value: bytes) -> tuple[int, int]:
    parts = value.split(b".")
    if len(parts) > 2 or not all(part.isdigit() and len(part) < 4 and int(part) < 256 for part in parts):
        raise UriError("is not a version such as 2 or 2.40")
    return int(parts[0]), int(parts[1]) if len(parts) == 2 else 0


def _object_type(value: bytes) -> str:
    text = value.decode(errors="replace")
    if text not in TYPES:
        raise UriError(f"is none of {', '.join(TYPES)}")
    return text


@dataclass(frozen=True, slots=True)
class TokenUri:
    """A PKCS #11 URI. An attribute that the URI does not state is None; a stated empty one is "" and matches only
    that."""

    token: str | None = _attribute("token", _text(32))
    manufacturer: str | None = _attribute("manufacturer", _text(32))
    model: str | None = _attribute("model", _text(16))
    serial: str | None = _attribute("serial", _text(16))
    slot_id: int | None = _attribute("slot-id", _number)
    slot_description: str | None = _attribute("slot-description", _text(64))
    slot_manufacturer: str | None = _attribute("slot-manufacturer", _text(32))
    library_description: str | None = _attribute("library-description", _text(32))
    library_manufacturer: str | None = _attribute("library-manufacturer", _text(32))
    library_version: tuple[int, int] | None = _attribute("library-version", _version)
    object: str | None = _attribute("object", _text())
    type: str | None = _attribute("type", _object_type)
    id: bytes | None = _attribute("id", bytes)
    module_path: str | None = _attribute("module-path", _text(), query=True)
    module_name: str | None = _attribute("module-name", _text(), query=True)
    pin_source: str | None = _attribute("pin-source", _text(), query=True)
    pin_value: str | None = _attribute("pin-value", _text(), query=True, secret=True)

    def matches(self, info: TokenInfo, slot_id: int) -> bool:
        """Does this URI name the token that `info` describes, in the slot `slot_id` of its module? Compares the
        attributes of the token and slot-id; those of the slot's text, the library and objects are not looked at."""
        pairs = (
            (self.token, info.label),
            (self.manufacturer, info.manufacturer),
            (self.model, info.model),
            (self.serial, info.serial),
            (self.slot_id, slot_id),
        )
        return all(wanted is None or wanted == found for wanted, found in pairs)

    def stated(self) -> tuple[str, ...]:
        """The names of the attributes that the URI states, as RFC 7512 spells them."""
        return tuple(_NAME_OF[name] for name in _NAME_OF if getattr(self, name) is not None)

    def __str__(self) -> str:
        """The URI's text, for a person: `pin-value` is shown as three dots. `format` writes the real one."""
        return _format(self, hide=True)


_FIELDS = {f.metadata["name"]: f for f in fields(TokenUri)}
_NAME_OF = {f.name: name for name, f in _FIELDS.items()}


def parse(text: str) -> TokenUri:
    """Reads a URI; raises UriError at the first thing that is wrong with it."""
    scheme, colon, rest = text.partition(":")
    if not colon or scheme.lower() != "pkcs11":
        raise UriError("it does not begin with pkcs11:")
    path, question, query = rest.partition("?")
    found: dict[str, Any] = {}
    if path:
        for part in path.split(";"):
            _read(part, found, query=False)
    if question:
        for part in query.split("&"):
            _read(part, found, query=True)
    return TokenUri(**found)


def _read(part: str, found: dict[str, Any], *, query: bool) -> None:
    name, equals, raw = part.partition("=")
    where = "after the ?" if query else "before the ?"
    if not part:
        raise UriError(f"there is an empty attribute {where}")
    if not equals:
        # The text is not repeated: it can be the rest of a PIN that holds an unescaped separator.
        raise UriError(f"there is an attribute {where} without a value: name=value is meant")
    known = _FIELDS.get(name)
    if known is None:
        if "pin_value" in found:  # an unescaped & in a PIN: what follows it is no name
            raise UriError("there is an unknown attribute after pin-value")
        raise UriError(f"the attribute {name!r} is unknown{_suggestion(name)}")
    if known.metadata["query"] != query:
        raise UriError(f"the attribute {name} belongs {'before' if query else 'after'} the ?")
    if known.name in found:
        raise UriError(f"the attribute {name} is there twice")
    try:
        found[known.name] = known.metadata["read"](_decode(raw, _QUERY if query else _PATH))
    except UriError as error:
        raise UriError(f"the attribute {name} {error}") from None


def _suggestion(name: str) -> str:
    from difflib import get_close_matches  # only once something is wrong: the import is not cheap

    close = get_close_matches(name, _FIELDS, n=1)
    return f": is {close[0]} meant?" if close else ""


def _decode(raw: str, allowed: frozenset[int]) -> bytes:
    value = bytearray()
    at = 0
    while at < len(raw):
        character = raw[at]
        if character == "%":
            pair = raw[at + 1 : at + 3]
            if len(pair) != 2 or not _HEX.issuperset(pair):
                raise UriError("has a % that two hexadecimal digits do not follow")
            value.append(int(pair, 16))
            at += 3
            continue
        if ord(character) not in allowed:
            raise UriError("has a character that must be written as % and two hexadecimal digits (RFC 7512)")
        value.append(ord(character))
        at += 1
    return bytes(value)


def format(uri: TokenUri) -> str:
    """The URI's text. `parse(format(uri)) == uri`. A `pin_value` is in it: `str(uri)` is the text to show."""
    return _format(uri, hide=False)


def _format(uri: TokenUri, *, hide: bool) -> str:
    sides: tuple[list[str], list[str]] = ([], [])
    for name, known in _FIELDS.items():
        value = getattr(uri, known.name)
        if value is not None:
            text = "..." if hide and not known.repr else _encode(name, value)
            sides[known.metadata["query"]].append(f"{name}={text}")
    path, query = sides
    return "pkcs11:" + ";".join(path) + ("?" + "&".join(query) if query else "")


def _encode(name: str, value: Any) -> str:
    if name == "library-version":
        value = f"{value[0]}.{value[1]}"
    content = value if isinstance(value, bytes) else str(value).encode()
    allowed = _QUERY if _FIELDS[name].metadata["query"] else _PATH
    if name == "id":  # RFC 7512: the bytes of an identifier should all be percent-encoded
        allowed = frozenset()
    return "".join(chr(byte) if byte in allowed else f"%{byte:02X}" for byte in content)
