"""Node's pkcs11js and graphene-pk11, from npm."""

from conformance.steps import NODE_MODULES, Step, Suite

SUITE = Suite(
    "node",
    [
        Step("pkcs11js", "node $SUITES/node/pkcs11.js", changes=True),
        Step("graphene-pk11", "node $SUITES/node/graphene.js", changes=True),
    ],
    programs=("node",),
    node=("pkcs11js", "graphene-pk11"),
    environment={"NODE_PATH": str(NODE_MODULES)},
)
