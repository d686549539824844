"""Go's crypto11, as Debian packages it."""

from conformance.steps import BUILT, Step, Suite

_SOURCES = "/usr/share/gocode"

SUITE = Suite(
    "go",
    [
        Step("build", "go build -o crypto11 $SUITES/go/crypto11.go", limit=300),
        Step("crypto11", "./crypto11", changes=True, refused={}),
    ],
    programs=("go", "gcc"),
    paths=(f"{_SOURCES}/src/github.com/ThalesIgnite/crypto11",),
    environment={"GOPATH": _SOURCES, "GO111MODULE": "off", "GOCACHE": str(BUILT / "go")},
)
