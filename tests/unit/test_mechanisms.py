"""The table of mechanisms against the installed headers, against SoftHSM, and against itself."""

from pathlib import Path

import pytest

from pyha.cryptoki import constants, parameters
from pyha.cryptoki.constants import (
    CKA_EC_PARAMS,
    CKA_KEY_TYPE,
    CKA_MODULUS_BITS,
    CKA_VALUE_LEN,
    CKK_AES,
    CKM_AES_CBC,
    CKM_AES_GCM,
    CKM_AES_KEY_GEN,
    CKM_AES_KEY_WRAP_PAD,
    CKM_CHACHA20_POLY1305,
    CKM_CONCATENATE_BASE_AND_KEY,
    CKM_DES2_KEY_GEN,
    CKM_DES3_KEY_GEN,
    CKM_DH_PKCS_DERIVE,
    CKM_DSA_PROBABILISTIC_PARAMETER_GEN,
    CKM_EC_EDWARDS_KEY_PAIR_GEN,
    CKM_EC_KEY_PAIR_GEN,
    CKM_GENERIC_SECRET_KEY_GEN,
    CKM_HKDF_DERIVE,
    CKM_PBE_MD5_DES_CBC,
    CKM_PKCS5_PBKD2,
    CKM_RSA_AES_KEY_WRAP,
    CKM_RSA_PKCS,
    CKM_RSA_PKCS_KEY_PAIR_GEN,
    CKM_TLS12_MASTER_KEY_DERIVE,
    CKO_PRIVATE_KEY,
    CKO_SECRET_KEY,
)
from pyha.cryptoki.mechanisms import MECHANISMS, Layout, Pointer, declared
from pyha.cryptoki.parameters import Structure
from tests.application import Application
from tests.unit.headers import NSS, P11_KIT

STRUCTURES = {name: value for name, value in vars(parameters).items() if isinstance(value, Structure)}

# p11-kit's name of a structure, and its names of our fields in order
P11_KIT_STRUCTURES = {
    "OAEP": ("ck_rsa_pkcs_oaep_params", "hash_alg mgf source source_data source_data_len"),
    "PSS": ("ck_rsa_pkcs_pss_params", "hash_alg mgf s_len"),
    "AES_CTR": ("ck_aes_ctr_params", "counter_bits cb"),
    "GCM": ("ck_gcm_params", "iv_ptr iv_len iv_bits aad_ptr aad_len tag_bits"),
    "ECDH1": ("ck_ecdh1_derive_params", "kdf shared_data_len shared_data public_data_len public_data"),
    "STRING_DATA": ("ck_key_derivation_string_data", "string_data string_data_len"),
    "DES_CBC_ENCRYPT_DATA": ("ck_des_cbc_encrypt_data_params", "iv data_params length"),
    "AES_CBC_ENCRYPT_DATA": ("ck_aes_cbc_encrypt_data_params", "iv data_params length"),
}

LEFT_OUT = {
    # they return object handles
    "CKM_SSL3_KEY_AND_MAC_DERIVE",
    "CKM_TLS_KEY_AND_MAC_DERIVE",
    "CKM_TLS12_KEY_AND_MAC_DERIVE",
    "CKM_TLS12_KEY_SAFE_DERIVE",
    "CKM_WTLS_SERVER_KEY_AND_MAC_DERIVE",
    "CKM_WTLS_CLIENT_KEY_AND_MAC_DERIVE",
    "CKM_SP800_108_COUNTER_KDF",
    "CKM_SP800_108_FEEDBACK_KDF",
    "CKM_SP800_108_DOUBLE_PIPELINE_KDF",
    # they derive bytes, not keys
    "CKM_TLS_PRF",
    "CKM_WTLS_PRF",
    # they return pointers; and their keys, which are good for nothing else
    "CKM_SECURID_KEY_GEN",
    "CKM_SECURID",
    "CKM_HOTP_KEY_GEN",
    "CKM_HOTP",
    "CKM_ACTI_KEY_GEN",
    "CKM_ACTI",
    # a mechanism inside a mechanism
    "CKM_CMS_SIG",
    "CKM_KIP_DERIVE",
    "CKM_KIP_WRAP",
    "CKM_KIP_MAC",
    # pointers without a length, or of which the text does not say which way they go
    "CKM_X3DH_INITIALIZE",
    "CKM_X3DH_RESPOND",
    "CKM_X2RATCHET_INITIALIZE",
    "CKM_X2RATCHET_RESPOND",
    "CKM_X2RATCHET_ENCRYPT",
    "CKM_X2RATCHET_DECRYPT",
    "CKM_KEY_WRAP_SET_OAEP",
    # in the header, not in the text
    "CKM_TLS10_MAC_SERVER",
    "CKM_TLS10_MAC_CLIENT",
    "CKM_TLS12_MAC",
    "CKM_TLS12_KDF",
}
FORTEZZA = ("CKM_SKIPJACK_", "CKM_BATON_", "CKM_JUNIPER_", "CKM_KEA_", "CKM_FORTEZZA_")


