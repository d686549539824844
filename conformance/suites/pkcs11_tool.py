"""OpenSC's pkcs11-tool: one process a step. What it makes with a token is checked with OpenSSL, which knows of none, or
by itself; keys that are imported have fixed values, so that what comes out is the same on every target."""

from conformance.scene import Scene
from conformance.steps import Step, Suite

_RSA_SIGNATURES = ["RSA-PKCS", "MD5-RSA-PKCS"] + [f"SHA{bits}-RSA-PKCS" for bits in (1, 224, 256, 384, 512)]
_PSS_SIGNATURES = [f"SHA{bits}-RSA-PKCS-PSS" for bits in (1, 224, 256, 384, 512)]
_HMACS = ["MD5-HMAC", "SHA-1-HMAC", "SHA224-HMAC", "SHA256-HMAC", "SHA384-HMAC", "SHA512-HMAC"]
_CURVES = {"prime256v1": "10", "secp384r1": "11", "secp521r1": "12", "secp256k1": "13"}
_SECRETS = {"AES:16": "20", "AES:24": "21", "AES:32": "22"}
_DES3 = "pkcs11-tool asks for a CKA_VALUE_LEN, which DES keys do not have"
_CMAC = "pkcs11-tool looks for a private key"
_P256 = "3059301306072a8648ce3d020106082a8648ce3d030107034200"
"""What is in front of the point in a public key of P-256 (RFC 5480)."""
_LENGTH = "(?<=; )(AES|Generic secret)( length [0-9]+)?$"
"""Known to the slot, not to SoftHSM; and without login the other way round: what tells a copy's length is private."""
_LENGTHS = (1, 5, 15, 16, 17, 20, 32, 33, 64, 100)
_RANDOM_KEYS = "^Data object [0-9]+|(?<=EC_POINT: ) .*|(?<=VALUE: ) .*"


def _look() -> list[Step]:
    return [
        Step("show info", "$P --show-info"),
        Step("list slots", "pkcs11-tool --module $MODULE --list-slots"),
        Step("list token slots", "pkcs11-tool --module $MODULE --list-token-slots"),
        Step("list mechanisms", "$P --list-mechanisms"),
        Step("list objects of an empty token", "$U --list-objects", blocks=True),
        Step("random", "$P --generate-random 64 --output-file random && stat -c %s random"),
        Step("wrong PIN", "$P --login --pin 9999 --list-objects", fails="the PIN is wrong"),
        Step("unknown token", "pkcs11-tool --module $MODULE --token-label nobody -O", fails="there is no such token"),
        *(
            Step(f"hash {name}", f"$P --hash --mechanism {name} --input-file message --output-file hash && xxd hash")
            for name in ("MD5", "SHA-1", "SHA224", "SHA256", "SHA384", "SHA512")
        ),
    ]


def _make() -> list[Step]:
    return [
        Step("make RSA 2048", "$U --keypairgen --key-type rsa:2048 --id 01 --label rsa", changes=True),
        Step("make RSA 1024", "$U --keypairgen --key-type rsa:1024 --id 02 --label small", changes=True),
        *(
            Step(
                f"make EC {curve}",
                f"$U --keypairgen --key-type EC:{curve} --id {number} --label {curve} --usage-sign --usage-derive",
                hide=_RANDOM_KEYS,
                changes=True,
            )
            for curve, number in _CURVES.items()
        ),
        Step(
            "make and use Ed25519",
            "$U --keypairgen --key-type EC:edwards25519 --id 14 --label ed >/dev/null && "
            "$U --sign -m EDDSA --id 14 -i short -o sig && stat -c %s sig && "
            "$U --delete-object --type privkey --id 14 && $U --delete-object --type pubkey --id 14",
            changes=True,
        ),
        *(
            Step(
                f"make {kind}",
                f"$U --keygen --key-type {kind} --id {number} --label {kind}",
                changes=True,
            )
            for kind, number in _SECRETS.items()
        ),
        *(
            Step(
                f"make generic secret of {length}",
                f"$U --keygen --key-type GENERIC:{length} --id 3{length:03x} --label generic-{length} --usage-sign",
                changes=True,
            )
            for length in _LENGTHS
        ),
        Step(
            "make an extractable AES key",
            "$U --keygen --key-type AES:32 --id 25 --label open --extractable",
            changes=True,
        ),
        Step("list objects", "$U --list-objects", hide=_RANDOM_KEYS, blocks=True),
        Step("list public objects", "$P --list-objects", hide=f"{_RANDOM_KEYS}|{_LENGTH}", blocks=True),
    ]


