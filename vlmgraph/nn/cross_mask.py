"""Which media tokens a text token may attend."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossMask(nn.Module):
    """Media are numbered by their tokens in the text; phi(t) counts those at or before place t (Flamingo, arXiv 2204.14198, section 3.1.3).

    rule "last_image": only the media of image phi(t). "all_previous": those of images 1 to phi(t). "given": `media_mask` says it,
    "given_tiles" for every tile of an image.
    Rows with phi = 0 are False everywhere.
    """

    def __init__(self, token: int | None = None, rule: str = "last_image") -> None:
        super().__init__()
        self.token, self.rule = token, rule

    def forward(
        self, media: Tensor, ids: Tensor | None = None, media_mask: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor | dict[str, Tensor]:
        """media [B, M, L, d], ids [B, T], media_mask [B, T, M], seen [B] (media before `ids`, while decoding) →
        `out` [B, T, M * L] bool and `seen` [B], the media up to the end of `ids`; with a given mask `out` alone. In tiles media
        [B, M, K, L, d] and media_mask [B, T, M, K] → [B, T, M * K * L].
        """
        count, length = media.shape[1], media.shape[-2]
        if self.rule == "given" or self.rule == "given_tiles":
            assert media_mask is not None
            return media_mask.bool().flatten(2).repeat_interleave(length, 2)
        assert ids is not None
        phi = (ids == self.token).long().cumsum(1)
        if seen is not None:
            phi = phi + seen[:, None]
        number = torch.arange(1, count + 1, device=ids.device)
        allowed = number == phi[..., None] if self.rule == "last_image" else number <= phi[..., None]
        return {"out": allowed.repeat_interleave(length, 2), "seen": phi[:, -1]}
