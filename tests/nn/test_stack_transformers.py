"""Text stacks, filled as each architecture fills them, against transformers' own modules on random weights."""

from __future__ import annotations

import re

import pytest
import torch

from tests.nn.stack_reference import CLIP, LLAMA, close, fill, qwen2_vl, random_mask, shake
from vlmgraph.components.decoder.encdec import EncoderDecoder
from vlmgraph.components.decoder.transformer import DecoderTransformer
from vlmgraph.components.text.embedding import TextEmbedding
from vlmgraph.components.text.transformer import TextTransformer

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(7)


@torch.no_grad()
def test_clip_text():
    config = transformers.CLIPTextConfig(
        vocab_size=50, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=11
    )
    theirs = shake(transformers.CLIPTextModel(config))
    embed = TextEmbedding(vocab=50, width=24, max_positions=11).build()
    ours = TextTransformer(layers=2, width=24, heads=4, mlp=36, act="quick_gelu", mask="causal").build()
    state = {re.sub(r"^(text_model\.)?(encoder\.)?", "", k): v for k, v in theirs.state_dict().items()}
    fill(
        embed,
        {k: v for k, v in state.items() if k.startswith("embed")},
        [
            (r"embeddings\.token_embedding\.weight", "tokens.weight"),
            (r"embeddings\.position_embedding\.weight", "positions.weight"),
            (r".*position_ids", None),
        ],
    )
    fill(ours, {k: v for k, v in state.items() if not k.startswith("embed")}, [*CLIP, (r"final_layer_norm\.(.*)", r"final_norm.\1")])
    ids, mask = torch.randint(0, 50, (3, 9)), random_mask(3, 9, left=False)
    close(ours(embed(ids), mask), theirs(ids, attention_mask=mask).last_hidden_state, mask.bool())


@torch.no_grad()
def test_llama():
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
    )
    theirs = shake(transformers.LlamaModel(config))
    ours = DecoderTransformer(layers=3, width=24, heads=6, kv_heads=2, mlp=36, norm_eps=1e-5).build()
    fill(ours, {k: v for k, v in theirs.state_dict().items() if "embed" not in k}, LLAMA)
    x, mask = torch.randn(3, 9, 24), random_mask(3, 9)
    expected = theirs(inputs_embeds=x, attention_mask=mask, output_hidden_states=True)
    out = ours(x, mask, taps=(1,))
    close(out["out"], expected.last_hidden_state, mask.bool())
    close(out["hidden.1"], expected.hidden_states[1], mask.bool())


@torch.no_grad()
def test_opt():
    config = transformers.OPTConfig(
        vocab_size=40,
        hidden_size=24,
        word_embed_proj_dim=24,
        ffn_dim=36,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=20,
    )
    theirs = shake(transformers.OPTModel(config))
    ours = DecoderTransformer(
        layers=2,
        width=24,
        heads=4,
        mlp={"type": "mlp.dense", "hidden": 36, "act": "relu"},
        norm="norm.layer",
        norm_eps=1e-5,
        bias=True,
        position={"type": "position.learned", "offset": 2},
        max_positions=20,
    ).build()
    rules = [
        (r"layers\.(\d+)\.self_attn\.(\w)_proj\.(.*)", r"layers.\1.attention.\2.\3"),
        (r"layers\.(\d+)\.self_attn\.out_proj\.(.*)", r"layers.\1.attention.out.\2"),
        (r"layers\.(\d+)\.(fc\d)\.(.*)", r"layers.\1.mlp.\2.\3"),
        (r"layers\.(\d+)\.self_attn_layer_norm\.(.*)", r"layers.\1.norms.attention.\2"),
        (r"layers\.(\d+)\.final_layer_norm\.(.*)", r"layers.\1.norms.mlp.\2"),
        (r"final_layer_norm\.(.*)", r"final_norm.\1"),
        (r"embed_positions\.weight", "position.weight"),
        (r"embed_tokens\.weight", None),
    ]
    fill(ours, theirs.state_dict(), rules, r"^decoder\.")
    x, mask = torch.randn(3, 9, 24), random_mask(3, 9)
    close(ours(x, mask), theirs(inputs_embeds=x, attention_mask=mask).last_hidden_state, mask.bool())