def _sign() -> list[Step]:
    return [
        Step(
            "read the RSA public key",
            "$P --read-object --type pubkey --id 01 -o rsa.der && openssl rsa -pubin -inform DER -in rsa.der -noout",
        ),
        # Not --read-object, which fails at random in Debian 12, whatever the module (OpenSC's issue 3200). The list is
        # of all keys, whichever --id is asked for, and has the point as an OCTET STRING of 0x41 bytes.
        Step(
            "list the EC public key",
            "$P --list-objects --type pubkey | "
            "awk '/^Public/ {point = \"\"} /EC_POINT: / {point = $2} /ID: +10$/ {print substr(point, 5)}' > point && "
            f"(echo {_P256}; cat point) | xxd -r -p > ec.der && openssl ec -pubin -inform DER -in ec.der -noout",
        ),
        *(
            Step(
                f"sign and verify {mechanism}",
                f"$U --sign --mechanism {mechanism} --id 01 -i short -o sig && "
                f"$P --verify --mechanism {mechanism} --id 01 -i short --signature-file sig",
            )
            for mechanism in _RSA_SIGNATURES + _PSS_SIGNATURES
        ),
        Step(
            "sign and verify a long message",
            "head -c 100000 /dev/zero > long && $U --sign -m SHA256-RSA-PKCS --id 01 -i long -o sig && "
            "openssl dgst -sha256 -keyform DER -verify rsa.der -signature sig long",
        ),
        Step(
            "sign and verify RSA-X-509",
            "head -c 256 /dev/zero > block && printf '\\1' | dd of=block conv=notrunc bs=1 seek=200 status=none && "
            "$U --sign -m RSA-X-509 --id 01 -i block -o sig && openssl pkeyutl -verifyrecover -pubin -keyform DER "
            "-inkey rsa.der -in sig -pkeyopt rsa_padding_mode:none | cmp - block && "
            "$P --verify -m RSA-X-509 --id 01 -i block --signature-file sig",
        ),
        Step(
            "sign and verify RSA-PKCS-PSS",
            "openssl dgst -sha256 -binary -out digest message && "
            "$U --sign -m RSA-PKCS-PSS --hash-algorithm SHA256 --id 01 -i digest -o sig && "
            "openssl dgst -sha256 -keyform DER -verify rsa.der -sigopt rsa_padding_mode:pss -signature sig message && "
            "$P --verify -m RSA-PKCS-PSS --hash-algorithm SHA256 --id 01 -i digest --signature-file sig",
        ),
        *(
            Step(
                f"sign and verify ECDSA {curve}",
                f"$U --sign -m ECDSA --id {number} -i short -o sig && "
                f"$P --verify -m ECDSA --id {number} -i short --signature-file sig",
            )
            for curve, number in _CURVES.items()
        ),
        Step(
            "sign ECDSA for OpenSSL",
            "openssl dgst -sha256 -binary -out digest message && "
            "$U --sign -m ECDSA --signature-format openssl --id 10 -i digest -o sig && "
            "openssl dgst -sha256 -keyform DER -verify ec.der -signature sig message",
        ),
        Step(
            "a wrong signature",
            "head -c 256 /dev/zero > wrong && $P --verify -m SHA256-RSA-PKCS --id 01 -i short --signature-file wrong",
        ),
        *(
            Step(
                f"sign and verify {mechanism}",
                f"$U --sign -m {mechanism} --id 3064 -i message -o sig && stat -c %s sig && "
                f"$U --verify -m {mechanism} --id 3064 -i message --signature-file sig",
            )
            for mechanism in _HMACS
        ),
        Step("sign AES-CMAC", "$U --sign -m AES-CMAC --id 20 -i message -o sig && stat -c %s sig", fails=_CMAC),
        Step("sign DES3-CMAC", "$U --sign -m DES3-CMAC --id 43 -i message -o sig && stat -c %s sig", fails=_CMAC),
    ]


