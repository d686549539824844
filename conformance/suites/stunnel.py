"""stunnel in front of a service without TLS, its key in the token through OpenSSL's engine, set up in its own file."""

from collections.abc import Sequence

from conformance.scene import Scene
from conformance.steps import Step, Suite
from conformance.suites.openssl import ENGINE_CONFIG, make_keys
from conformance.suites.tls import handshakes, listening

_CONFIG = """foreground = yes
pid =
engine = pkcs11
engineCtrl = MODULE_PATH:$MODULE
engineCtrl = PIN:$PIN
[tls]
accept = 127.0.0.1:@PORT@
exec = /usr/bin/head
execArgs = head -n 1
engineId = pkcs11
cert = @KEY@.pem
key = pkcs11:token=$TOKEN;object=@KEY@;type=private
"""


def _serve(label: str) -> Step:
    def serve(scene: Scene) -> Sequence[str]:
        port = listening(
            scene,
            f'sh -c \'sed "s/@PORT@/$PORT/; s/@KEY@/{label}/" stunnel.template > stunnel.conf; '
            "exec env -u OPENSSL_CONF stunnel stunnel.conf'",
            "stunnel.log",
        )
        return [handshakes(port, scene.directory / f"{label}.pem", 60, 4, scene.lose_member)]

    return Step(f"stunnel with the {label} key", serve, spared=True)


SUITE = Suite(
    "stunnel",
    [*make_keys(("rsa", "rsa:2048"), ("ec", "EC:prime256v1")), _serve("rsa"), _serve("ec")],
    programs=("stunnel", "openssl", "pkcs11-tool"),
    engine=True,
    files={"openssl.cnf": ENGINE_CONFIG, "stunnel.template": _CONFIG},
    environment={"OPENSSL_CONF": "$SCRATCH/openssl.cnf"},
)
