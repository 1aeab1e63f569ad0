"""What a procedure is: fields, the programs it runs, and a function `(model, procedure, inputs, **options)` named by text."""

from __future__ import annotations

from ..base import Config


class Procedure(Config):
    """A host loop over static programs. `module` names its function."""

    def programs(self) -> dict[str, str]:
        """The programs it runs, by the field that names them."""
        return {}

    def values(self) -> dict[str, tuple[str, str]]:
        """Values that it feeds to a program that is cut there: field → (program, value)."""
        return {}

    def stepping(self) -> tuple[str, str, int] | None:
        """Of a loop that feeds what it chose: the program, the value that only steps are fed, a row beside each new id, and that id."""
        return None