def _encrypt() -> list[Step]:
    import_key = "$U --write-object {0}.key --type secrkey --key-type {1} --id {2} --label {0} --usage-decrypt"
    modes = {"AES-ECB": "block16", "AES-CBC": "block16", "AES-CBC-PAD": "message"}
    return [
        Step("import an AES key", import_key.format("aes", "AES:16", "40"), changes=True),
        Step(
            "import a generic secret",
            import_key.format("generic", "GENERIC:21", "41"),
            changes=True,
            fails="pkcs11-tool does not know them",
        ),
        Step("import a DES3 key", import_key.format("des3", "DES3:24", "43"), changes=True),
        Step(
            "import a key that may leave",
            import_key.format("aes", "AES:16", "42") + " --extractable",
            changes=True,
        ),
        *(
            Step(
                f"encrypt and decrypt {mode}",
                f"$U --encrypt -m {mode} --id 40 --iv 000102030405060708090a0b0c0d0e0f -i {data} -o secret && "
                f"xxd secret && $U --decrypt -m {mode} --id 40 --iv 000102030405060708090a0b0c0d0e0f -i secret "
                f"-o clear && cmp clear {data}",
            )
            for mode, data in modes.items()
        ),
        *(
            Step(
                f"decrypt {mechanism}",
                "openssl rsa -pubin -inform DER -in rsa.der -out rsa.pem 2>/dev/null && "
                f"openssl pkeyutl -encrypt -pubin -inkey rsa.pem -pkeyopt rsa_padding_mode:{padding} "
                f"-in short -out secret && "
                f"$U --decrypt -m {mechanism} --id 01 -i secret -o clear {more} && cmp clear short",
            )
            for mechanism, padding, more in (
                ("RSA-PKCS", "pkcs1", ""),
                ("RSA-PKCS-OAEP", "oaep", "--hash-algorithm SHA-1 --mgf MGF1-SHA1"),
            )
        ),
        *(
            Step(
                f"encrypt {mode}",
                f"$U --encrypt -m {mode} --id 43 --iv 0001020304050607 -i message -o secret",
                fails="pkcs11-tool encrypts with AES in ECB and CBC only",
            )
            for mode in ("DES3-CBC-PAD", "AES-CTR", "AES-GCM")
        ),
        Step(
            "a nonsense ciphertext",
            "head -c 256 /dev/zero > zero && $U --decrypt -m RSA-PKCS --id 01 -i zero -o clear",
            fails="it is no ciphertext",
        ),
    ]


def _derive_and_wrap() -> list[Step]:
    return [
        Step(
            "derive ECDH",
            "openssl ecparam -name prime256v1 -genkey -noout -out peer.pem && "
            "openssl ec -in peer.pem -pubout -outform DER -out peer.der 2>/dev/null && "
            "$U --derive -m ECDH1-DERIVE --id 10 -i peer.der -o shared && "
            "openssl ec -pubin -inform DER -in ec.der -out ec.pem 2>/dev/null && "
            "openssl pkeyutl -derive -inkey peer.pem -peerkey ec.pem | cmp - shared",
            changes=True,
        ),
        Step("wrap under RSA", "$U --wrap -m RSA-PKCS --id 01 --application-id 42 -o wrapped && stat -c %s wrapped"),
        Step(
            "unwrap under RSA",
            "$U --unwrap -m RSA-PKCS --id 01 --application-id 50 --key-type AES: -i wrapped --application-label back",
            changes=True,
        ),
        Step(
            "the unwrapped key is the same",
            "$U --encrypt -m AES-ECB --id 50 -i block16 -o secret && xxd secret",
        ),
        Step(
            "wrap a key that must not leave",
            "$U --wrap -m RSA-PKCS --id 01 --application-id 40 -o no",
            fails="it is sensitive",
        ),
        Step("wrap under AES", "$U --wrap -m AES-KEY-WRAP --id 40 --application-id 42 -o wrapped && xxd wrapped"),
        Step(
            "unwrap under AES",
            "$U --unwrap -m AES-KEY-WRAP --id 40 --application-id 51 --key-type AES: -i wrapped "
            "--application-label again",
            changes=True,
        ),
        Step(
            "list what was unwrapped",
            "$U --list-objects --type secrkey --id 50; $U --list-objects --type secrkey --id 51",
            hide=_LENGTH,
            keep="label|ID|Usage",
            blocks=True,
        ),
        Step(
            "delete what was unwrapped",
            "$U --delete-object --type secrkey --id 50 && $U --delete-object --type secrkey --id 51",
            changes=True,
        ),
    ]


