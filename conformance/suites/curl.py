"""curl with a client certificate whose key is in the token."""

from collections.abc import Sequence

from conformance.scene import Scene
from conformance.steps import Step, Suite
from conformance.suites.openssl import ENGINE_CONFIG, KEY, make_keys
from conformance.suites.tls import listening


def _get(label: str) -> Step:
    def get(scene: Scene) -> Sequence[str]:
        scene.must("openssl req -x509 -newkey rsa:2048 -nodes -keyout own.key -subj /CN=localhost -days 9 -out own.pem")
        (scene.directory / "page").write_text("here\n")
        port = listening(
            scene,
            f"openssl s_server -accept 127.0.0.1:$PORT -cert own.pem -key own.key -CAfile {label}.pem -Verify 1 "
            "-verify_return_error -WWW",
            "s_server.log",
        )
        key = scene.fill(KEY.format(label))
        said = scene.must(
            f"curl -sS --cacert own.pem --cert {label}.pem --engine pkcs11 --key-type ENG --key '{key}' "
            f"https://localhost:{port}/page"
        )
        return said.splitlines()

    return Step(f"get a page with the {label} key", get)


SUITE = Suite(
    "curl",
    [*make_keys(("rsa", "rsa:2048"), ("ec", "EC:prime256v1")), _get("rsa"), _get("ec")],
    programs=("curl", "openssl", "pkcs11-tool"),
    engine=True,
    files={"openssl.cnf": ENGINE_CONFIG},
    environment={"OPENSSL_CONF": "$SCRATCH/openssl.cnf"},
)
