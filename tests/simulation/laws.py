"""What a run may find broken, as an exception with the law's own name. Checks nothing itself."""

from __future__ import annotations


class Broken(Exception):  # noqa: N818 - what it says of a law
    """A promise was not kept. `law` is its short name: two runs with the same one found the same thing."""

    def __init__(self, law: str, what: str) -> None:
        super().__init__(f"{law}: {what}")
        self.law = law


def must(holds: object, law: str, what: str) -> None:
    """Raise Broken where it does not hold."""
    if not holds:
        raise Broken(law, what)