def _objects() -> list[Step]:
    return [
        Step(
            "write a certificate",
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout own.pem -subj /CN=own -days 9 -out "
            "cert.pem 2>/dev/null && "
            "openssl x509 -in cert.pem -outform DER -out cert.der && "
            "$U --write-object cert.der --type cert --id 60 --label cert",
            changes=True,
            hide="serial: .*",
        ),
        Step("read a certificate", "$P --read-object --type cert --id 60 -o out && cmp out cert.der"),
        Step("import a private key", "$U --write-object own.pem --type privkey --id 60 --label own", changes=True),
        Step(
            "import a public key",
            "openssl rsa -in own.pem -pubout -outform DER -out own.der 2>/dev/null && $U "
            "--write-object own.der --type pubkey --id 60 --label own",
            changes=True,
        ),
        Step(
            "the imported key signs",
            "$U --sign -m SHA256-RSA-PKCS --id 60 -i message -o sig && "
            "openssl dgst -sha256 -keyform DER -verify own.der -signature sig message",
        ),
        Step(
            "import an EC key",
            "openssl ecparam -name secp384r1 -genkey -noout -out p384.pem && $U --write-object "
            "p384.pem --type privkey --id 61 --label p384",
            changes=True,
            hide=_RANDOM_KEYS,
        ),
        Step(
            "write data objects",
            "$U --write-object message --type data --label open --application-label shop && "
            "$U --write-object message --type data --label closed --application-label shop --private",
            hide=_RANDOM_KEYS,
            changes=True,
        ),
        Step(
            "read data",
            "$U --read-object --type data --label closed --application-label shop -o out && cmp out message",
        ),
        Step("list data without login", "$P --list-objects --type data", hide=_RANDOM_KEYS, blocks=True),
        Step("list data with login", "$U --list-objects --type data", hide=_RANDOM_KEYS, blocks=True),
        Step("set an id", "$U --set-id 62 --type privkey --id 61", changes=True),
        Step("find by the new id", "$U --list-objects --type privkey --id 62", hide=_RANDOM_KEYS, blocks=True),
        Step("find by the old id", "$U --list-objects --type privkey --id 61", blocks=True),
        Step("set a certificate's id", "$U --set-id 63 --type cert --id 60", changes=True, hide="serial: .*"),
        Step("find the certificate by it", "$P --read-object --type cert --id 63 -o out && cmp out cert.der"),
        Step("delete data", "$U --delete-object --type data --label open --application-label shop", changes=True),
        Step(
            "delete private data",
            "$U --delete-object --type data --label closed --application-label shop",
            changes=True,
        ),
        Step("delete a certificate", "$U --delete-object --type cert --id 63", changes=True),
        Step("delete a private key", "$U --delete-object --type privkey --id 60", changes=True),
        Step("delete a secret key", "$U --delete-object --type secrkey --id 22", changes=True),
        Step("delete what is not there", "$U --delete-object --type cert --id 99", fails="it is not there"),
        Step("list what is left", "$U --list-objects", hide=_RANDOM_KEYS, blocks=True),
    ]


