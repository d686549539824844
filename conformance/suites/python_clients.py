"""python-pkcs11 and PyKCS11."""

from conformance import tree
from conformance.steps import Step, Suite

_OWN = {"PYTHONPATH": str(tree.ROOT)}
"""The module shares the interpreter of a Python program, and its package must be the one that belongs to it."""

PYTHON_PKCS11 = Suite(
    "python-pkcs11",
    [
        Step(part, f"$PYTHON_COMMAND $SUITES/python/python_pkcs11.py {part}", changes=part == "objects")
        for part in ("keys", "objects")
    ],
    imports=("pkcs11",),
    environment=_OWN,
)

PYKCS11 = Suite(
    "pykcs11",
    [Step("all", "$PYTHON_COMMAND $SUITES/python/pykcs11.py", changes=True)],
    imports=("PyKCS11",),
    environment=_OWN,
)
