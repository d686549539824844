"""Java's SunPKCS11: its provider in a program of ours, keytool and jarsigner, a TLS server with 32 threads."""

import re
from collections.abc import Sequence

from conformance.scene import Scene, until
from conformance.steps import Failed, Step, Suite

_OWN = (
    "openssl req -x509 -newkey rsa:2048 -nodes -keyout own.key -subj /CN=own -days 9 -out own.pem 2>/dev/null && "
    "openssl pkcs12 -export -inkey own.key -in own.pem -name own -passout pass:secret -out own.p12 && "
)
_KEYTOOL = (
    "keytool -J-Xshare:auto -keystore NONE -storetype PKCS11 -storepass $PIN "
    "-providerClass sun.security.pkcs11.SunPKCS11 -providerArg pkcs11.cfg"
)
_IMPORT = _KEYTOOL.replace("-keystore", "-destkeystore").replace("-store", "-deststore")
_NOISE = "^(?!Picked up|Warning:|NOTE:|$)"
_TRUST = {"store a certificate": "SunPKCS11 leaves trusted certificates to who initialises the token"}
_DATES = (
    r"(?<=, ).*\d\d:\d\d:\d\d.*(?=, )|[A-Z][a-z]{2} \d+, 20\d\d|20\d\d|[0-9A-F]{2}(:[0-9A-F]{2}){9,}|Serial number: .*"
)
HANDSHAKES = 1200


def _serve(alias: str) -> Step:
    def serve(scene: Scene) -> Sequence[str]:
        half = scene.directory / "half"
        half.unlink(missing_ok=True)
        line = f"exec java $SUITES/java/Server.java pkcs11.cfg $PIN {alias} {HANDSHAKES}"
        server = scene.start(["/bin/bash", "-c", line], "server.log")
        log = scene.directory / "server.log"
        until(lambda: half.exists() or server.poll() is not None, "half of the handshakes did not come", 200)
        scene.lose_each(over=lambda: server.poll() is not None)
        until(lambda: server.poll() is not None, "the server did not end", 200)
        said = log.read_text()
        if server.returncode != 0:
            raise Failed(said)
        return sorted({line for line in said.splitlines() if re.search("handshakes|client:|chain:", line)})

    return Step(f"TLS server with the {alias} key", serve, spared=True, limit=240)


def _keytool() -> list[Step]:
    return [
        Step("keytool list of an empty token", f"{_KEYTOOL} -list", keep="entries"),
        *(
            Step(
                f"keytool makes the {alias} key",
                f"{_KEYTOOL} -genkeypair -alias {alias} {kind} -dname CN=localhost -ext san=dns:localhost,ip:127.0.0.1 "
                "-validity 9",
                keep=_NOISE,
                changes=True,
            )
            for alias, kind in (
                ("rsa", "-keyalg RSA -keysize 2048 -sigalg SHA256withRSA"),
                ("ec", "-keyalg EC -groupname secp256r1 -sigalg SHA256withECDSA"),
            )
        ),
        Step(
            "keytool makes an AES key",
            f"{_KEYTOOL} -genseckey -alias aes -keyalg AES -keysize 256",
            keep=_NOISE,
            changes=True,
        ),
        Step("keytool list", f"{_KEYTOOL} -list | sort", keep="Entry|entries", hide=_DATES),
        Step("keytool list of one", f"{_KEYTOOL} -list -v -alias rsa", keep="Alias|Entry|Owner|algorithm|DNS"),
        Step(
            "keytool CSR",
            f"{_KEYTOOL} -certreq -alias rsa -file rsa.csr && openssl req -in rsa.csr -noout -verify",
            keep=_NOISE,
        ),
        Step(
            "keytool imports a software key",
            f"{_OWN}{_IMPORT} -importkeystore -srckeystore own.p12 -srcstoretype PKCS12 -srcstorepass secret "
            "-srcalias own",
            keep=_NOISE,
            changes=True,
        ),
        Step(
            "jarsigner",
            "echo one > one && jar cf own.jar one && jarsigner -keystore NONE -storetype PKCS11 -storepass $PIN "
            "-providerClass sun.security.pkcs11.SunPKCS11 -providerArg pkcs11.cfg own.jar ec && "
            "jarsigner -verify own.jar",
            keep="jar (signed|verified)",
        ),
        _serve("rsa"),
        _serve("ec"),
        Step(
            "keytool issues and imports a certificate",
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -subj /CN=ca -days 9 -out ca.pem 2>/dev/null && "
            "openssl x509 -req -in rsa.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 9 -out "
            "rsa.pem 2>/dev/null && "
            f"cat rsa.pem ca.pem > chain.pem && {_KEYTOOL} -importcert -noprompt -alias rsa -file chain.pem",
            keep=_NOISE,
            changes=True,
        ),
        Step("keytool list in the end", f"{_KEYTOOL} -list | sort", keep="Entry|entries", hide=_DATES),
        *(
            Step(f"keytool deletes the {alias} key", f"{_KEYTOOL} -delete -alias {alias}", keep=_NOISE, changes=True)
            for alias in ("rsa", "ec", "aes", "own")
        ),
        Step("keytool list of what is left", f"{_KEYTOOL} -list", keep="Entry|entries"),
        Step(
            "pkcs11-tool list of what is left",
            "pkcs11-tool --module $MODULE --token-label $TOKEN --login --pin $PIN --list-objects",
            keep="Object|label|ID",
            blocks=True,
        ),
    ]


SUITE = Suite(
    "java",
    [
        Step(
            "the provider",
            f"{_OWN}java $SUITES/java/Provider.java pkcs11.cfg $PIN",
            changes=True,
            limit=120,
            refused={
                **dict.fromkeys(
                    ("ECDH on secp256r1", "ECDH on secp384r1", "wrap AES under RSA"),
                    "by default SunPKCS11 asks for keys that may neither derive nor leave",
                ),
                **_TRUST,
            },
        ),
        Step(
            "the provider with compatible attributes",
            f"{_OWN}java $SUITES/java/Provider.java compatible.cfg $PIN",
            changes=True,
            limit=120,
            refused=_TRUST,
        ),
        *_keytool(),
    ],
    programs=("java", "javac", "keytool", "jarsigner", "openssl", "pkcs11-tool"),
    files={
        "pkcs11.cfg": "name = conformance\nlibrary = $MODULE\nslot = $SLOT\n",
        "compatible.cfg": "name = conformance\nlibrary = $MODULE\nslot = $SLOT\nattributes = compatibility\n",
    },
)
