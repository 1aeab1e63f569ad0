"""Small steps without parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .eager import readable
from .splice import is_token


class Select(nn.Module):
    """The token at one place: [..., N, d] → [..., d]."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        return x.select(-2, self.at)


class Pool(nn.Module):
    """One vector out of the tokens: [..., N, d] → [..., d], with `keep` [..., 1, d]. Places where `mask` [..., N] is False do not count."""

    def __init__(self, mode: str = "mean", keep: bool = False) -> None:
        super().__init__()
        self.mode, self.keep = mode, keep

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.pooled(x, mask)
        return y[..., None, :] if self.keep else y

    def pooled(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.mode == "max":
            return (x if mask is None else x.masked_fill(~mask.bool()[..., None], float("-inf"))).amax(-2)
        if mask is None:
            return x.mean(-2)
        weights = mask.to(x.dtype)[..., None]
        return (x * weights).sum(-2) / weights.sum(-2).clamp(min=1)


class Normalize(nn.Module):
    """Every vector at length one: [..., d] → [..., d]."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


class TokenAbsent(ValueError):
    """A row of ids lacks the token that its state is to be taken from."""


class GatherStates(nn.Module):
    """States at a token, `offset` places from it: x [B, T, d], ids [B, T] → [B, d], or [S, d] in reading order for `at="all"`,
    [S / count, count, d] with a `count`.

    at: "first" or "last" occurrence, "largest" (first place of a row's largest id, as the original CLIP code finds
    end-of-text), "all". Raises TokenAbsent.
    """

    def __init__(self, token: Sequence[int], offset: int = 0, at: str = "first", count: int | None = None) -> None:
        super().__init__()
        self.token, self.offset, self.at, self.count = tuple(token), offset, at, count

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        here = ids == ids.amax(1, keepdim=True) if self.at == "largest" else is_token(ids, self.token)
        if self.at == "all":
            shifted = torch.roll(here, self.offset, 1)
            if self.offset and readable(ids) and bool((shifted[:, : self.offset] if self.offset > 0 else shifted[:, self.offset :]).any()):
                raise TokenAbsent(f"a token whose state {self.offset} places away is wanted stands at the edge of its row")
            found = x[shifted]
            return found if self.count is None else found.unflatten(0, (-1, self.count))
        if readable(ids) and not bool(here.any(1).all()):
            row = int((~here.any(1)).nonzero()[0])
            raise TokenAbsent(f"row {row} of input_ids has no token {', '.join(map(str, self.token))}")
        count = here.long().cumsum(1)
        wanted = count[:, -1:] if self.at == "last" else torch.ones_like(count[:, :1])
        place = (here & (count == wanted)).long().argmax(1) + self.offset
        return x[torch.arange(x.shape[0], device=x.device), place]


class Transpose(nn.Module):
    """[B, C] → [C, B]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.t()


class ReplaceToken(nn.Module):
    """ids [B, T] with one place overwritten by `token`."""

    def __init__(self, at: int, token: int) -> None:
        super().__init__()
        self.at, self.token = at, token

    def forward(self, ids: Tensor) -> Tensor:
        ids = ids.clone()
        ids[:, self.at] = self.token
        return ids


class ShiftRight(nn.Module):
    """ids [B, T] moved one place to the right behind `start`; -100 becomes `pad` (T5, arXiv 1910.10683, section 2.1)."""

    def __init__(self, start: int, pad: int = 0) -> None:
        super().__init__()
        self.start, self.pad = start, pad

    def forward(self, ids: Tensor) -> Tensor:
        moved = torch.cat([torch.full_like(ids[:, :1], self.start), ids[:, :-1]], dim=1)
        return moved.masked_fill(moved == -100, self.pad)


class Concat(nn.Module):
    """Values joined along the tokens or the channels; `interleaved` channels take turns."""

    def __init__(self, axis: str = "tokens", interleaved: bool = False) -> None:
        super().__init__()
        self.dim, self.interleaved = -2 if axis == "tokens" else -1, interleaved

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        if self.interleaved:
            return torch.stack(list(x), dim=-1).flatten(-2)
        return torch.cat(list(x), dim=self.dim)


class ConcatCarried(nn.Module):
    """What joined values carry: masks, modality ids or spans, one behind the other along the tokens."""

    def __init__(self, count: int, carried: str = "mask") -> None:
        super().__init__()
        self.count, self.carried = count, carried

    def forward(self, **parts: Tensor) -> Tensor:
        """`x<i>` [B, N_i, d] with `given<i>` [B, N_i] or none → [B, sum of N_i] over the values that are there.

        Without one a value's tokens are real (True) or text (0). A mask that covers past tokens too, [B, past + N_i], gives its end.
        """
        joined = []
        for i in range(self.count):
            x, given = parts.get(f"x{i}"), parts.get(f"given{i}")
            if x is None:
                continue
            if given is not None:
                joined.append(given[..., -x.shape[-2] :].bool() if self.carried == "mask" else given)
            elif self.carried == "mask":
                joined.append(torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device))
            else:
                joined.append(torch.zeros(x.shape[:-1], dtype=torch.long, device=x.device))
        return torch.cat(joined, dim=-1)


class Add(nn.Module):
    """The sum of values of one shape."""

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        total = x[0]
        for other in x[1:]:
            total = total + other
        return total


class Interpolate(nn.Module):
    """A square grid of tokens resampled to `size` x `size`: [B, N, d] → [B, size * size, d], rows first."""

    def __init__(self, size: int, mode: str = "bilinear") -> None:
        super().__init__()
        self.size, self.mode = size, mode

    def forward(self, x: Tensor) -> Tensor:
        side = round(x.shape[1] ** 0.5)
        grid = x.transpose(1, 2).unflatten(2, (side, side))
        grid = F.interpolate(grid, size=(self.size, self.size), mode=self.mode, align_corners=None if self.mode == "nearest" else False)
        return grid.flatten(2).transpose(1, 2)
