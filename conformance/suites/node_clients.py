"""Node's pkcs11js and graphene-pk11, from npm."""

from conformance.steps import NODE_MODULES, Step, Suite

SUITE = Suite(
    "node",
    [
        Step(
            "pkcs11js",
            "node $SUITES/node/pkcs11.js",
            changes=True,
            refused={
                "login again": "one login is enough",
                "digest without a beginning": "there is none",
                "two beginnings": "the first has not ended",
                "no such attribute": "an AES key has no modulus",
                "no such object": "there is none",
                "close again": "it is closed",
            },
        ),
        Step("graphene-pk11", "node $SUITES/node/graphene.js", changes=True, refused={}),
    ],
    programs=("node",),
    node=("pkcs11js", "graphene-pk11"),
    environment={"NODE_PATH": str(NODE_MODULES)},
)
