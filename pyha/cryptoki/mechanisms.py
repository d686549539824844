"""The table of mechanisms: what each one's parameter is made of, and what key it makes where that is fixed.

Pure data. A mechanism that is not here is not listed to applications and is refused with CKR_MECHANISM_INVALID,
unless the configuration declares it: a pointer nobody knows of must not travel to another process. Left out on purpose
are mechanisms that return object handles or pointers (key-and-MAC derivation of SSL3, TLS and WTLS, SP800-108
derivation, one-time passwords, whose "signature" is full of pointers), that make no key though they are derivations
(TLS and WTLS PRF), whose parameter contains another mechanism (CMS, KIP) or pointers without a length (X3DH,
X2RATCHET), and those of Fortezza.

Sources: PKCS #11 Current Mechanisms Specification 2.40 and 3.0, Historical Mechanisms Specification 2.40 and 3.0.
"""

from pyha.cryptoki import constants, parameters
from pyha.cryptoki.constants import (
    CKO_DOMAIN_PARAMETERS,
    CKO_PRIVATE_KEY,
    CKO_SECRET_KEY,
)
from pyha.cryptoki.parameters import LOWEST_ADDRESS, Layout, Pointer, Structure
from pyha.cryptoki.plain import dataclass

__all__ = ["LOWEST_ADDRESS", "MECHANISMS", "Layout", "MechanismRow", "Pointer", "declared"]


@dataclass(frozen=True, slots=True)
class MechanismRow:
    """One mechanism.

    `layouts`: the forms its parameter may have, told apart by ulParameterLen. `absent`: the parameter may be missing.
    `generates`: CKK_ key type that a key (pair) or domain parameter generation contributes by itself, None where the
    mechanism generates nothing or leaves the type to the template. `generates_class`: CKO_SECRET_KEY, CKO_PRIVATE_KEY
    (a pair) or CKO_DOMAIN_PARAMETERS, None where it generates nothing.
    """

    name: str
    layouts: tuple[Layout, ...] = ()
    absent: bool = False
    generates: int | None = None
    generates_class: int | None = None

    def layout_for(self, length: int) -> Layout | None:
        """The form that a parameter of `length` bytes (above 0) has; None: CKR_MECHANISM_PARAM_INVALID."""
        for layout in self.layouts:
            if layout.accepts(length):
                return layout
        return None


MECHANISMS: dict[int, MechanismRow] = {}
"""CKM_ value -> row."""

_ANY = Layout(())
_WORD = Layout((8,))


def declared(form: str) -> MechanismRow:
    """The row of a mechanism that only the configuration knows: "none" has no parameter, "flat" one without pointers
    and handles, of any length, which may be missing. Raises ValueError for another word."""
    if form == "none":
        return MechanismRow("declared", absent=True)
    if form == "flat":
        return MechanismRow("declared", (_ANY,), absent=True)
    raise ValueError(f"a mechanism is declared none or flat, not {form}")


def _add(names: str, *layouts: Layout | Structure, absent: bool = False) -> None:
    forms = tuple(form.layout() if isinstance(form, Structure) else form for form in layouts)
    for name in names.split():
        _put(MechanismRow(name, forms, absent))


def _add_generation(made: int, layouts: tuple[Layout, ...], types: dict[str, int | None]) -> None:
    for name, key_type in types.items():
        _put(MechanismRow(name, layouts, not layouts, key_type, made))


def _put(row: MechanismRow) -> None:
    if MECHANISMS.setdefault(getattr(constants, row.name), row) is not row:
        raise ValueError(f"{row.name} has two rows")


def _bytes(*sizes: int) -> Layout:
    return Layout(sizes)


