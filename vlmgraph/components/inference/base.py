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
