"""A step of decoding without what does not matter to it: the mask of one token that may attend to all tokens before it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...nn.cache import KVCache
from ...nn.eager import readable
from ...nn.stack import Stack
from ..generate.fixed import FixedCache, decode

OPEN = frozenset({"full", "causal", "prefix", "prefix_or_full", "causal_or_full"})
"""Rules by which the last token may attend to every real one."""


class StepStack(Stack):
    """A stack that attends without a mask where one token is new and no sample is padded, and that decodes with fixed shapes."""

    def forward(self, x: Tensor, mask: Tensor | None = None, *, cache: KVCache | None = None, **others: Any) -> Any:  # type: ignore[override]
        if isinstance(cache, FixedCache):
            return decode(self, x, mask, cache, **others)
        if cache is None or not self.sees_all(x, mask, cache):
            return super().forward(x, mask, cache=cache, **others)
        cache.mask, rules = None, self.rules
        self.rules = (("full",),) * len(rules)
        try:
            return super().forward(x, None, cache=cache, **others)
        finally:
            self.rules = rules

    def sees_all(self, x: Tensor, mask: Tensor | None, cache: KVCache) -> bool:
        """Of a GPU nothing is read back."""
        if x.dim() != 3 or x.shape[1] != 1 or x.device.type != "cpu" or not readable(x) or not cache.length:
            return False
        if any(not OPEN.issuperset(own) for own in self.rules):
            return False
        whole = cache.mask if mask is None else mask
        return whole is None or (whole.dim() == 2 and bool(whole.all()) and (cache.mask is None or bool(cache.mask.all())))