# No parameter
_add(
    """
    CKM_RSA_PKCS CKM_RSA_9796 CKM_RSA_X_509 CKM_RSA_X9_31 CKM_SHA1_RSA_X9_31
    CKM_MD2_RSA_PKCS CKM_MD5_RSA_PKCS CKM_RIPEMD128_RSA_PKCS CKM_RIPEMD160_RSA_PKCS
    CKM_SHA1_RSA_PKCS CKM_SHA224_RSA_PKCS CKM_SHA256_RSA_PKCS CKM_SHA384_RSA_PKCS CKM_SHA512_RSA_PKCS
    CKM_SHA3_224_RSA_PKCS CKM_SHA3_256_RSA_PKCS CKM_SHA3_384_RSA_PKCS CKM_SHA3_512_RSA_PKCS
    CKM_RSA_PKCS_TPM_1_1 CKM_RSA_PKCS_OAEP_TPM_1_1

    CKM_DSA CKM_DSA_SHA1 CKM_DSA_SHA224 CKM_DSA_SHA256 CKM_DSA_SHA384 CKM_DSA_SHA512
    CKM_DSA_SHA3_224 CKM_DSA_SHA3_256 CKM_DSA_SHA3_384 CKM_DSA_SHA3_512
    CKM_ECDSA CKM_ECDSA_SHA1 CKM_ECDSA_SHA224 CKM_ECDSA_SHA256 CKM_ECDSA_SHA384 CKM_ECDSA_SHA512
    CKM_ECDSA_SHA3_224 CKM_ECDSA_SHA3_256 CKM_ECDSA_SHA3_384 CKM_ECDSA_SHA3_512
    CKM_GOSTR3410

    CKM_MD2 CKM_MD5 CKM_RIPEMD128 CKM_RIPEMD160 CKM_FASTHASH
    CKM_SHA_1 CKM_SHA224 CKM_SHA256 CKM_SHA384 CKM_SHA512 CKM_SHA512_224 CKM_SHA512_256
    CKM_SHA3_224 CKM_SHA3_256 CKM_SHA3_384 CKM_SHA3_512
    CKM_BLAKE2B_160 CKM_BLAKE2B_256 CKM_BLAKE2B_384 CKM_BLAKE2B_512

    CKM_MD2_HMAC CKM_MD5_HMAC CKM_RIPEMD128_HMAC CKM_RIPEMD160_HMAC
    CKM_SHA_1_HMAC CKM_SHA224_HMAC CKM_SHA256_HMAC CKM_SHA384_HMAC CKM_SHA512_HMAC
    CKM_SHA512_224_HMAC CKM_SHA512_256_HMAC
    CKM_SHA3_224_HMAC CKM_SHA3_256_HMAC CKM_SHA3_384_HMAC CKM_SHA3_512_HMAC
    CKM_BLAKE2B_160_HMAC CKM_BLAKE2B_256_HMAC CKM_BLAKE2B_384_HMAC CKM_BLAKE2B_512_HMAC

    CKM_DES_ECB CKM_DES3_ECB CKM_CDMF_ECB CKM_CAST_ECB CKM_CAST3_ECB CKM_CAST128_ECB CKM_IDEA_ECB
    CKM_AES_ECB CKM_CAMELLIA_ECB CKM_ARIA_ECB CKM_SEED_ECB CKM_GOST28147_ECB CKM_RC4 CKM_NULL
    CKM_DES_MAC CKM_DES3_MAC CKM_CDMF_MAC CKM_CAST_MAC CKM_CAST3_MAC CKM_CAST128_MAC CKM_IDEA_MAC
    CKM_AES_MAC CKM_CAMELLIA_MAC CKM_ARIA_MAC CKM_SEED_MAC
    CKM_DES3_CMAC CKM_AES_CMAC CKM_AES_XCBC_MAC CKM_AES_XCBC_MAC_96 CKM_POLY1305 CKM_KEY_WRAP_LYNKS

    CKM_MD2_KEY_DERIVATION CKM_MD5_KEY_DERIVATION CKM_SHA1_KEY_DERIVATION CKM_SHA224_KEY_DERIVATION
    CKM_SHA256_KEY_DERIVATION CKM_SHA384_KEY_DERIVATION CKM_SHA512_KEY_DERIVATION
    CKM_SHA512_224_KEY_DERIVATION CKM_SHA512_256_KEY_DERIVATION
    CKM_SHA3_224_KEY_DERIVATION CKM_SHA3_256_KEY_DERIVATION CKM_SHA3_384_KEY_DERIVATION CKM_SHA3_512_KEY_DERIVATION
    CKM_SHAKE_128_KEY_DERIVATION CKM_SHAKE_256_KEY_DERIVATION
    CKM_BLAKE2B_160_KEY_DERIVE CKM_BLAKE2B_256_KEY_DERIVE CKM_BLAKE2B_384_KEY_DERIVE CKM_BLAKE2B_512_KEY_DERIVE
    """,
    absent=True,
)