def _attributes() -> list[Step]:
    pair = "$U --keypairgen --key-type rsa:2048"
    return [
        Step(
            "make a sensitive, private, extractable key",
            "$U --keygen --key-type AES:16 --id 26 --label flags --sensitive --private --extractable",
            changes=True,
        ),
        Step(
            "make a key that is not destroyed",
            "$U --keygen --key-type AES:16 --id 27 --label kept --undestroyable",
            changes=True,
        ),
        Step("make a key with a PIN for each use", f"{pair} --id 03 --label always --always-auth", changes=True),
        Step(
            "use it",
            "$U --sign -m SHA256-RSA-PKCS --id 03 -i message -o sig && "
            "$P --verify -m SHA256-RSA-PKCS --id 03 -i message --signature-file sig",
        ),
        Step(
            "make a key with one mechanism",
            f"{pair} --id 04 --label allowed --allowed-mechanisms SHA256-RSA-PKCS",
            changes=True,
        ),
        Step("use it with that", "$U --sign -m SHA256-RSA-PKCS --id 04 -i message -o sig"),
        Step(
            "use it with another",
            "$U --sign -m SHA512-RSA-PKCS --id 04 -i message -o sig",
            fails="the key allows one mechanism",
        ),
        Step("list the attributes", "$U --list-objects", keep="label|ID|Usage|Access|Allowed", blocks=True),
    ]


def _resynchronise(scene: Scene) -> list[str]:
    scene.target.resynchronise()
    return []


def _tests() -> list[Step]:
    return [
        Step("all members hold the same", _resynchronise, spared=True),
        Step("change the PIN", "$P --change-pin --pin $PIN --new-pin 56789", changes=True, spared=True),
        Step("the old PIN", "$P --login --pin $PIN --list-objects --type data", fails="it was changed", spared=True),
        Step("the new PIN", "$P --login --pin 56789 --list-objects --type data", hide=_RANDOM_KEYS, spared=True),
        Step("change the PIN back", "$P --change-pin --pin 56789 --new-pin $PIN", changes=True, spared=True),
        Step("SO login", "$P --session-rw --login --login-type so --so-pin $SO_PIN --list-objects --type data"),
        Step(
            "set the user's PIN as SO",
            "$P --init-pin --login --login-type so --so-pin $SO_PIN --new-pin $PIN",
            changes=True,
            spared=True,
        ),
        # Which mechanisms it tries with a key depends on the order in which keys are found.
        Step(
            "test",
            "$U --test",
            limit=120,
            changes=True,
            keep="^ *(all|(MD5|SHA-1|SHA256): |C_|error)",
            fails="OAEP with a label aborts",
        ),
        Step(
            "test EC",
            "$U --session-rw --test-ec --key-type EC:prime256v1 --id 70 --label test",
            limit=120,
            changes=True,
            fails="there is no ECDSA-SHA1",
            hide=_RANDOM_KEYS,
        ),
        Step(
            "test threads",
            "pkcs11-tool --module $MODULE --test-threads IN --test-threads INGI --test-threads ILIN",
            unsteady=True,
            fails="two threads inside C_Initialize crash or stop SoftHSM",
            limit=50,
            keep="",
        ),
        Step("test fork", "$P --test-fork"),
        Step("list hotplug slots", r"printf '\nx\nx\n' | pkcs11-tool --module $MODULE --test-hotplug"),
        Step(
            "wait for hotplug",
            r"printf 'x\n\n' | pkcs11-tool --module $MODULE --test-hotplug",
            keep="ERR",
            limit=5,
            spared=True,
        ),
        Step("what is left in the end", "$U --list-objects --type privkey", blocks=True),
        # Of the key that is refused SoftHSM leaves a part behind, so that this comes last.
        Step("make DES3", "$U --keygen --key-type DES3:24 --id 23 --label DES3", changes=True, fails=_DES3),
    ]


_COMMAND = "pkcs11-tool --module $MODULE --token-label $TOKEN"

SUITE = Suite(
    "pkcs11-tool",
    _look() + _make() + _sign() + _encrypt() + _derive_and_wrap() + _objects() + _attributes() + _tests(),
    programs=("pkcs11-tool", "openssl", "xxd"),
    files={
        "message": "one virtual token over three real ones\n",
        "short": "twenty bytes of text",
        "block16": "sixteen bytes...",
        "aes.key": "0123456789abcdef",
        "des3.key": "0123456789abcdef01234567",
        "generic.key": "a secret of 21 bytes.",
    },
    environment={"P": _COMMAND, "U": f"{_COMMAND} --login --pin $PIN"},
)
