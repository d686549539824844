"""python-pkcs11 and PyKCS11."""

from conformance import tree
from conformance.steps import Step, Suite

_OWN = {"PYTHONPATH": str(tree.ROOT)}
"""The module shares the interpreter of a Python program, and its package must be the one that belongs to it."""

PYTHON_PKCS11 = Suite(
    "python-pkcs11",
    [
        Step(
            part, f"$PYTHON_COMMAND $SUITES/python/python_pkcs11.py {part}", changes=part == "objects", refused=refused
        )
        for part, refused in (
            (
                "keys",
                {
                    "RSA SHA256_RSA_PKCS, not": "it is the signature of another message",
                    "RSA SHA512_RSA_PKCS, not": "the same",
                    "RSA RSA_PKCS, not": "the same",
                    "wrap what must not leave": "the library asks for a key that is not extractable",
                },
            ),
            ("objects", {"not there": "there is no such key"}),
        )
    ],
    imports=("pkcs11",),
    environment=_OWN,
)

PYKCS11 = Suite(
    "pykcs11",
    [
        Step(
            "all",
            "$PYTHON_COMMAND $SUITES/python/pykcs11.py",
            changes=True,
            refused={
                "login again": "one login is enough",
                "a wrong signature": "it is the signature of another message",
            },
        )
    ],
    imports=("PyKCS11",),
    environment=_OWN,
)