# One CK_ULONG: the length of a MAC, the bits of a hash, the effective bits of RC2, the first bit of an extracted key
_add(
    """
    CKM_MD2_HMAC_GENERAL CKM_MD5_HMAC_GENERAL CKM_RIPEMD128_HMAC_GENERAL CKM_RIPEMD160_HMAC_GENERAL
    CKM_SHA_1_HMAC_GENERAL CKM_SHA224_HMAC_GENERAL CKM_SHA256_HMAC_GENERAL CKM_SHA384_HMAC_GENERAL
    CKM_SHA512_HMAC_GENERAL CKM_SHA512_224_HMAC_GENERAL CKM_SHA512_256_HMAC_GENERAL
    CKM_SHA3_224_HMAC_GENERAL CKM_SHA3_256_HMAC_GENERAL CKM_SHA3_384_HMAC_GENERAL CKM_SHA3_512_HMAC_GENERAL
    CKM_BLAKE2B_160_HMAC_GENERAL CKM_BLAKE2B_256_HMAC_GENERAL CKM_BLAKE2B_384_HMAC_GENERAL
    CKM_BLAKE2B_512_HMAC_GENERAL
    CKM_DES_MAC_GENERAL CKM_DES3_MAC_GENERAL CKM_CDMF_MAC_GENERAL CKM_CAST_MAC_GENERAL CKM_CAST3_MAC_GENERAL
    CKM_CAST128_MAC_GENERAL CKM_IDEA_MAC_GENERAL CKM_AES_MAC_GENERAL CKM_CAMELLIA_MAC_GENERAL CKM_ARIA_MAC_GENERAL
    CKM_SEED_MAC_GENERAL CKM_DES3_CMAC_GENERAL CKM_AES_CMAC_GENERAL
    CKM_SSL3_MD5_MAC CKM_SSL3_SHA1_MAC
    CKM_SHA512_T CKM_SHA512_T_HMAC CKM_SHA512_T_HMAC_GENERAL CKM_SHA512_T_KEY_DERIVATION
    CKM_RC2_ECB CKM_RC2_MAC
    CKM_EXTRACT_KEY_FROM_KEY
    """,
    _WORD,
)

# An initialisation vector, and nothing else
_add(
    """
    CKM_DES_CBC CKM_DES_CBC_PAD CKM_DES3_CBC CKM_DES3_CBC_PAD CKM_CDMF_CBC CKM_CDMF_CBC_PAD
    CKM_DES_OFB64 CKM_DES_OFB8 CKM_DES_CFB64 CKM_DES_CFB8
    CKM_CAST_CBC CKM_CAST_CBC_PAD CKM_CAST3_CBC CKM_CAST3_CBC_PAD CKM_CAST128_CBC CKM_CAST128_CBC_PAD
    CKM_IDEA_CBC CKM_IDEA_CBC_PAD CKM_BLOWFISH_CBC CKM_BLOWFISH_CBC_PAD CKM_GOST28147
    """,
    _bytes(8),
)
_add(
    """
    CKM_AES_CBC CKM_AES_CBC_PAD CKM_AES_CTS CKM_AES_OFB CKM_AES_XTS
    CKM_AES_CFB1 CKM_AES_CFB8 CKM_AES_CFB64 CKM_AES_CFB128
    CKM_CAMELLIA_CBC CKM_CAMELLIA_CBC_PAD CKM_ARIA_CBC CKM_ARIA_CBC_PAD CKM_SEED_CBC CKM_SEED_CBC_PAD
    CKM_TWOFISH_CBC CKM_TWOFISH_CBC_PAD
    """,
    _bytes(16),
)
_add("CKM_AES_GMAC", _bytes(12))
_add("CKM_AES_KEY_WRAP", _bytes(8), absent=True)
_add("CKM_AES_KEY_WRAP_PAD CKM_AES_KEY_WRAP_KWP", _bytes(4, 8), absent=True)
_add("CKM_GOST28147_MAC CKM_GOST28147_KEY_WRAP", _bytes(8), absent=True)

# Plain bytes of any length: a public value; the object identifier of a hash
_add("CKM_DH_PKCS_DERIVE", _ANY)
_add("CKM_GOSTR3410_WITH_GOSTR3411 CKM_GOSTR3411 CKM_GOSTR3411_HMAC", _ANY, absent=True)

