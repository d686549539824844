"""The tables of a run inside a page that is otherwise written by hand. Pure."""

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def with_tables(page: str, tables: str) -> str:
    """The page with new tables between its two marks. Raises ValueError where it has not both."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{begin}\n\n{tables.strip()}\n\n{end}{after}"
