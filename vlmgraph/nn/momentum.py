"""Contrast with the features of a model that follows slowly."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MomentumContrastive(nn.Module):
    """Images against the keys of texts and texts against the keys of images, both with the keys of earlier batches behind them (ALBEF,
    arXiv 2107.07651, sections 3.2 and 3.3; MoCo, arXiv 1911.05722).

    image and text [B, d] of the model that trains, image_keys and text_keys [B, d] of the one that follows it, image_bank and text_bank
    [K, d]; all normalised, scale [] multiplies their products. The target of a row is its own key with the share 1 - soft, and what the
    following model itself finds similar with the share soft. `ramp` [] in 0 to 1 multiplies soft while the model is new.
    """

    def __init__(self, soft: float = 0.4) -> None:
        super().__init__()
        self.soft = soft

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        image_keys: Tensor,
        text_keys: Tensor,
        image_bank: Tensor | None = None,
        text_bank: Tensor | None = None,
        scale: Tensor | None = None,
        ramp: Tensor | None = None,
    ) -> Tensor:
        image_keys, text_keys = image_keys.detach(), text_keys.detach()
        images = image_keys if image_bank is None else torch.cat([image_keys, image_bank.detach()])
        texts = text_keys if text_bank is None else torch.cat([text_keys, text_bank.detach()])
        soft = self.soft if ramp is None else self.soft * ramp
        by_image = self.one_way(image, image_keys, texts, scale, soft)
        by_text = self.one_way(text, text_keys, images, scale, soft)
        return (by_image + by_text) / 2

    def one_way(self, x: Tensor, keys: Tensor, others: Tensor, scale: Tensor | None, soft: float | Tensor) -> Tensor:
        """Cross entropy of x [B, d] over others [n, d], whose first B rows are the partners."""
        factor = 1.0 if scale is None else scale
        scores = (x @ others.t() * factor).float()
        found = (keys @ others.t() * factor).detach().float().softmax(1)
        own = torch.eye(len(x), len(others), device=x.device)
        return -(scores.log_softmax(1) * (soft * found + (1 - soft) * own)).sum(1).mean()
