"""The clients, in order of importance."""

from conformance.steps import Suite
from conformance.suites import nginx, openssl, pkcs11_tool

SUITES: tuple[Suite, ...] = (pkcs11_tool.SUITE, openssl.SUITE, nginx.SUITE)
