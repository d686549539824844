"""The table of attributes: what each CKA_ holds, whether it is secret, and what it means for a key that is replicated.

Pure data and one pure comparison. Knows nothing of objects or of members. An attribute that is not here (a vendor's)
is bytes or an attribute array by its array bit, and is treated as secret: what is not known is not shown.

Sources: PKCS #11 Base Specification 2.40 and 3.0, section 4; Current Mechanisms Specification (attributes of key
types); SEMANTICS.md section 5 and REPLICATION.md for replication.
"""

from collections.abc import Mapping
from enum import Enum, auto

from pyha.cryptoki import constants
from pyha.cryptoki.constants import (
    CK_UNAVAILABLE_INFORMATION,
    CKA_ALLOWED_MECHANISMS,
    CKA_VALUE,
    CKF_ARRAY_ATTRIBUTE,
    CKO_CERTIFICATE,
    CKO_PUBLIC_KEY,
)
from pyha.cryptoki.plain import dataclass


class Form(Enum):
    """What pValue points to."""

    ULONG = auto()  # CK_ULONG or a type made of it
    BOOL = auto()  # CK_BBOOL, one byte
    BYTES = auto()  # bytes, often DER
    TEXT = auto()  # UTF-8 without a terminating zero
    DATE = auto()  # CK_DATE, eight digits; or empty
    BIGINT = auto()  # unsigned, most significant byte first
    TEMPLATE = auto()  # array of CK_ATTRIBUTE
    MECHANISMS = auto()  # array of CK_MECHANISM_TYPE; no pointers inside


@dataclass(frozen=True, slots=True)
class AttributeRow:
    """One attribute.

    `secret`: its value is key material or may be: never logged, never offered as identity. `unwrap`: a C_UnwrapKey
    template may set it. `stronger`: for a protection, the truth value that protects more; None for what protects
    nothing. `history`: for what tells of a key's past, the value that every member answers for a replicated key.
    """

    name: str
    form: Form
    secret: bool = False
    unwrap: bool = False
    stronger: bool | None = None
    history: bytes | None = None


_NO = b"\x00"
_UNAVAILABLE = CK_UNAVAILABLE_INFORMATION.to_bytes(8, "little")


def _protection(name: str, stronger: bool, unwrap: bool = True) -> AttributeRow:
    return AttributeRow(name, Form.BOOL, unwrap=unwrap, stronger=stronger)


def _usage(name: str) -> AttributeRow:
    return _protection(name, stronger=False)


