"""Types of procedures that the language has names for and nothing here runs yet."""

from __future__ import annotations

# A spec may declare these for whoever reads it: `check` knows their names, and nothing of their fields. Give a name to `KINDS` and take it
# out here once there is a procedure behind it; a name that is in neither place is taken for a misspelling.
RESERVED = frozenset(
    {
        # loops over programs
        "inference.detect", "inference.duplex", "inference.few_shot", "inference.generate", "inference.generate_then",
        "inference.linear_probe", "inference.parse_boxes", "inference.rank", "inference.sample",
        "inference.stream",
        # data, before and during training
        "recipe.augment", "recipe.balance", "recipe.capfilt", "recipe.caption", "recipe.caption_and_filter", "recipe.caption_pairs",
        "recipe.class_prompt", "recipe.compose_article", "recipe.corrupt_frames", "recipe.data_engine", "recipe.event_frames",
        "recipe.fill_bank", "recipe.filter", "recipe.frame_order", "recipe.greedy_selection", "recipe.grid", "recipe.ground_phrases",
        "recipe.group_by_modality", "recipe.instruction_cast", "recipe.interleaved", "recipe.itm_negatives", "recipe.llm_instructions",
        "recipe.mask_features", "recipe.mask_text", "recipe.mixture", "recipe.multi_image", "recipe.pack", "recipe.precompute",
        "recipe.preference_pairs", "recipe.prefix_split", "recipe.pretrain_lm", "recipe.proxy_study", "recipe.region_text",
        "recipe.rewrite", "recipe.rounds", "recipe.second_caption", "recipe.span_corruption", "recipe.split_text",
        "recipe.substring_match", "recipe.synthesize", "recipe.tag_answers", "recipe.teacher_annotate", "recipe.translate",
        "recipe.vocabulary",
    }
)  # fmt: skip
