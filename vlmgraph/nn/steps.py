"""A graph of modules run as one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class Steps(nn.Module):
    """Tokens x [B, N, width] through a graph of `parts` → `output` [B, N, width]; media [B, M, d_media] enter where the graph reads them.

    Every step is (value, path of the part, ports, needed, options): ports are fed values by name, of lists those that are there. A step
    whose `needed` ports lack their value is left out. Where that leaves out the output, and without media where it `needs_media`, x stays
    as it is. A part that gives several outputs gives the values `value.output`, the first of them under the name `value` itself.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        steps: Sequence[tuple[str, Sequence[str], Mapping[str, Any], Sequence[str], Mapping[str, Any]]],
        inputs: Sequence[str],
        output: str,
        needs_media: bool = False,
    ) -> None:
        super().__init__()
        for path, part in parts.items():
            owner: nn.Module = self
            *parents, name = path.split(".")
            for parent in parents:
                if not hasattr(owner, parent):
                    owner.add_module(parent, nn.Module())
                owner = owner.get_submodule(parent)
            owner.add_module(name, part)
        self.steps = tuple(steps)
        self.inputs, self.output, self.needs_media = tuple(inputs), output, needs_media

    def forward(self, x: Tensor, media: Tensor | None = None, media_mask: Tensor | None = None) -> Tensor:
        """`inputs` name x, media and media_mask in the graph, as many of them as it has."""
        if media is None and self.needs_media:
            return x
        values: dict[str, Any] = {self.inputs[0]: x}
        if media is not None and len(self.inputs) > 1:
            values[self.inputs[1]] = media
        if media_mask is not None and len(self.inputs) > 2:
            values[self.inputs[2]] = media_mask
        for value, part, ports, needed, options in self.steps:
            given = {port: read(values, source) for port, source in ports.items() if present(values, source)}
            if any(port not in given for port in needed):
                continue
            module: Any = self
            for name in part:
                module = getattr(module, name)
            out = module(**given, **options)
            if isinstance(out, dict):
                values |= {f"{value}.{name}": made for name, made in out.items()}
                values[value] = next(iter(out.values()))
            else:
                values[value] = out
        return values.get(self.output, x)


def present(values: Mapping[str, Any], source: str | Sequence[str]) -> bool:
    """Whether the value of a name is there, or any of a list."""
    return source in values if isinstance(source, str) else any(name in values for name in source)


def read(values: Mapping[str, Any], source: str | Sequence[str]) -> Any:
    """The value of a name, or the list of those that are there."""
    return values[source] if isinstance(source, str) else [values[name] for name in source if name in values]