_ROWS = (
    # All objects
    AttributeRow("CKA_CLASS", Form.ULONG, unwrap=True),
    AttributeRow("CKA_TOKEN", Form.BOOL, unwrap=True),
    _protection("CKA_PRIVATE", stronger=True),
    AttributeRow("CKA_LABEL", Form.TEXT, unwrap=True),
    AttributeRow("CKA_UNIQUE_ID", Form.TEXT),
    _protection("CKA_MODIFIABLE", stronger=False),
    _protection("CKA_COPYABLE", stronger=False),
    _protection("CKA_DESTROYABLE", stronger=False),
    # Data
    AttributeRow("CKA_APPLICATION", Form.TEXT),
    AttributeRow("CKA_OBJECT_ID", Form.BYTES),
    AttributeRow("CKA_VALUE", Form.BYTES, secret=True),
    # Certificates
    AttributeRow("CKA_CERTIFICATE_TYPE", Form.ULONG),
    AttributeRow("CKA_ISSUER", Form.BYTES),
    AttributeRow("CKA_SERIAL_NUMBER", Form.BYTES),
    AttributeRow("CKA_AC_ISSUER", Form.BYTES),
    AttributeRow("CKA_OWNER", Form.BYTES),
    AttributeRow("CKA_ATTR_TYPES", Form.BYTES),
    _protection("CKA_TRUSTED", stronger=False, unwrap=False),
    AttributeRow("CKA_CERTIFICATE_CATEGORY", Form.ULONG),
    AttributeRow("CKA_JAVA_MIDP_SECURITY_DOMAIN", Form.ULONG),
    AttributeRow("CKA_URL", Form.TEXT),
    AttributeRow("CKA_HASH_OF_SUBJECT_PUBLIC_KEY", Form.BYTES),
    AttributeRow("CKA_HASH_OF_ISSUER_PUBLIC_KEY", Form.BYTES),
    AttributeRow("CKA_NAME_HASH_ALGORITHM", Form.ULONG),
    AttributeRow("CKA_CHECK_VALUE", Form.BYTES),
    # Keys
    AttributeRow("CKA_KEY_TYPE", Form.ULONG, unwrap=True),
    AttributeRow("CKA_SUBJECT", Form.BYTES, unwrap=True),
    AttributeRow("CKA_ID", Form.BYTES, unwrap=True),
    AttributeRow("CKA_START_DATE", Form.DATE, unwrap=True),
    AttributeRow("CKA_END_DATE", Form.DATE, unwrap=True),
    _protection("CKA_SENSITIVE", stronger=True),
    _protection("CKA_EXTRACTABLE", stronger=False),
    _protection("CKA_WRAP_WITH_TRUSTED", stronger=True),
    _protection("CKA_ALWAYS_AUTHENTICATE", stronger=True),
    _usage("CKA_ENCRYPT"),
    _usage("CKA_DECRYPT"),
    _usage("CKA_WRAP"),
    _usage("CKA_UNWRAP"),
    _usage("CKA_SIGN"),
    _usage("CKA_SIGN_RECOVER"),
    _usage("CKA_VERIFY"),
    _usage("CKA_VERIFY_RECOVER"),
    _usage("CKA_DERIVE"),
    AttributeRow("CKA_LOCAL", Form.BOOL, history=_NO),
    AttributeRow("CKA_ALWAYS_SENSITIVE", Form.BOOL, history=_NO),
    AttributeRow("CKA_NEVER_EXTRACTABLE", Form.BOOL, history=_NO),
    AttributeRow("CKA_KEY_GEN_MECHANISM", Form.ULONG, history=_UNAVAILABLE),
    AttributeRow("CKA_WRAP_TEMPLATE", Form.TEMPLATE, unwrap=True),
    AttributeRow("CKA_UNWRAP_TEMPLATE", Form.TEMPLATE, unwrap=True),
    AttributeRow("CKA_DERIVE_TEMPLATE", Form.TEMPLATE, unwrap=True),
    AttributeRow("CKA_ALLOWED_MECHANISMS", Form.MECHANISMS, unwrap=True),
    AttributeRow("CKA_SECONDARY_AUTH", Form.BOOL),
    AttributeRow("CKA_AUTH_PIN_FLAGS", Form.ULONG),
    AttributeRow("CKA_PUBLIC_KEY_INFO", Form.BYTES, unwrap=True),
    # Values of keys
    AttributeRow("CKA_VALUE_BITS", Form.ULONG),
    AttributeRow("CKA_VALUE_LEN", Form.ULONG),
    AttributeRow("CKA_MODULUS", Form.BIGINT),
    AttributeRow("CKA_MODULUS_BITS", Form.ULONG),
    AttributeRow("CKA_PUBLIC_EXPONENT", Form.BIGINT),
    AttributeRow("CKA_PRIVATE_EXPONENT", Form.BIGINT, secret=True),
    AttributeRow("CKA_PRIME_1", Form.BIGINT, secret=True),
    AttributeRow("CKA_PRIME_2", Form.BIGINT, secret=True),
    AttributeRow("CKA_EXPONENT_1", Form.BIGINT, secret=True),
    AttributeRow("CKA_EXPONENT_2", Form.BIGINT, secret=True),
    AttributeRow("CKA_COEFFICIENT", Form.BIGINT, secret=True),
    AttributeRow("CKA_PRIME", Form.BIGINT),
    AttributeRow("CKA_SUBPRIME", Form.BIGINT),
    AttributeRow("CKA_BASE", Form.BIGINT),
    AttributeRow("CKA_PRIME_BITS", Form.ULONG),
    AttributeRow("CKA_SUBPRIME_BITS", Form.ULONG),
    AttributeRow("CKA_EC_PARAMS", Form.BYTES),
    AttributeRow("CKA_EC_POINT", Form.BYTES),
    AttributeRow("CKA_GOSTR3410_PARAMS", Form.BYTES),
    AttributeRow("CKA_GOSTR3411_PARAMS", Form.BYTES),
    AttributeRow("CKA_GOST28147_PARAMS", Form.BYTES),
    # One-time passwords
    AttributeRow("CKA_OTP_FORMAT", Form.ULONG),
    AttributeRow("CKA_OTP_LENGTH", Form.ULONG),
    AttributeRow("CKA_OTP_TIME_INTERVAL", Form.ULONG),
    AttributeRow("CKA_OTP_USER_FRIENDLY_MODE", Form.BOOL),
    AttributeRow("CKA_OTP_CHALLENGE_REQUIREMENT", Form.ULONG),
    AttributeRow("CKA_OTP_TIME_REQUIREMENT", Form.ULONG),
    AttributeRow("CKA_OTP_COUNTER_REQUIREMENT", Form.ULONG),
    AttributeRow("CKA_OTP_PIN_REQUIREMENT", Form.ULONG),
    AttributeRow("CKA_OTP_USER_IDENTIFIER", Form.TEXT),
    AttributeRow("CKA_OTP_SERVICE_IDENTIFIER", Form.TEXT),
    AttributeRow("CKA_OTP_SERVICE_LOGO", Form.BYTES),
    AttributeRow("CKA_OTP_SERVICE_LOGO_TYPE", Form.TEXT),
    AttributeRow("CKA_OTP_COUNTER", Form.BYTES),
    AttributeRow("CKA_OTP_TIME", Form.TEXT),
    # Hardware features, mechanisms, profiles
    AttributeRow("CKA_HW_FEATURE_TYPE", Form.ULONG),
    AttributeRow("CKA_RESET_ON_INIT", Form.BOOL),
    AttributeRow("CKA_HAS_RESET", Form.BOOL),
    AttributeRow("CKA_PIXEL_X", Form.ULONG),
    AttributeRow("CKA_PIXEL_Y", Form.ULONG),
    AttributeRow("CKA_RESOLUTION", Form.ULONG),
    AttributeRow("CKA_CHAR_ROWS", Form.ULONG),
    AttributeRow("CKA_CHAR_COLUMNS", Form.ULONG),
    AttributeRow("CKA_COLOR", Form.BOOL),
    AttributeRow("CKA_BITS_PER_PIXEL", Form.ULONG),
    AttributeRow("CKA_CHAR_SETS", Form.TEXT),
    AttributeRow("CKA_ENCODING_METHODS", Form.TEXT),
    AttributeRow("CKA_MIME_TYPES", Form.TEXT),
    AttributeRow("CKA_MECHANISM_TYPE", Form.ULONG),
    AttributeRow("CKA_REQUIRED_CMS_ATTRIBUTES", Form.BYTES),
    AttributeRow("CKA_DEFAULT_CMS_ATTRIBUTES", Form.BYTES),
    AttributeRow("CKA_SUPPORTED_CMS_ATTRIBUTES", Form.BYTES),
    AttributeRow("CKA_PROFILE_ID", Form.ULONG),
    # Double ratchet: the state of a conversation, all of it worth as much as its key
    AttributeRow("CKA_X2RATCHET_BAG", Form.BYTES, secret=True),
    AttributeRow("CKA_X2RATCHET_BAGSIZE", Form.ULONG),
    AttributeRow("CKA_X2RATCHET_BOBS1STMSG", Form.BOOL),
    AttributeRow("CKA_X2RATCHET_CKR", Form.BYTES, secret=True),
    AttributeRow("CKA_X2RATCHET_CKS", Form.BYTES, secret=True),
    AttributeRow("CKA_X2RATCHET_DHP", Form.BYTES, secret=True),
    AttributeRow("CKA_X2RATCHET_DHR", Form.BYTES, secret=True),
    AttributeRow("CKA_X2RATCHET_DHS", Form.BYTES, secret=True),
    AttributeRow("CKA_X2RATCHET_HKR", Form.BYTES, secret=True),
    AttributeRow("CKA_X2RATCHET_HKS", Form.BYTES, secret=True),
    AttributeRow("CKA_X2RATCHET_ISALICE", Form.BOOL),
    AttributeRow("CKA_X2RATCHET_NHKR", Form.BYTES, secret=True),
    AttributeRow("CKA_X2RATCHET_NHKS", Form.BYTES, secret=True),
    AttributeRow("CKA_X2RATCHET_NR", Form.ULONG),
    AttributeRow("CKA_X2RATCHET_NS", Form.ULONG),
    AttributeRow("CKA_X2RATCHET_PNS", Form.ULONG),
    AttributeRow("CKA_X2RATCHET_RK", Form.BYTES, secret=True),
)

