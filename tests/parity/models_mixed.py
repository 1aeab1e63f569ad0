"""Cases of single-stream encoders and mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

CASES: dict[str, Callable[[], Any]] = {}


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    CASES[make.__name__] = make
    return make


def visual_bert(**fields: Any) -> Any:
    import transformers as tf

    from tests.parity.models import filled

    config = tf.VisualBertConfig(
        vocab_size=101, hidden_size=24, visual_embedding_dim=19, num_hidden_layers=2, num_attention_heads=3, intermediate_size=44,
        max_position_embeddings=23, **fields,
    )  # fmt: skip
    return filled(tf.VisualBertForPreTraining(config)), ["prediction_logits", "seq_relationship_logits"]


@case
def visual_bert_aligned_and_padded() -> Any:
    """Words of some regions, none of others; padding in both parts; regions of both types; the tanh form of GELU."""
    from tests.parity.models import noise, tokens

    model, outputs = visual_bert(hidden_act="gelu_new", layer_norm_eps=1e-3)
    ids = tokens(2, 7, 3, 101)
    words, regions = torch.ones_like(ids), torch.ones(2, 5)
    words[1, 5:], regions[0, 3:] = 0, 0
    named = torch.tensor([[[2, 4], [-1, -1], [6, -1], [1, 1], [0, 3]], [[-1, 5], [0, 1], [-1, -1], [3, 2], [4, 4]]])
    inputs = {
        "input_ids": ids, "attention_mask": words, "token_type_ids": (ids > 40).long(), "visual_embeds": noise(2, 5, 19),
        "visual_attention_mask": regions, "visual_token_type_ids": torch.arange(5).expand(2, 5) % 2, "image_text_alignment": named,
    }  # fmt: skip
    return model, inputs, outputs


@case
def visual_bert_defaults_of_a_call() -> Any:
    """Neither masks nor types are given: every region is of type 1; three token types."""
    from tests.parity.models import noise, tokens

    model, outputs = visual_bert(type_vocab_size=3, hidden_act="relu")
    return model, {"input_ids": tokens(2, 7, 3, 101), "visual_embeds": noise(2, 5, 19)}, outputs


@case
def visual_bert_text_only() -> Any:
    from tests.parity.models import tokens

    model, outputs = visual_bert()
    ids = tokens(2, 9, 3, 101)
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, outputs


def minimax(**fields: Any) -> Any:
    import transformers as tf

    from tests.parity.models import filled

    kinds = ["linear_attention", "linear_attention", "full_attention"]
    config = tf.MiniMaxConfig(**{
        "vocab_size": 97, "hidden_size": 40, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 1, "num_local_experts": 5, "num_experts_per_tok": 2, "block_size": 8, "layer_types": kinds,
        "pad_token_id": 0, **fields,
    })  # fmt: skip
    return filled(tf.MiniMaxForCausalLM(config))


@case
def minimax_factors_and_left_padding() -> Any:
    """Three experts a token, factors of every kind of branch, several blocks; one row padded on the left."""
    from tests.parity.models import padded_left, tokens

    factors = {
        "full_attn_alpha_factor": 1.3, "full_attn_beta_factor": 0.7, "linear_attn_alpha_factor": 0.9, "linear_attn_beta_factor": 1.2,
        "mlp_alpha_factor": 1.1, "mlp_beta_factor": 0.8,
    }  # fmt: skip
    ids, mask = tokens(2, 21, 3, 97), torch.ones(2, 21, dtype=torch.long)
    padded_left(ids, mask, 1, 6)
    return minimax(num_experts_per_tok=3, **factors), {"input_ids": ids, "attention_mask": mask}, ["logits"]


@case
def minimax_tied_gelu() -> Any:
    """Both kinds in turn as where a file does not say; wide heads, another activation, another base of the positions."""
    from tests.parity.models import tokens

    rope = {"rope_type": "default", "rope_theta": 300.0}
    model = minimax(layer_types=None, num_hidden_layers=4, head_dim=14, hidden_act="gelu", rope_parameters=rope, tie_word_embeddings=True)
    return model, {"input_ids": tokens(2, 9, 3, 97)}, ["logits"]