# Structures: ciphers
_add("CKM_AES_CTR", parameters.AES_CTR)
_add("CKM_CAMELLIA_CTR", parameters.CAMELLIA_CTR)
_add("CKM_AES_GCM", parameters.GCM, parameters.GCM_WITHOUT_IV_BITS)
_add("CKM_AES_CCM", parameters.CCM)
_add("CKM_CHACHA20", parameters.CHACHA20)
_add("CKM_SALSA20", parameters.SALSA20)
_add("CKM_CHACHA20_POLY1305 CKM_SALSA20_POLY1305", parameters.POLY1305_AEAD)
_add("CKM_RC2_CBC CKM_RC2_CBC_PAD", parameters.RC2_CBC)
_add("CKM_RC2_MAC_GENERAL", parameters.RC2_MAC_GENERAL)
_add("CKM_RC5_ECB CKM_RC5_MAC", parameters.RC5)
_add("CKM_RC5_CBC CKM_RC5_CBC_PAD", parameters.RC5_CBC)
_add("CKM_RC5_MAC_GENERAL", parameters.RC5_MAC_GENERAL)
_add("CKM_TLS_MAC", parameters.TLS_MAC)

# Structures: public keys
_add("CKM_RSA_PKCS_OAEP", parameters.OAEP)
_add(
    """
    CKM_RSA_PKCS_PSS CKM_SHA1_RSA_PKCS_PSS CKM_SHA224_RSA_PKCS_PSS CKM_SHA256_RSA_PKCS_PSS CKM_SHA384_RSA_PKCS_PSS
    CKM_SHA512_RSA_PKCS_PSS CKM_SHA3_224_RSA_PKCS_PSS CKM_SHA3_256_RSA_PKCS_PSS CKM_SHA3_384_RSA_PKCS_PSS
    CKM_SHA3_512_RSA_PKCS_PSS
    """,
    parameters.PSS,
)
_add("CKM_EDDSA", parameters.EDDSA, absent=True)
_add("CKM_XEDDSA", parameters.XEDDSA)
_add("CKM_RSA_AES_KEY_WRAP", parameters.RSA_AES_KEY_WRAP)
_add("CKM_ECDH_AES_KEY_WRAP", parameters.ECDH_AES_KEY_WRAP)
_add("CKM_GOSTR3410_KEY_WRAP", parameters.GOSTR3410_KEY_WRAP)

# Structures: derivation
_add("CKM_ECDH1_DERIVE CKM_ECDH1_COFACTOR_DERIVE", parameters.ECDH1)
_add("CKM_ECMQV_DERIVE", parameters.ECMQV)
_add("CKM_X9_42_DH_DERIVE", parameters.X9_42_DH1)
_add("CKM_X9_42_DH_HYBRID_DERIVE", parameters.X9_42_DH2)
_add("CKM_X9_42_MQV_DERIVE", parameters.X9_42_MQV)
_add("CKM_GOSTR3410_DERIVE", parameters.GOSTR3410_DERIVE)
_add("CKM_CONCATENATE_BASE_AND_KEY", Layout((8,), handles=(0,)))
_add("CKM_CONCATENATE_BASE_AND_DATA CKM_CONCATENATE_DATA_AND_BASE CKM_XOR_BASE_AND_DATA", parameters.STRING_DATA)
_add(
    """
    CKM_DES_ECB_ENCRYPT_DATA CKM_DES3_ECB_ENCRYPT_DATA CKM_AES_ECB_ENCRYPT_DATA CKM_CAMELLIA_ECB_ENCRYPT_DATA
    CKM_ARIA_ECB_ENCRYPT_DATA CKM_SEED_ECB_ENCRYPT_DATA
    """,
    parameters.STRING_DATA,
)
_add("CKM_DES_CBC_ENCRYPT_DATA CKM_DES3_CBC_ENCRYPT_DATA", parameters.DES_CBC_ENCRYPT_DATA)
_add("CKM_AES_CBC_ENCRYPT_DATA", parameters.AES_CBC_ENCRYPT_DATA)
_add("CKM_CAMELLIA_CBC_ENCRYPT_DATA", parameters.CAMELLIA_CBC_ENCRYPT_DATA)
_add("CKM_ARIA_CBC_ENCRYPT_DATA", parameters.ARIA_CBC_ENCRYPT_DATA)
_add("CKM_SEED_CBC_ENCRYPT_DATA", parameters.SEED_CBC_ENCRYPT_DATA)
_add("CKM_HKDF_DERIVE CKM_HKDF_DATA", parameters.HKDF)
_add("CKM_SSL3_MASTER_KEY_DERIVE CKM_TLS_MASTER_KEY_DERIVE", parameters.SSL3_MASTER)
_add("CKM_SSL3_MASTER_KEY_DERIVE_DH CKM_TLS_MASTER_KEY_DERIVE_DH", parameters.SSL3_MASTER_DH)
_add("CKM_TLS12_MASTER_KEY_DERIVE", parameters.TLS12_MASTER)
_add("CKM_TLS12_MASTER_KEY_DERIVE_DH", parameters.TLS12_MASTER_DH)
_add("CKM_TLS_KDF", parameters.TLS_KDF)
_add("CKM_WTLS_MASTER_KEY_DERIVE", parameters.WTLS_MASTER)
_add("CKM_WTLS_MASTER_KEY_DERIVE_DH_ECC", parameters.WTLS_MASTER_DH)

