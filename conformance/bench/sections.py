"""A result as text, a section for each part that ran. Pure."""

from conformance.bench import part_tables, table
from conformance.bench.result import Result


def sections(result: Result) -> dict[str, str]:
    """Part -> its tables."""
    made = {}
    if result.slices or result.startup:
        made["speed"] = table.speed(result)
    if result.scaling is not None:
        made["members"] = part_tables.scaling(result.scaling)
    if result.pauses:
        made["pauses"] = part_tables.pauses(result.pauses)
    if result.resync:
        made["resync"] = part_tables.resync(result.resync)
    if result.idle:
        made["idle"] = part_tables.idle(result.idle)
    # What was not measured is said below the first section that there is.
    first = next(iter(made), None)
    if first is not None and result.failures:
        made[first] += f"\n\n{table.failures(result)}"
    return made


def render(result: Result) -> str:
    """All of it."""
    return "\n\n".join(sections(result).values() or [table.failures(result)]) + "\n"
