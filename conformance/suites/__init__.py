"""The clients, in order of importance."""

from conformance.steps import Suite
from conformance.suites import java_sunpkcs11, nginx, openssl, pkcs11_tool

SUITES: tuple[Suite, ...] = (pkcs11_tool.SUITE, openssl.SUITE, java_sunpkcs11.SUITE, nginx.SUITE)