ATTRIBUTES: dict[int, AttributeRow] = {getattr(constants, row.name): row for row in _ROWS}
"""CKA_ value -> row."""

PROTECTIONS: dict[int, bool] = {type: row.stronger for type, row in ATTRIBUTES.items() if row.stronger is not None}
"""CKA_ value of each protection -> the truth value that protects more."""

HISTORY: dict[int, bytes] = {type: row.history for type, row in ATTRIBUTES.items() if row.history is not None}
"""CKA_ value of each attribute that tells of a key's past -> what is answered for a replicated key, as in memory."""


def form_of(type: int) -> Form:
    """What an attribute's value is."""
    row = ATTRIBUTES.get(type)
    if row is not None:
        return row.form
    return Form.TEMPLATE if is_attribute_array(type) else Form.BYTES


def is_secret(type: int, object_class: int | None = None) -> bool:
    """Is an attribute's value key material, or may it be. `object_class`: CKO_ of the object where it is known; the
    CKA_VALUE of certificates and public keys is public."""
    if type == CKA_VALUE and object_class in (CKO_CERTIFICATE, CKO_PUBLIC_KEY):
        return False
    row = ATTRIBUTES.get(type)
    return row is None or row.secret


def is_attribute_array(type: int) -> bool:
    """Is an attribute's value an array of CK_ATTRIBUTE. CKA_ALLOWED_MECHANISMS has the array bit and is none."""
    return bool(type & CKF_ARRAY_ATTRIBUTE) and type != CKA_ALLOWED_MECHANISMS


