"""The structures of mechanism parameters: their fields, and what those are to whoever must carry them elsewhere.

Pure data. Knows where a structure has pointers, object handles and outputs, and computes each field's offset from the
list of fields as a C compiler does for LP64 (CK_ULONG and pointers 8 bytes, aligned to 8); that is the only ABI that
is served. Which mechanism takes which structure is said in `mechanisms`. Structures that hand out object handles, or
in which a pointer's length cannot be known, are not here.

Sources: PKCS #11 Current Mechanisms Specification 2.40 and 3.0 (sections named by mechanism), their Historical
Mechanisms Specifications, and the field order of their normative headers.
"""

from collections.abc import Iterator

from pyha.cryptoki.plain import dataclass, replace

_WORD = 8


@dataclass(frozen=True, slots=True)
class Pointer:
    """A pointer in a parameter structure.

    `at`: offset of the pointer, bytes. The size of what it points to is `bytes_for(count)` with the CK_ULONG at offset
    `length_at`, or else the constant `length` bytes; 0 says that this mechanism does not use the field and that
    nothing is read or written there. `nested`: what it points to is itself a structure with pointers. `out`: nothing
    is read there; the module writes there, and all of it is copied back after CKR_OK.
    `bits`: the count is in bits. `bits_when`: counts that are in bits, others being in bytes.
    `length_is_pointer`: the word at `length_at` is the length itself where it is below `LOWEST_ADDRESS`, otherwise the
    address of a CK_ULONG that holds it.
    """

    at: int
    length_at: int | None = None
    length: int | None = None
    nested: "Layout | None" = None
    out: bool = False
    bits: bool = False
    bits_when: tuple[int, ...] = ()
    length_is_pointer: bool = False

    def bytes_for(self, count: int) -> int:
        """Size in bytes of what is pointed to, when the length field says `count`."""
        return (count + 7) // 8 if self.bits or count in self.bits_when else count


LOWEST_ADDRESS = 0x10000
"""Programs, heaps and stacks of Linux lie above this (Linux's default vm.mmap_min_addr); no password is this long."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One form of a mechanism's parameter.

    `sizes`: accepted ulParameterLen, bytes; empty: any but 0. `handles`: offsets of object handles (CK_INVALID_HANDLE
    where none is meant). `back`: (offset, size) of plain fields that the module may write.
    """

    sizes: tuple[int, ...]
    pointers: tuple[Pointer, ...] = ()
    handles: tuple[int, ...] = ()
    back: tuple[tuple[int, int], ...] = ()

    def accepts(self, length: int) -> bool:
        """May ulParameterLen be `length` bytes."""
        return length in self.sizes if self.sizes else length > 0


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a C structure. `name` is the specification's. `length_name`: the member that gives the length."""

    name: str
    size: int = _WORD
    align: int = _WORD
    pointer: Pointer | None = None
    length_name: str | None = None
    handle: bool = False
    back: bool = False
    at: int = 0


@dataclass(frozen=True, slots=True)
class Structure:
    """A C structure: its specification name, its members with their offsets, its size in bytes."""

    name: str
    fields: tuple[Field, ...]
    size: int

    def layout(self) -> Layout:
        """What has to be known to carry it."""
        return Layout(
            (self.size,),
            tuple(self._pointers()),
            tuple(field.at for field in self.fields if field.handle),
            tuple((field.at, field.size) for field in self.fields if field.back),
        )

    def _pointers(self) -> Iterator[Pointer]:
        offsets = {field.name: field.at for field in self.fields}
        for field in self.fields:
            if field.pointer is not None:
                length_at = None if field.length_name is None else offsets[field.length_name]
                yield replace(field.pointer, at=field.at, length_at=length_at)


def structure(name: str, *fields: Field | tuple[Field, ...]) -> Structure:
    """Lays out members in order, each at the next multiple of its alignment. A tuple is an embedded structure."""
    placed: list[Field] = []
    end, widest = 0, 1
    for entry in fields:
        for field in (entry,) if isinstance(entry, Field) else entry:
            at = _aligned(end, field.align)
            placed.append(replace(field, at=at))
            end, widest = at + field.size, max(widest, field.align)
    return Structure(name, tuple(placed), _aligned(end, widest))


