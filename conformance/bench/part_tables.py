"""The parts about members that come and go, as tables of text. Pure."""

from conformance.bench.findings import Filling, Idle, Pause, Scaling, middle
from conformance.bench.result import OPERATIONS
from conformance.bench.table import NOTHING, number, table


def scaling(found: Scaling) -> str:
    """A row for each size of group."""
    titles = {one.name: one.title for one in OPERATIONS}
    head, rows = ["members"], [[str(size)] for size in found.sizes()]
    for operation in found.operations():
        head += [titles[operation], "times one member", "of as many"]
        for row, size in zip(rows, found.sizes(), strict=True):
            rate, times = found.rate(operation, size), found.times(operation, size)
            row.append(NOTHING if rate is None else f"{number(rate.median)} ±{rate.relative * 50:.0f}%")
            row += [NOTHING, NOTHING] if times is None else [number(times), f"{times / size:.2f}"]
    return (
        f"### Members that take one call at a time, each of {found.milliseconds} ms: operations a second, "
        f"{found.threads} threads\n\n{table(head, rows)}"
    )


def pauses(found: list[Pause]) -> str:
    """A row for each way to fail."""
    rows = [
        [
            pause.title,
            number(pause.aim),
            number(middle(lost := [trace.longest_at_loss() for trace in pause.traces])),
            number(max(lost, default=0.0)),
            number(middle([trace.longest_before() for trace in pause.traces])),
            number(middle([trace.longest_at_return() for trace in pause.traces])),
            str(sum(trace.failures for trace in pause.traces)),
            f"{sum(trace.back for trace in pause.traces)} of {len(pause.traces)}",
        ]
        for pause in found
    ]
    head = [
        "a member of three fails",
        "aim",
        "longest",
        "worst round",
        "before",
        "at its return",
        "failed",
        "came back",
    ]
    return f"### The longest C_Sign while a member fails, milliseconds\n\n{table(head, rows)}"


def resync(found: list[Filling]) -> str:
    """A row for each way to fill a member, and for each number of objects."""
    rows = []
    for one in found:
        for title, taken in (
            ("a plain program creates them", one.created),
            ("a plain program makes the same calls", one.copied),
            ("`pyha group sync`", one.sync),
            ("recovery in an application", one.recovery),
        ):
            by_clock, by_processor = ([each.wall for each in taken], [each.processor for each in taken])
            clock, processor = map(number, one.times(taken))
            title = f"{one.objects:,} objects: {title}"
            rows.append([title, number(middle(by_clock)), clock, number(middle(by_processor)), processor])
    head = ["onto an empty member", "seconds", "times the same calls", "processor seconds", "times the same calls"]
    return f"### A member that lacks everything; rounds: {len(found[0].copied)}\n\n{table(head, rows)}"


def idle(found: list[Idle]) -> str:
    """A row for each kind of process."""
    rows = [[one.title, *map(number, _columns(one))] for one in found]
    head = ["process", "CPU, ms a minute", "wake-ups a second", "helpers: CPU", "wake-ups"]
    return f"### A process that does nothing, for {found[0].seconds:.0f} s\n\n{table(head, rows)}"


def _columns(one: Idle) -> tuple[float, ...]:
    return one.milliseconds, one.wakeups, one.helper_milliseconds, one.helper_wakeups