def _of(layout: Layout) -> list[Pointer]:
    inner = [pointer for outer in layout.pointers if outer.nested for pointer in _of(outer.nested)]
    return [*layout.pointers, *inner]


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure_is_laid_out_as_the_compiler_does(name: str, tmp_path: Path) -> None:
    ours = STRUCTURES[name]
    lines = [f'printf("%zu\\n", sizeof({ours.name}));']
    lines += [f'printf("%zu\\n", offsetof({ours.name}, {field.name}));' for field in ours.fields]
    assert NSS.run(tmp_path, "\n".join(lines)) == [str(ours.size), *(str(field.at) for field in ours.fields)]


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_pointer_of_a_structure_is_known_as_one(name: str, tmp_path: Path) -> None:
    # GCC's class of a type: 5 is a pointer, which an array decays to
    ours = STRUCTURES[name]
    of = f"(({ours.name} *) 0)->"
    lines = [f'printf("%d\\n", __builtin_classify_type({of}{field.name}) == 5);' for field in ours.fields]
    theirs = dict(zip((field.name for field in ours.fields), NSS.run(tmp_path, "\n".join(lines)), strict=True))
    pointers = {field.name for field in ours.fields if field.pointer is not None}
    arrays = {"iv", "cb"}
    length_that_is_a_pointer = {"ulPasswordLen"} if name == "PBKD2" else set()
    assert {field for field, yes in theirs.items() if yes == "1"} - arrays == pointers | length_that_is_a_pointer


@pytest.mark.parametrize("name", P11_KIT_STRUCTURES)
def test_structure_is_the_same_in_the_2_40_header(name: str, tmp_path: Path) -> None:
    theirs, fields = P11_KIT_STRUCTURES[name]
    lines = [f'printf("%zu\\n", sizeof(struct {theirs}));']
    lines += [f'printf("%zu\\n", offsetof(struct {theirs}, {field}));' for field in fields.split()]
    ours = STRUCTURES[name]
    assert P11_KIT.run(tmp_path, "\n".join(lines)) == [str(ours.size), *(str(field.at) for field in ours.fields)]


def test_both_forms_of_pbkdf2_have_the_same_size(tmp_path: Path) -> None:
    sizes = 'printf("%zu %zu\\n", sizeof(CK_PKCS5_PBKD2_PARAMS), sizeof(CK_PKCS5_PBKD2_PARAMS2));'
    assert NSS.run(tmp_path, sizes) == ["72 72"]


def test_fields_named_as_handles_are_handles() -> None:
    for ours in STRUCTURES.values():
        handles = {field.name for field in ours.fields if field.handle}
        assert handles == {
            field.name for field in ours.fields if field.name in ("hPrivateData", "publicKey", "hSaltKey", "hKey")
        }


def test_every_mechanism_is_in_the_table_or_left_out_with_a_reason() -> None:
    names = {name: value for name, value in vars(constants).items() if name.startswith("CKM_")}
    missing = {name for name, value in names.items() if value not in MECHANISMS and not name.startswith(FORTEZZA)}
    assert missing == LEFT_OUT
    assert not [name for name in names if name.startswith(FORTEZZA) and names[name] in MECHANISMS]


def test_every_row_can_be_called() -> None:
    for row in MECHANISMS.values():
        assert row.layouts or row.absent, row.name
        for layout in row.layouts:
            for pointer in _of(layout):
                assert (pointer.length is None) != (pointer.length_at is None), row.name


def test_softhsm_offers_nothing_that_the_table_lacks(token: Application) -> None:
    offered = token.mechanisms()
    assert len(offered) == 70
    assert [hex(mechanism) for mechanism in offered if mechanism not in MECHANISMS] == []


