"""The clients, in order of importance."""

from conformance.steps import Suite
from conformance.suites import (
    curl,
    ed25519,
    gnutls,
    go_client,
    java_sunpkcs11,
    nginx,
    node_clients,
    nss,
    openssh,
    openssl,
    p11_kit,
    pkcs11_tool,
    python_clients,
    stunnel,
)

SUITES: tuple[Suite, ...] = (
    pkcs11_tool.SUITE,
    openssl.SUITE,
    java_sunpkcs11.SUITE,
    nginx.SUITE,
    python_clients.PYTHON_PKCS11,
    python_clients.PYKCS11,
    gnutls.SUITE,
    ed25519.SUITE,
    nss.SUITE,
    p11_kit.SUITE,
    openssh.SUITE,
    curl.SUITE,
    stunnel.SUITE,
    node_clients.SUITE,
    go_client.SUITE,
)
