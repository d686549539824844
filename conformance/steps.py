"""What a suite is made of: named steps, as data.

Knows nothing of targets, nor of how a step is run. A suite is a `Suite`; its steps are command lines, or functions
where a server has to be led, and they are the same for every target. Command lines see the target in their variables:
$MODULE, $TOKEN (label), $PIN, $SO_PIN, $SERIAL, $SLOT (id).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.scene import Scene


BUILT = Path(__file__).parents[1] / "build" / "conformance"
"""For what clients need and is kept from run to run."""

NODE_MODULES = BUILT / "node" / "node_modules"
"""Where `make conformance` has npm put what Node needs."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a client does.

    `does`: a shell line, or a function of the scene that gives lines (and raises `Failed`). `keep`: lines of the output
    that are compared, as a regular expression searched in each; "" keeps none, None all. `hide`: a regular expression
    for what is random in them, the value of a signature say. `changes`: makes, changes or deletes objects. `fails`: why
    it fails on plain SoftHSM, where it does. `limit`: seconds after which it hangs. `spared`: no member is lost by
    plan, as the step needs all of them, or says itself when one is lost (`Scene.lose_member`). `blocks`: the output is
    a list of things in any order, each with indented lines below. `unsteady`: `fails` happens in some runs only, and
    never on the slot. `refused`: the lines are "what: outcome", and these alone fail on plain SoftHSM, for this reason;
    None where the lines are something else.
    """

    name: str
    does: "str | Callable[[Scene], Sequence[str]]"
    keep: str | None = None
    hide: str = ""
    changes: bool = False
    fails: str = ""
    limit: float = 60.0
    spared: bool = False
    blocks: bool = False
    unsteady: bool = False
    refused: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """One client. `steps`: in order, each may use what earlier ones made. `programs`, `imports`, `engine` (libp11's,
    for OpenSSL), `node` (packages), `paths` (files): what has to be installed. `files`: name -> text, put into the
    scratch directory, with $MODULE and the like filled in. `environment`: the same for variables. `pinned`: its keys
    cannot be cloned, so the group is set to keep them on one member (the first), and it is the last one that is
    lost."""

    name: str
    steps: Sequence[Step]
    programs: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    engine: bool = False
    node: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    pinned: bool = False


class Failed(Exception):
    """A step of a function went wrong. `str()`: lines for the result."""
