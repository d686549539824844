"""A result as tables of text that are Markdown too. Pure."""

from collections.abc import Sequence
from statistics import median

from conformance.bench.result import DIRECT, OPERATIONS, Result
from conformance.bench.slices import Spread

NOTHING = "n/a"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up as text; the first column to the left, the others to the right."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [_line(row, widths) for row in cells]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], _line(rule, widths), *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (f"{cell:{'<' if at == 0 else '>'}{widths[at]}}" for at, cell in enumerate(row))
    return "| " + " | ".join([first, *others]) + " |"


def number(value: float) -> str:
    """About three digits that count."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def speed(result: Result) -> str:
    """The part about operations, start-up, memory and sessions."""
    parts = [f"{result.machine}; {result.rounds} rounds of slices of {result.milliseconds} ms."]
    parts += [_rates(result, threads) for threads in result.threads]
    parts += [_microseconds(result), _startup(result), _memory(result), _crowd(result)]
    return "\n\n".join(part for part in parts if part)


def failures(result: Result) -> str:
    """What was not measured, and why."""
    return "Not measured:\n\n" + "\n".join(f"- {failure}" for failure in result.failures) if result.failures else ""


def _rates(result: Result, threads: int) -> str:
    rows = []
    for operation in OPERATIONS:
        row = [result.title(operation)]
        for target in result.targets:
            rates = result.rates(operation.name, threads, target)
            part = result.ratio(operation.name, threads, target)
            row.append(NOTHING if rates is None else _rate(rates, None if target == DIRECT else part))
        rows.append(row)
    words = "1 thread" if threads == 1 else f"{threads} threads"
    return f"### Operations a second, {words}\n\n" + table(["operation", *result.targets], rows)


def _rate(rates: Spread, part: float | None) -> str:
    """The median, its spread, and what part of direct it is."""
    text = f"{number(rates.median)} ±{rates.relative * 50:.0f}%"
    return text if part is None else f"{text} ({part:.2f})"


def _microseconds(result: Result) -> str:
    if 1 not in result.threads:
        return ""
    rows = []
    for operation in OPERATIONS:
        row = [f"{result.title(operation)} ({operation.calls})"]
        for target in result.targets:
            typical, more = result.typical(operation.name, 1, target), result.added(operation, 1, target)
            if typical is None:
                row.append(NOTHING)
            else:
                row.append(number(typical.median) + ("" if target == DIRECT or more is None else f" ({more:+.1f})"))
        rows.append(row)
    return "### Microseconds an operation, 1 thread (in brackets: added to each of its calls)\n\n" + table(
        ["operation (calls)", *result.targets], rows
    )


def _startup(result: Result) -> str:
    rows = [
        [name, *(number(median(part)) for part in (one.load, one.initialize, one.session, one.login, one.total))]
        for name, one in result.startup.items()
        if one.load
    ]
    head = ["target", "load", "C_Initialize", "slots, first session", "C_Login", "all"]
    return "### Start-up, milliseconds\n\n" + table(head, rows) if rows else ""


def _memory(result: Result) -> str:
    rows = [[name, number(one.application / 1024), number(one.helpers / 1024)] for name, one in result.memory.items()]
    return "### Memory (PSS), MiB\n\n" + table(["target", "application", "helpers, all"], rows) if rows else ""


def _crowd(result: Result) -> str:
    rows = [
        [name, f"{one.sessions:,}", *(number(value) for value in (one.opening, one.session_info, one.random, one.sign))]
        for name, many in result.crowd.items()
        for one in many
    ]
    head = ["target", "idle sessions", "C_OpenSession", "C_GetSessionInfo", "C_GenerateRandom", "C_Sign P-256"]
    return "### Microseconds beside idle sessions, 1 thread\n\n" + table(head, rows) if rows else ""