@pytest.mark.parametrize(
    ("mechanism", "template"),
    [
        (CKM_AES_KEY_GEN, {CKA_VALUE_LEN: 16}),
        (CKM_GENERIC_SECRET_KEY_GEN, {CKA_VALUE_LEN: 20}),
        (CKM_DES2_KEY_GEN, {}),
        (CKM_DES3_KEY_GEN, {}),
        (CKM_RSA_PKCS_KEY_PAIR_GEN, {CKA_MODULUS_BITS: 1024}),
        (CKM_EC_KEY_PAIR_GEN, {CKA_EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}),
        (CKM_EC_EDWARDS_KEY_PAIR_GEN, {CKA_EC_PARAMS: bytes.fromhex("130c656477617264733235353139")}),
    ],
)
def test_generation_makes_the_type_that_the_table_says(
    token: Application, mechanism: int, template: dict[int, int | bytes]
) -> None:
    row = MECHANISMS[mechanism]
    if row.generates_class == CKO_PRIVATE_KEY:
        _, key = token.pair(mechanism, template, {})
    else:
        key = token.generate(mechanism, template)
    assert int.from_bytes(token.value(key, CKA_KEY_TYPE) or b"", "little") == row.generates


def test_generated_classes() -> None:
    assert MECHANISMS[CKM_AES_KEY_GEN].generates == CKK_AES
    assert MECHANISMS[CKM_AES_KEY_GEN].generates_class == CKO_SECRET_KEY
    assert MECHANISMS[CKM_PKCS5_PBKD2].generates is None
    assert MECHANISMS[CKM_PKCS5_PBKD2].generates_class == CKO_SECRET_KEY
    assert MECHANISMS[CKM_AES_CBC].generates_class is None
    for row in MECHANISMS.values():
        if "KEY_GEN" in row.name or "KEY_PAIR_GEN" in row.name:
            assert row.generates is not None, row.name


def test_the_form_is_chosen_by_length() -> None:
    gcm = MECHANISMS[CKM_AES_GCM]
    assert [gcm.layout_for(length) is not None for length in (0, 12, 32, 40, 41, 48, 56)] == [
        False, False, False, True, False, True, False,
    ]  # fmt: skip
    with_bits, without_bits = gcm.layout_for(48), gcm.layout_for(40)
    assert with_bits is not None
    assert [pointer.at for pointer in with_bits.pointers] == [0, 24]
    assert without_bits is not None
    assert [pointer.at for pointer in without_bits.pointers] == [0, 16]
    assert MECHANISMS[CKM_AES_CBC].layout_for(15) is None
    assert MECHANISMS[CKM_RSA_PKCS].layout_for(1) is None
    assert MECHANISMS[CKM_AES_KEY_WRAP_PAD].layout_for(4) == MECHANISMS[CKM_AES_KEY_WRAP_PAD].layout_for(8)
    public_value = MECHANISMS[CKM_DH_PKCS_DERIVE]
    assert public_value.layout_for(128) == Layout(())
    assert not public_value.absent


def test_handles_outputs_and_nested_structures() -> None:
    assert MECHANISMS[CKM_CONCATENATE_BASE_AND_KEY].layouts[0].handles == (0,)
    assert MECHANISMS[CKM_HKDF_DERIVE].layouts[0].handles == (40,)
    seed = MECHANISMS[CKM_DSA_PROBABILISTIC_PARAMETER_GEN].layouts[0]
    assert seed.back == ((16, 8),)
    assert seed.pointers == (Pointer(8, length_at=16, out=True),)
    version = MECHANISMS[CKM_TLS12_MASTER_KEY_DERIVE].layouts[0].pointers[-1]
    assert version == Pointer(32, length=2, out=True)
    vector = MECHANISMS[CKM_PBE_MD5_DES_CBC].layouts[0].pointers[0]
    assert vector == Pointer(0, length=8, out=True)
    oaep = MECHANISMS[CKM_RSA_AES_KEY_WRAP].layouts[0].pointers[0]
    assert oaep.length == 40
    assert oaep.nested is not None
    assert oaep.nested.pointers == (Pointer(24, length_at=32),)


def test_sizes_that_are_not_in_bytes() -> None:
    nonce = MECHANISMS[CKM_CHACHA20_POLY1305].layouts[0].pointers[0]
    assert [nonce.bytes_for(count) for count in (8, 12, 24, 64, 96, 192)] == [8, 12, 24, 8, 12, 24]
    assert [Pointer(0, length_at=8, bits=True).bytes_for(count) for count in (0, 1, 8, 9, 96)] == [0, 1, 1, 2, 12]
    password = MECHANISMS[CKM_PKCS5_PBKD2].layouts[0].pointers[-1]
    assert password.length_is_pointer
    assert password.length_at == 64


def test_declared_mechanisms() -> None:
    assert declared("none").layout_for(1) is None
    assert declared("none").absent
    flat = declared("flat")
    assert flat.absent
    assert flat.layout_for(1) == flat.layout_for(4096) == Layout(())
    with pytest.raises(ValueError, match="none or flat"):
        declared("struct")
