"""GnuTLS: p11tool, certtool, and gnutls-serv, with the module given by --provider."""

from collections.abc import Sequence

from conformance.scene import Scene
from conformance.steps import Step, Suite
from conformance.suites.tls import handshakes, listening

_TOOL = "p11tool --provider $MODULE --login"
_TOKEN = "pkcs11:token=$TOKEN"
_KEPT = "^(?!warning|Note|Using|Setting|$)"
_VALUES = (
    r"^Object [0-9]+|-----BEGIN[\s\S]*-----END.*|;(serial|manufacturer|model)=[^;]*|(Expires|ID|Public Key ID|URL): .*"
)


def _serve(label: str) -> Step:
    def serve(scene: Scene) -> Sequence[str]:
        key = scene.fill(f"pkcs11:token=$TOKEN;object={label};type=private")
        port = listening(
            scene,
            f'gnutls-serv --provider $MODULE --x509keyfile "{key}" --x509certfile {label}.pem --port $PORT --http '
            "--priority NORMAL --disable-client-cert",
            "gnutls-serv.log",
        )
        return [handshakes(port, scene.directory / f"{label}.pem", 60, at_half=scene.lose_member)]

    return Step(f"gnutls-serv with the {label} key", serve, spared=True)


def _make(label: str, kind: str, number: str) -> list[Step]:
    key = f"pkcs11:token=$TOKEN;object={label};type=private"
    return [
        Step(
            f"make the {label} key",
            f'{_TOOL} --generate-privkey {kind} --label {label} --id {number} --outfile {label}.pub "{_TOKEN}"',
            keep="",
            changes=True,
        ),
        Step(
            f"a self-signed certificate of the {label} key",
            f'certtool --provider $MODULE --generate-self-signed --load-privkey "{key}" --load-pubkey {label}.pub '
            f"--template template --outfile {label}.pem && openssl verify -CAfile {label}.pem {label}.pem",
            keep="OK$",
        ),
        Step(
            f"write the certificate of the {label} key",
            f'{_TOOL} --write --load-certificate {label}.pem --label {label} --id {number} "{_TOKEN}"',
            keep="",
            changes=True,
        ),
        Step(f"test-sign with the {label} key", f'{_TOOL} --test-sign "{key}"', keep="ok|fail|error"),
    ]


SUITE = Suite(
    "gnutls",
    [
        Step("list tokens", "p11tool --provider $MODULE --list-token-urls", keep="token=$", hide=_VALUES),
        Step("list mechanisms", f'p11tool --provider $MODULE --list-mechanisms "{_TOKEN}" | sort', keep=_KEPT),
        *_make("rsa", "rsa --bits 2048", "01"),
        *_make("ec", "ecdsa --curve secp256r1", "02"),
        Step(
            "write a secret key",
            f'{_TOOL} --write --secret-key 00112233445566778899aabbccddeeff --label secret "{_TOKEN}"',
            keep=_KEPT,
            changes=True,
        ),
        Step(
            "write a private key",
            "openssl genrsa -out own.pem 2048 2>/dev/null && "
            f'{_TOOL} --write --load-privkey own.pem --label own --id 03 "{_TOKEN}"',
            keep=_KEPT,
            changes=True,
        ),
        Step("test-sign with it", f'{_TOOL} --test-sign "{_TOKEN};object=own;type=private"', keep="ok|fail|error"),
        Step("list private keys", f'{_TOOL} --list-privkeys "{_TOKEN}"', keep="Label|Type", hide=_VALUES, blocks=True),
        Step("list certificates", f'{_TOOL} --list-all-certs "{_TOKEN}"', keep="Label|Type", hide=_VALUES, blocks=True),
        Step(
            "export a certificate", f'{_TOOL} --export "{_TOKEN};object=rsa;type=cert" | openssl x509 | cmp - rsa.pem'
        ),
        Step("random", f'{_TOOL} --generate-random 32 "{_TOKEN}" | wc -c', keep="^[0-9]+$"),
        _serve("rsa"),
        _serve("ec"),
        Step(
            "delete",
            f'{_TOOL} --batch --delete "{_TOKEN};object=rsa" && {_TOOL} --batch --delete "{_TOKEN};object=ec" && '
            f'{_TOOL} --batch --delete "{_TOKEN};object=secret" && {_TOOL} --batch --delete "{_TOKEN};object=own"',
            keep="deleted",
            changes=True,
        ),
        Step(
            "list what is left",
            f'{_TOOL} --list-all "{_TOKEN}"',
            keep="Label|Type|No matching",
            fails="nothing is left",
        ),
    ],
    programs=("p11tool", "certtool", "gnutls-serv", "openssl"),
    files={"template": "cn = localhost\nexpiration_days = 9\nca\nsigning_key\ndns_name = localhost\n"},
    environment={"GNUTLS_PIN": "$PIN"},
)