def weaker(before: Mapping[int, bytes], after: Mapping[int, bytes]) -> tuple[int, ...]:
    """The protections that `before` has and `after` has not, ascending. Both: CKA_ value -> value as in memory; an
    attribute that is missing or empty in `after` protects nothing, one that is in `before` promises nothing.

    A list of allowed mechanisms protects too, unless it is empty: `after` must allow no more. Attribute arrays
    (CKA_WRAP_TEMPLATE ...) are not compared: their value in memory is made of addresses."""
    lost = []
    for type, value in before.items():
        stronger = PROTECTIONS.get(type)
        if stronger is not None and _holds(value, stronger) and not _holds(after.get(type), stronger):
            lost.append(type)
    allowed = _mechanisms(before.get(CKA_ALLOWED_MECHANISMS))
    if allowed and not (allowed >= _mechanisms(after.get(CKA_ALLOWED_MECHANISMS)) > set()):
        lost.append(CKA_ALLOWED_MECHANISMS)
    return tuple(sorted(lost))


def _holds(value: bytes | None, stronger: bool) -> bool:
    return bool(value) and any(value or b"") == stronger


def _mechanisms(value: bytes | None) -> set[bytes]:
    value = value or b""
    return {bytes(value[at : at + 8]) for at in range(0, len(value), 8)}
