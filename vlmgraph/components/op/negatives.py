"""op.hard_negatives: image-text matching pairs out of a batch."""

from __future__ import annotations

from pydantic import Field

from ...ir import types as T
from ..base import Op, Ports


class HardNegatives(Op, name="op.hard_negatives"):
    """Own pairs, then a wrong image for every text, then a wrong text for every image, drawn by similarity: 3 B pairs with labels.

    Given `image_index` and `text_index` replace the draws. `text_similarity`, of texts (rows) and images, is the transpose of `similarity`
    where it is not given.
    """

    draws = True
    floor: float | None = Field(
        None,
        ge=0,
        description="added to every weight, which then is the softmax with the own pair among the others (BLIP); else without it",
    )
    ports = Ports(
        {"ids": T.ids["3*B", "T"], "mask": T.mask["3*B", "T"], "image": T.tokens["3*B", "N", "d"], "labels": T.ids["3*B"],
         "image_index": T.index["B"], "text_index": T.index["B"]},
        similarity=T.scores["B", "B"], image=T.tokens["B", "N", "d"], ids=T.ids["B", "T"], mask=T.mask["B", "T"].optional_,
        image_index=T.index["B"].optional_, text_index=T.index["B"].optional_, text_similarity=T.scores["B", "B"].optional_,
    )  # fmt: skip
    module = "vlmgraph.nn.negatives:HardNegatives"
