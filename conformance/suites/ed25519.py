"""Ed25519: keys that SoftHSM makes and uses and cannot wrap, in a group that is set to keep such keys on one member.

Made with pkcs11-tool (p11tool makes none on a token) and used with it and with GnuTLS; OpenSSL, whose engine has no
EdDSA, checks what comes out.
"""

from collections.abc import Sequence

from conformance.scene import Scene
from conformance.steps import Step, Suite
from conformance.suites.tls import handshakes, listening

_KEY = "pkcs11:token=$TOKEN;object=ed;type=private"
_TOOL = f'certtool --provider $MODULE --load-privkey "{_KEY}" --template template'
_POINT = "(?<=EC_POINT: ) .*"


def _serve(scene: Scene) -> Sequence[str]:
    port = listening(
        scene,
        f'gnutls-serv --provider $MODULE --x509keyfile "{scene.fill(_KEY)}" --x509certfile ed.pem --port $PORT --http '
        "--priority NORMAL --disable-client-cert",
        "gnutls-serv.log",
    )
    return [handshakes(port, scene.directory / "ed.pem", 60, at_half=scene.lose_member)]


SUITE = Suite(
    "ed25519",
    [
        Step(
            "make the key",
            "$U --keypairgen --key-type EC:edwards25519 --id 14 --label ed",
            hide=_POINT,
            changes=True,
        ),
        Step("list it", "$U --list-objects", hide=_POINT, blocks=True),
        Step("read the public key", "$U --read-object --type pubkey --id 14 -o ed.pub && grep -v '^MC' ed.pub"),
        Step(
            "sign",
            "$U --sign -m EDDSA --id 14 -i message -o sig && "
            "openssl pkeyutl -verify -pubin -inkey ed.pub -rawin -in message -sigfile sig",
        ),
        Step("verify", "$U --verify -m EDDSA --id 14 -i message --signature-file sig"),
        Step("a wrong signature", "$U --verify -m EDDSA --id 14 -i template --signature-file sig"),
        Step(
            "a self-signed certificate",
            f"{_TOOL} --generate-self-signed --load-pubkey ed.pub --outfile ed.pem && "
            "openssl verify -CAfile ed.pem ed.pem",
            keep="OK$",
        ),
        Step(
            "CSR",
            f"{_TOOL} --generate-request --load-pubkey ed.pub --outfile ed.csr && "
            "openssl req -in ed.csr -noout -verify",
            keep="verify",
        ),
        Step(
            "CMS signed",
            f"{_TOOL} --p7-sign --load-certificate ed.pem --infile message --outfile signed && "
            "certtool --p7-verify --load-ca-certificate ed.pem --infile signed",
            keep="Signature status",
        ),
        Step("gnutls-serv", _serve, spared=True),
        Step(
            "delete",
            "$U --delete-object --type privkey --id 14 && $U --delete-object --type pubkey --id 14",
            changes=True,
        ),
        Step("list what is left", "$U --list-objects"),
    ],
    programs=("pkcs11-tool", "certtool", "gnutls-serv", "openssl"),
    files={
        "template": "cn = localhost\nexpiration_days = 9\nca\nsigning_key\ndns_name = localhost\n",
        "message": "one virtual token over three real ones\n",
    },
    environment={"GNUTLS_PIN": "$PIN", "U": "pkcs11-tool --module $MODULE --token-label $TOKEN --login --pin $PIN"},
    pinned=True,
)
