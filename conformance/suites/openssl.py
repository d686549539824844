"""OpenSSL 3 with libp11's engine, set up by OPENSSL_CONF as libp11's documentation says."""

from collections.abc import Sequence

from conformance.scene import Scene
from conformance.steps import Step, Suite
from conformance.suites.tls import CA_CONFIG, handshakes, listening

KEY = "pkcs11:token=$TOKEN;object={0};type=private;pin-value=$PIN"

ENGINE_CONFIG = (
    """openssl_conf = openssl_init
[openssl_init]
engines = engines
[engines]
pkcs11 = pkcs11
[pkcs11]
engine_id = pkcs11
MODULE_PATH = $MODULE
init = 1
"""
    + CA_CONFIG
)

_ENGINE = "-engine pkcs11 -keyform engine"
_NOISE = "^(?!Engine|CMS_)"
HANDSHAKES = 60


def make_keys(*kinds: tuple[str, str]) -> list[Step]:
    """Keys and self-signed certificates of these (label, pkcs11-tool's key type), with pkcs11-tool and OpenSSL."""
    return [
        step
        for number, (label, kind) in enumerate(kinds, 1)
        for step in (
            Step(
                f"make the {label} key",
                "pkcs11-tool --module $MODULE --token-label $TOKEN --login --pin $PIN --keypairgen "
                f"--key-type {kind} --id {number:02x} --label {label}",
                keep="",
                changes=True,
            ),
            Step(
                f"a self-signed certificate of the {label} key",
                f"openssl req -new -x509 -days 9 -subj /CN=localhost {_ENGINE} -key "
                f'"{KEY.format(label)}" -out {label}.pem '
                f"&& openssl verify -CAfile {label}.pem {label}.pem",
                keep=_NOISE,
            ),
        )
    ]


def _serve(label: str, protocol: str) -> Step:
    def serve(scene: Scene) -> Sequence[str]:
        key = scene.fill(KEY.format(label))
        port = listening(
            scene,
            f'openssl s_server -accept 127.0.0.1:$PORT -cert {label}.pem {_ENGINE} -key "{key}" -www -{protocol}',
            "s_server.log",
        )
        return [handshakes(port, scene.directory / f"{label}.pem", HANDSHAKES, at_half=scene.lose_member)]

    return Step(f"s_server with the {label} key, {protocol}", serve, spared=True)


def _client(label: str) -> Step:
    def connect(scene: Scene) -> Sequence[str]:
        scene.must("openssl req -x509 -newkey rsa:2048 -nodes -keyout own.key -subj /CN=localhost -days 9 -out own.pem")
        port = listening(
            scene,
            f"openssl s_server -accept 127.0.0.1:$PORT -cert own.pem -key own.key -CAfile {label}.pem -Verify 1 "
            "-verify_return_error -rev",
            "s_server.log",
        )
        key = scene.fill(KEY.format(label))
        # The server answers each line reversed, so an answer shows that it took the client's certificate.
        return scene.must(
            f"coproc openssl s_client -connect 127.0.0.1:{port} -CAfile own.pem -verify_return_error -quiet "
            f'-cert {label}.pem {_ENGINE} -key "{key}" 2>/dev/null; '
            "echo olleh >&${COPROC[1]}; read -t 20 line <&${COPROC[0]}; echo $line"
        ).splitlines()

    return Step(f"s_client with the {label} key", connect)


def _operations(label: str) -> list[Step]:
    key = KEY.format(label)
    steps = [
        Step(
            f"CSR with the {label} key",
            f'openssl req -new -subj /CN=localhost {_ENGINE} -key "{key}" -out {label}.csr && '
            f"openssl req -in {label}.csr -noout -verify",
            keep=_NOISE,
        ),
        Step(
            f"sign with the {label} key",
            f'openssl dgst -sha256 {_ENGINE} -sign "{key}" -out sig message && '
            f"openssl x509 -in {label}.pem -noout -pubkey > {label}.pub && "
            f"openssl dgst -sha256 -verify {label}.pub -signature sig message",
            keep=_NOISE,
        ),
        Step(
            f"CMS signed with the {label} key",
            f'openssl cms -sign -in message -text -signer {label}.pem -inkey "{key}" {_ENGINE} -out signed && '
            f"openssl cms -verify -in signed -text -CAfile {label}.pem",
            keep=_NOISE,
        ),
        Step(
            f"CMS decrypted with the {label} key",
            f"openssl cms -encrypt -in message -aes256 -out secret {label}.pem && "
            f'openssl cms -decrypt -in secret -recip {label}.pem -inkey "{key}" {_ENGINE}',
            keep=_NOISE,
        ),
    ]
    if label == "rsa":
        steps += [
            Step(
                "sign with PSS",
                f'openssl dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:-1 {_ENGINE} -sign "{key}" '
                "-out sig message && openssl dgst -sha256 -sigopt rsa_padding_mode:pss -verify "
                "rsa.pub -signature sig message",
                keep=_NOISE,
            ),
        ]
    return steps


SUITE = Suite(
    "openssl",
    [
        *make_keys(("rsa", "rsa:2048"), ("ec", "EC:prime256v1"), ("p384", "EC:secp384r1")),
        *_operations("rsa"),
        *_operations("ec"),
        *_operations("p384"),
        *(_serve(label, protocol) for label in ("rsa", "ec") for protocol in ("tls1_2", "tls1_3")),
        _client("rsa"),
        _client("ec"),
    ],
    programs=("openssl", "pkcs11-tool"),
    engine=True,
    files={"openssl.cnf": ENGINE_CONFIG, "message": "one virtual token over three real ones\n"},
    environment={"OPENSSL_CONF": "$SCRATCH/openssl.cnf"},
)
