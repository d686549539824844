"""How a command ends when it cannot do what was asked."""


class Mistake(Exception):
    """Something the operator asked for cannot be. `str()` is one clear sentence, which goes to stderr; exit status
    2."""
