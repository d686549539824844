"""The tables of a run inside a page that is otherwise written by hand. Pure."""


def marks(part: str) -> tuple[str, str]:
    """The lines between which a part's tables stand."""
    return f"<!-- {part}: begin -->", f"<!-- {part}: end -->"


def with_part(page: str, part: str, tables: str) -> str:
    """The page with new tables of one part between its two marks. Raises ValueError where it has not both."""
    begin_mark, end_mark = marks(part)
    before, begin, rest = page.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise ValueError(f"the page has no {begin_mark} and {end_mark}")
    return f"{before}{begin}\n\n{tables.strip()}\n\n{end}{after}"
