"""python-pkcs11 and PyKCS11."""

from conformance.steps import Step, Suite

PYTHON_PKCS11 = Suite(
    "python-pkcs11",
    [
        Step(part, f"$PYTHON_COMMAND $SUITES/python/python_pkcs11.py {part}", changes=part == "objects")
        for part in ("keys", "objects")
    ],
    imports=("pkcs11",),
)

PYKCS11 = Suite(
    "pykcs11",
    [Step("all", "$PYTHON_COMMAND $SUITES/python/pykcs11.py", changes=True)],
    imports=("PyKCS11",),
)