# Generation
_add_generation(
    CKO_PRIVATE_KEY,
    (),
    {
        "CKM_RSA_PKCS_KEY_PAIR_GEN": constants.CKK_RSA,
        "CKM_RSA_X9_31_KEY_PAIR_GEN": constants.CKK_RSA,
        "CKM_DSA_KEY_PAIR_GEN": constants.CKK_DSA,
        "CKM_DH_PKCS_KEY_PAIR_GEN": constants.CKK_DH,
        "CKM_X9_42_DH_KEY_PAIR_GEN": constants.CKK_X9_42_DH,
        "CKM_EC_KEY_PAIR_GEN": constants.CKK_EC,
        "CKM_EC_KEY_PAIR_GEN_W_EXTRA_BITS": constants.CKK_EC,
        "CKM_EC_EDWARDS_KEY_PAIR_GEN": constants.CKK_EC_EDWARDS,
        "CKM_EC_MONTGOMERY_KEY_PAIR_GEN": constants.CKK_EC_MONTGOMERY,
        "CKM_GOSTR3410_KEY_PAIR_GEN": constants.CKK_GOSTR3410,
    },
)
_add_generation(
    CKO_SECRET_KEY,
    (),
    {
        "CKM_GENERIC_SECRET_KEY_GEN": constants.CKK_GENERIC_SECRET,
        "CKM_AES_KEY_GEN": constants.CKK_AES,
        "CKM_AES_XTS_KEY_GEN": constants.CKK_AES_XTS,
        "CKM_DES_KEY_GEN": constants.CKK_DES,
        "CKM_DES2_KEY_GEN": constants.CKK_DES2,
        "CKM_DES3_KEY_GEN": constants.CKK_DES3,
        "CKM_CDMF_KEY_GEN": constants.CKK_CDMF,
        "CKM_RC2_KEY_GEN": constants.CKK_RC2,
        "CKM_RC4_KEY_GEN": constants.CKK_RC4,
        "CKM_RC5_KEY_GEN": constants.CKK_RC5,
        "CKM_CAST_KEY_GEN": constants.CKK_CAST,
        "CKM_CAST3_KEY_GEN": constants.CKK_CAST3,
        "CKM_CAST128_KEY_GEN": constants.CKK_CAST128,
        "CKM_IDEA_KEY_GEN": constants.CKK_IDEA,
        "CKM_BLOWFISH_KEY_GEN": constants.CKK_BLOWFISH,
        "CKM_TWOFISH_KEY_GEN": constants.CKK_TWOFISH,
        "CKM_CAMELLIA_KEY_GEN": constants.CKK_CAMELLIA,
        "CKM_ARIA_KEY_GEN": constants.CKK_ARIA,
        "CKM_SEED_KEY_GEN": constants.CKK_SEED,
        "CKM_GOST28147_KEY_GEN": constants.CKK_GOST28147,
        "CKM_CHACHA20_KEY_GEN": constants.CKK_CHACHA20,
        "CKM_SALSA20_KEY_GEN": constants.CKK_SALSA20,
        "CKM_POLY1305_KEY_GEN": constants.CKK_POLY1305,
        "CKM_HKDF_KEY_GEN": constants.CKK_HKDF,
        "CKM_SHA_1_KEY_GEN": constants.CKK_SHA_1_HMAC,
        "CKM_SHA224_KEY_GEN": constants.CKK_SHA224_HMAC,
        "CKM_SHA256_KEY_GEN": constants.CKK_SHA256_HMAC,
        "CKM_SHA384_KEY_GEN": constants.CKK_SHA384_HMAC,
        "CKM_SHA512_KEY_GEN": constants.CKK_SHA512_HMAC,
        "CKM_SHA512_224_KEY_GEN": constants.CKK_SHA512_224_HMAC,
        "CKM_SHA512_256_KEY_GEN": constants.CKK_SHA512_256_HMAC,
        "CKM_SHA512_T_KEY_GEN": constants.CKK_SHA512_T_HMAC,
        "CKM_SHA3_224_KEY_GEN": constants.CKK_SHA3_224_HMAC,
        "CKM_SHA3_256_KEY_GEN": constants.CKK_SHA3_256_HMAC,
        "CKM_SHA3_384_KEY_GEN": constants.CKK_SHA3_384_HMAC,
        "CKM_SHA3_512_KEY_GEN": constants.CKK_SHA3_512_HMAC,
        "CKM_BLAKE2B_160_KEY_GEN": constants.CKK_BLAKE2B_160_HMAC,
        "CKM_BLAKE2B_256_KEY_GEN": constants.CKK_BLAKE2B_256_HMAC,
        "CKM_BLAKE2B_384_KEY_GEN": constants.CKK_BLAKE2B_384_HMAC,
        "CKM_BLAKE2B_512_KEY_GEN": constants.CKK_BLAKE2B_512_HMAC,
    },
)
# The version of the client, which a premaster secret begins with
_add_generation(
    CKO_SECRET_KEY,
    (_bytes(2),),
    {
        "CKM_SSL3_PRE_MASTER_KEY_GEN": constants.CKK_GENERIC_SECRET,
        "CKM_TLS_PRE_MASTER_KEY_GEN": constants.CKK_GENERIC_SECRET,
    },
)
_add_generation(CKO_SECRET_KEY, (_bytes(1),), {"CKM_WTLS_PRE_MASTER_KEY_GEN": constants.CKK_GENERIC_SECRET})
_add_generation(
    CKO_SECRET_KEY,
    (parameters.PBE_WITH_IV.layout(),),
    {
        "CKM_PBE_MD2_DES_CBC": constants.CKK_DES,
        "CKM_PBE_MD5_DES_CBC": constants.CKK_DES,
        "CKM_PBE_MD5_CAST_CBC": constants.CKK_CAST,
        "CKM_PBE_MD5_CAST3_CBC": constants.CKK_CAST3,
        "CKM_PBE_MD5_CAST128_CBC": constants.CKK_CAST128,
        "CKM_PBE_SHA1_CAST128_CBC": constants.CKK_CAST128,
        "CKM_PBE_SHA1_DES3_EDE_CBC": constants.CKK_DES3,
        "CKM_PBE_SHA1_DES2_EDE_CBC": constants.CKK_DES2,
        "CKM_PBE_SHA1_RC2_128_CBC": constants.CKK_RC2,
        "CKM_PBE_SHA1_RC2_40_CBC": constants.CKK_RC2,
    },
)
_add_generation(
    CKO_SECRET_KEY,
    (parameters.PBE_WITHOUT_IV.layout(),),
    {
        "CKM_PBE_SHA1_RC4_128": constants.CKK_RC4,
        "CKM_PBE_SHA1_RC4_40": constants.CKK_RC4,
        "CKM_PBA_SHA1_WITH_SHA1_HMAC": constants.CKK_GENERIC_SECRET,
    },
)
_add_generation(CKO_SECRET_KEY, (parameters.PBKD2.layout(),), {"CKM_PKCS5_PBKD2": None})
_add_generation(
    CKO_DOMAIN_PARAMETERS,
    (),
    {
        "CKM_DSA_PARAMETER_GEN": constants.CKK_DSA,
        "CKM_DH_PKCS_PARAMETER_GEN": constants.CKK_DH,
        "CKM_X9_42_DH_PARAMETER_GEN": constants.CKK_X9_42_DH,
    },
)
_add_generation(
    CKO_DOMAIN_PARAMETERS,
    (parameters.DSA_SEED_OUT.layout(),),
    {
        "CKM_DSA_PROBABILISTIC_PARAMETER_GEN": constants.CKK_DSA,
        "CKM_DSA_SHAWE_TAYLOR_PARAMETER_GEN": constants.CKK_DSA,
    },
)
_add_generation(CKO_DOMAIN_PARAMETERS, (parameters.DSA_SEED_IN.layout(),), {"CKM_DSA_FIPS_G_GEN": constants.CKK_DSA})