@torch.no_grad()
def test_bert():
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=20
    )
    theirs = shake(transformers.BertModel(config, add_pooling_layer=False))
    embed = TextEmbedding(vocab=40, width=24, max_positions=20, types=2, norm={"type": "norm.layer", "eps": 1e-12}).build()
    ours = TextTransformer(layers=2, width=24, heads=4, mlp=36, order="post", norm_eps=1e-12).build()
    names = {"word": "tokens", "position": "positions", "token_type": "types"}
    state = theirs.state_dict()
    fill(
        embed,
        {k: v for k, v in state.items() if k.startswith("embed")},
        [
            (r"embeddings\.(\w+)_embeddings\.weight", lambda m: f"{names[m[1]]}.weight"),
            (r"embeddings\.LayerNorm\.(.*)", r"norm.\1"),
            (r".*_ids", None),
        ],
    )
    fill(
        ours,
        {k: v for k, v in state.items() if k.startswith("encoder")},
        [
            (r"layer\.(\d+)\.attention\.self\.(\w)\w+\.(.*)", r"layers.\1.attention.\2.\3"),
            (r"layer\.(\d+)\.attention\.output\.dense\.(.*)", r"layers.\1.attention.out.\2"),
            (r"layer\.(\d+)\.attention\.output\.LayerNorm\.(.*)", r"layers.\1.norms.attention.\2"),
            (r"layer\.(\d+)\.intermediate\.dense\.(.*)", r"layers.\1.mlp.fc1.\2"),
            (r"layer\.(\d+)\.output\.dense\.(.*)", r"layers.\1.mlp.fc2.\2"),
            (r"layer\.(\d+)\.output\.LayerNorm\.(.*)", r"layers.\1.norms.mlp.\2"),
        ],
        r"^encoder\.",
    )
    ids, types, mask = torch.randint(0, 40, (3, 9)), torch.randint(0, 2, (3, 9)), random_mask(3, 9, left=False)
    expected = theirs(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    close(ours(embed(ids, types=types), mask), expected, mask.bool())


@torch.no_grad()
def test_t5():
    config = transformers.T5Config(
        vocab_size=40,
        d_model=24,
        d_kv=5,
        d_ff=36,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=12,
        relative_attention_max_distance=20,
        tie_word_embeddings=False,
    )
    theirs = shake(transformers.T5Model(config))
    position = {"type": "position.relative_bias", "buckets": 12, "distance": 20}
    ours = EncoderDecoder(layers=2, decoder_layers=3, width=24, heads=4, head_dim=5, mlp=36, position=position).build()
    mlps = {"wi_0": "gate", "wi_1": "up", "wo": "down"}

    def block(m):
        side, i, at, rest = m[1], m[2], int(m[3]), m[4]
        name = "attention" if at == 0 else "cross" if side == "decoder" and at == 1 else "mlp"
        if rest == "layer_norm.weight":
            return f"{side}.layers.{i}.norms.{name}.weight"
        if "relative_attention_bias" in rest:
            return f"{side}.bias.weight"
        leaf = rest.split(".")[1]
        return f"{side}.layers.{i}.{name}.{mlps[leaf] if name == 'mlp' else {'o': 'out'}.get(leaf, leaf)}.weight"

    rules = [
        (r"(encoder|decoder)\.block\.(\d+)\.layer\.(\d)\.(.*)", block),
        (r"(\w+)\.final_layer_norm\.weight", r"\1.final_norm.weight"),
        (r".*(shared|embed).*", None),
    ]
    fill(ours, theirs.state_dict(), rules)
    x, y, mask = torch.randn(3, 25, 24), torch.randn(3, 23, 24), random_mask(3, 25)
    expected = theirs(inputs_embeds=x, attention_mask=mask, decoder_inputs_embeds=y).last_hidden_state
    close(ours(x, y, mask), expected)


@torch.no_grad()
def test_qwen2_vl_text():
    theirs = qwen2_vl().language_model
    position = {"type": "position.mrope", "theta": 1000.0, "sections": [2, 2, 2]}
    ours = DecoderTransformer(layers=2, width=48, heads=4, kv_heads=2, mlp=36, bias="qkv", norm_eps=1e-6, position=position).build()
    fill(ours, {k: v for k, v in theirs.state_dict().items() if "embed" not in k}, LLAMA)
    x, mask = torch.randn(3, 9, 48), random_mask(3, 9)
    positions = torch.randint(0, 20, (3, 3, 9))
    expected = theirs(inputs_embeds=x, attention_mask=mask, position_ids=positions).last_hidden_state
    close(ours(x, mask, positions), expected, mask.bool())


@torch.no_grad()
@pytest.mark.parametrize("gate", ["vector", "scalar"])
def test_idefics_inserted_layer(gate):
    from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

    vision = {"embed_dim": 20, "image_size": 12, "patch_size": 4, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 8}
    config = transformers.IdeficsConfig(
        hidden_size=24,
        intermediate_size=36,
        num_attention_heads=4,
        num_hidden_layers=1,
        vision_config=vision,
        qk_layer_norms=True,
        alpha_type="vector" if gate == "vector" else "float",
        alpha_initializer="ones",
        rms_norm_eps=1e-5,
    )
    config._attn_implementation = "eager"
    theirs = shake(IdeficsGatedCrossAttentionLayer(config, layer_idx=0))
    block = {"type": "block.gated_cross_attention", "qk_norm": "norm.rms", "gate": gate}
    stack = DecoderTransformer(
        layers=1, width=24, heads=4, mlp=36, norm_eps=1e-5, d_media=20, insert=[{"name": "xattn", "every": 1, "block": block}]
    ).build()
    ours = stack.inserts["xattn"]["0"]
    fill(
        ours,
        theirs.state_dict(),
        [
            (r"alpha_cross_attn", "gates.cross.weight"),
            (r"alpha_dense", "gates.mlp.weight"),
            (r"cross_attn\.(\w)_proj\.weight", lambda m: f"cross.{'out' if m[1] == 'o' else m[1]}.weight"),
            (r"cross_attn\.(\w)_layer_norm\.weight", r"cross.\1_norm.weight"),
            (r"mlp\.(gate|up|down)_proj\.weight", r"mlp.\1.weight"),
            (r"input_layernorm\.weight", "norms.cross.weight"),
            (r"post_attention_layernorm\.weight", "norms.mlp.weight"),
        ],
    )
    x, media, mask = torch.randn(2, 5, 24), torch.randn(2, 6, 20), torch.rand(2, 5, 6) > 0.5
    mask[0, :2] = False
    additive = torch.zeros(2, 1, 5, 6).masked_fill(~mask[:, None], torch.finfo(torch.float32).min)
    expected = theirs(x, image_hidden_states=media, image_attention_mask=additive, cross_attention_gate=mask.any(-1).float())
    expected = expected[0] if isinstance(expected, tuple) else expected
    close(ours(x, media, mask), expected)