def _aligned(offset: int, align: int) -> int:
    return -(-offset // align) * align


def _word(name: str, back: bool = False) -> Field:
    return Field(name, back=back)


def _byte(name: str) -> Field:
    return Field(name, 1, 1)


def _array(name: str, size: int) -> Field:
    return Field(name, size, 1)


def _handle(name: str) -> Field:
    return Field(name, handle=True)


def _data(name: str, length: str, out: bool = False, bits: bool = False, bits_when: tuple[int, ...] = ()) -> Field:
    return Field(name, pointer=Pointer(0, out=out, bits=bits, bits_when=bits_when), length_name=length)


def _fixed(name: str, length: int, out: bool = False) -> Field:
    return Field(name, pointer=Pointer(0, length=length, out=out))


def _random(name: str) -> tuple[Field, ...]:
    """CK_SSL3_RANDOM_DATA, and CK_WTLS_RANDOM_DATA which is made alike, embedded under `name`."""
    return (
        _data(f"{name}.pClientRandom", f"{name}.ulClientRandomLen"),
        _word(f"{name}.ulClientRandomLen"),
        _data(f"{name}.pServerRandom", f"{name}.ulServerRandomLen"),
        _word(f"{name}.ulServerRandomLen"),
    )


def _encrypt_data(name: str, block: int) -> Structure:
    return structure(name, _array("iv", block), _data("pData", "length"), _word("length"))


def _counter(name: str) -> Structure:
    return structure(name, _word("ulCounterBits"), _array("cb", 16))


def _two_keys(name: str, info: str, *more: Field) -> Structure:
    return structure(
        name,
        _word("kdf"),
        _word(f"ul{info}Len"),
        _data(f"p{info}", f"ul{info}Len"),
        _word("ulPublicDataLen"),
        _data("pPublicData", "ulPublicDataLen"),
        *more,
    )


def _second_pair(*more: Field) -> tuple[Field, ...]:
    return (
        _word("ulPrivateDataLen"),
        _handle("hPrivateData"),
        _word("ulPublicDataLen2"),
        _data("pPublicData2", "ulPublicDataLen2"),
        *more,
    )


# RSA
OAEP = structure(
    "CK_RSA_PKCS_OAEP_PARAMS",
    _word("hashAlg"),
    _word("mgf"),
    _word("source"),
    _data("pSourceData", "ulSourceDataLen"),
    _word("ulSourceDataLen"),
)
PSS = structure("CK_RSA_PKCS_PSS_PARAMS", _word("hashAlg"), _word("mgf"), _word("sLen"))
RSA_AES_KEY_WRAP = structure(
    "CK_RSA_AES_KEY_WRAP_PARAMS",
    _word("ulAESKeyBits"),
    Field("pOAEPParams", pointer=Pointer(0, length=OAEP.size, nested=OAEP.layout())),
)

# Agreement: elliptic curves, Diffie-Hellman, GOST
ECDH1 = _two_keys("CK_ECDH1_DERIVE_PARAMS", "SharedData")
ECMQV = _two_keys("CK_ECMQV_DERIVE_PARAMS", "SharedData", *_second_pair(_handle("publicKey")))
X9_42_DH1 = _two_keys("CK_X9_42_DH1_DERIVE_PARAMS", "OtherInfo")
X9_42_DH2 = _two_keys("CK_X9_42_DH2_DERIVE_PARAMS", "OtherInfo", *_second_pair())
X9_42_MQV = _two_keys("CK_X9_42_MQV_DERIVE_PARAMS", "OtherInfo", *_second_pair(_handle("publicKey")))
ECDH_AES_KEY_WRAP = structure(
    "CK_ECDH_AES_KEY_WRAP_PARAMS",
    _word("ulAESKeyBits"),
    _word("kdf"),
    _word("ulSharedDataLen"),
    _data("pSharedData", "ulSharedDataLen"),
)
GOSTR3410_DERIVE = structure(
    "CK_GOSTR3410_DERIVE_PARAMS",
    _word("kdf"),
    _data("pPublicData", "ulPublicDataLen"),
    _word("ulPublicDataLen"),
    _data("pUKM", "ulUKMLen"),
    _word("ulUKMLen"),
)
GOSTR3410_KEY_WRAP = structure(
    "CK_GOSTR3410_KEY_WRAP_PARAMS",
    _data("pWrapOID", "ulWrapOIDLen"),
    _word("ulWrapOIDLen"),
    _data("pUKM", "ulUKMLen"),
    _word("ulUKMLen"),
    _handle("hKey"),
)

# Signatures on Edwards curves
EDDSA = structure(
    "CK_EDDSA_PARAMS", _byte("phFlag"), _word("ulContextDataLen"), _data("pContextData", "ulContextDataLen")
)
XEDDSA = structure("CK_XEDDSA_PARAMS", _word("hash"))

# DSA domain parameters: two mechanisms return the seed, the third takes it
DSA_SEED_OUT = structure(
    "CK_DSA_PARAMETER_GEN_PARAM",
    _word("hash"),
    _data("pSeed", "ulSeedLen", out=True),
    _word("ulSeedLen", back=True),
    _word("ulIndex"),
)
DSA_SEED_IN = structure(
    "CK_DSA_PARAMETER_GEN_PARAM", _word("hash"), _data("pSeed", "ulSeedLen"), _word("ulSeedLen"), _word("ulIndex")
)

# Ciphers
GCM = structure(
    "CK_GCM_PARAMS",
    _data("pIv", "ulIvLen"),
    _word("ulIvLen"),
    _word("ulIvBits"),
    _data("pAAD", "ulAADLen"),
    _word("ulAADLen"),
    _word("ulTagBits"),
)
# The text of 2.40 forgot ulIvBits, its header has it; there are applications and modules of both kinds.
GCM_WITHOUT_IV_BITS = structure(
    "CK_NSS_GCM_PARAMS",
    _data("pIv", "ulIvLen"),
    _word("ulIvLen"),
    _data("pAAD", "ulAADLen"),
    _word("ulAADLen"),
    _word("ulTagBits"),
)
CCM = structure(
    "CK_CCM_PARAMS",
    _word("ulDataLen"),
    _data("pNonce", "ulNonceLen"),
    _word("ulNonceLen"),
    _data("pAAD", "ulAADLen"),
    _word("ulAADLen"),
    _word("ulMACLen"),
)
AES_CTR = _counter("CK_AES_CTR_PARAMS")
CAMELLIA_CTR = _counter("CK_CAMELLIA_CTR_PARAMS")
CHACHA20 = structure(
    "CK_CHACHA20_PARAMS",
    _data("pBlockCounter", "blockCounterBits", bits=True),
    _word("blockCounterBits"),
    _data("pNonce", "ulNonceBits", bits=True),
    _word("ulNonceBits"),
)
SALSA20 = structure(
    "CK_SALSA20_PARAMS",
    _fixed("pBlockCounter", 8),
    _data("pNonce", "ulNonceBits", bits=True),
    _word("ulNonceBits"),
)
# The text says bits (64, 96 or 192), the field's name and most modules say bytes (8, 12 or 24).
POLY1305_AEAD = structure(
    "CK_SALSA20_CHACHA20_POLY1305_PARAMS",
    _data("pNonce", "ulNonceLen", bits_when=(64, 96, 192)),
    _word("ulNonceLen"),
    _data("pAAD", "ulAADLen"),
    _word("ulAADLen"),
)
RC2_CBC = structure("CK_RC2_CBC_PARAMS", _word("ulEffectiveBits"), _array("iv", 8))
RC2_MAC_GENERAL = structure("CK_RC2_MAC_GENERAL_PARAMS", _word("ulEffectiveBits"), _word("ulMacLength"))
RC5 = structure("CK_RC5_PARAMS", _word("ulWordsize"), _word("ulRounds"))
RC5_CBC = structure(
    "CK_RC5_CBC_PARAMS", _word("ulWordsize"), _word("ulRounds"), _data("pIv", "ulIvLen"), _word("ulIvLen")
)
RC5_MAC_GENERAL = structure("CK_RC5_MAC_GENERAL_PARAMS", _word("ulWordsize"), _word("ulRounds"), _word("ulMacLength"))

# Derivation
STRING_DATA = structure("CK_KEY_DERIVATION_STRING_DATA", _data("pData", "ulLen"), _word("ulLen"))
DES_CBC_ENCRYPT_DATA = _encrypt_data("CK_DES_CBC_ENCRYPT_DATA_PARAMS", 8)
AES_CBC_ENCRYPT_DATA = _encrypt_data("CK_AES_CBC_ENCRYPT_DATA_PARAMS", 16)
CAMELLIA_CBC_ENCRYPT_DATA = _encrypt_data("CK_CAMELLIA_CBC_ENCRYPT_DATA_PARAMS", 16)
ARIA_CBC_ENCRYPT_DATA = _encrypt_data("CK_ARIA_CBC_ENCRYPT_DATA_PARAMS", 16)
SEED_CBC_ENCRYPT_DATA = _encrypt_data("CK_SEED_CBC_ENCRYPT_DATA_PARAMS", 16)
HKDF = structure(
    "CK_HKDF_PARAMS",
    _byte("bExtract"),
    _byte("bExpand"),
    _word("prfHashMechanism"),
    _word("ulSaltType"),
    _data("pSalt", "ulSaltLen"),
    _word("ulSaltLen"),
    _handle("hSaltKey"),
    _data("pInfo", "ulInfoLen"),
    _word("ulInfoLen"),
)

# From passwords
_PBE_REST = (
    _data("pPassword", "ulPasswordLen"),
    _word("ulPasswordLen"),
    _data("pSalt", "ulSaltLen"),
    _word("ulSaltLen"),
    _word("ulIteration"),
)
PBE_WITH_IV = structure("CK_PBE_PARAMS", _fixed("pInitVector", 8, out=True), *_PBE_REST)
PBE_WITHOUT_IV = structure("CK_PBE_PARAMS", _fixed("pInitVector", 0), *_PBE_REST)
# CK_PKCS5_PBKD2_PARAMS has CK_ULONG_PTR ulPasswordLen, CK_PKCS5_PBKD2_PARAMS2 CK_ULONG; both have the same size.
PBKD2 = structure(
    "CK_PKCS5_PBKD2_PARAMS",
    _word("saltSource"),
    _data("pSaltSourceData", "ulSaltSourceDataLen"),
    _word("ulSaltSourceDataLen"),
    _word("iterations"),
    _word("prf"),
    _data("pPrfData", "ulPrfDataLen"),
    _word("ulPrfDataLen"),
    Field("pPassword", pointer=Pointer(0, length_is_pointer=True), length_name="ulPasswordLen"),
    _word("ulPasswordLen"),
)

# TLS and its kin. An RSA premaster secret has a version inside, which is returned; a Diffie-Hellman one has none.
SSL3_MASTER = structure("CK_SSL3_MASTER_KEY_DERIVE_PARAMS", _random("RandomInfo"), _fixed("pVersion", 2, out=True))
SSL3_MASTER_DH = structure("CK_SSL3_MASTER_KEY_DERIVE_PARAMS", _random("RandomInfo"), _fixed("pVersion", 0))
TLS12_MASTER = structure(
    "CK_TLS12_MASTER_KEY_DERIVE_PARAMS",
    _random("RandomInfo"),
    _fixed("pVersion", 2, out=True),
    _word("prfHashMechanism"),
)
TLS12_MASTER_DH = structure(
    "CK_TLS12_MASTER_KEY_DERIVE_PARAMS", _random("RandomInfo"), _fixed("pVersion", 0), _word("prfHashMechanism")
)
TLS_KDF = structure(
    "CK_TLS_KDF_PARAMS",
    _word("prfMechanism"),
    _data("pLabel", "ulLabelLength"),
    _word("ulLabelLength"),
    _random("RandomInfo"),
    _data("pContextData", "ulContextDataLength"),
    _word("ulContextDataLength"),
)
TLS_MAC = structure("CK_TLS_MAC_PARAMS", _word("prfHashMechanism"), _word("ulMacLength"), _word("ulServerOrClient"))
WTLS_MASTER = structure(
    "CK_WTLS_MASTER_KEY_DERIVE_PARAMS",
    _word("DigestMechanism"),
    _random("RandomInfo"),
    _fixed("pVersion", 1, out=True),
)
WTLS_MASTER_DH = structure(
    "CK_WTLS_MASTER_KEY_DERIVE_PARAMS", _word("DigestMechanism"), _random("RandomInfo"), _fixed("pVersion", 0)
)
