"""Inputs for the tiny models: every program, with and without each optional input that it can do without."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGES = torch.Generator().manual_seed(11)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=IMAGES)


def ids(rows: list[list[int]], length: int, vocab: int = 290, low: int = 3) -> Tensor:
    """Random ids with `rows` as their beginnings."""
    made = torch.randint(low, vocab, (len(rows), length), generator=IMAGES)
    for row, begin in zip(made, rows, strict=True):
        row[: len(begin)] = torch.tensor(begin)
    return made


def left_padded(x: Tensor, count: int = 2) -> tuple[Tensor, Tensor]:
    """The first row moved right by `count` places, and the mask of real tokens."""
    mask = torch.ones_like(x)
    x = x.clone()
    x[0] = torch.roll(x[0], count)
    x[0, :count], mask[0, :count] = 2, 0
    return x, mask


def projector(token: int, count: int, size: int = 42, images: int = 2, low: int = 3) -> list[tuple[str, dict[str, Tensor]]]:
    """One image a sample in front of text."""
    pixels = noise(images, 3, size, size)
    text = ids([[5, *[token] * count]] * images, count + 7, low=low)
    plain = ids([[5]] * 2, 9, low=low)
    padded, mask = left_padded(text)
    bare, bare_mask = left_padded(plain)
    return [
        ("encode_image", {"pixel_values": pixels}),
        ("forward", {"pixel_values": pixels, "input_ids": text}),
        ("forward", {"pixel_values": pixels, "input_ids": padded, "attention_mask": mask}),
        ("forward", {"input_ids": plain}),
        ("forward", {"input_ids": bare, "attention_mask": bare_mask}),
    ]


def clip() -> list[tuple[str, dict[str, Tensor]]]:
    pixels, text = noise(3, 3, 42, 42), ids([[318]] * 4, 7)
    for row, end in enumerate((6, 4, 5, 6)):
        text[row, end] = 319
    mask = (torch.arange(7)[None] <= torch.tensor([6, 4, 5, 6])[:, None]).long()
    return [
        ("encode_image", {"pixel_values": pixels}),
        ("encode_text", {"input_ids": text}),
        ("encode_text", {"input_ids": text, "attention_mask": mask}),
        ("forward", {"pixel_values": pixels, "input_ids": text}),
        ("forward", {"pixel_values": pixels, "input_ids": text, "attention_mask": mask}),
        ("forward", {"pixel_values": pixels}),
        ("forward", {"input_ids": text}),
    ]


def blip_2() -> list[tuple[str, dict[str, Tensor]]]:
    words = torch.randint(2, 79, (2, 6), generator=IMAGES)
    words[:, 0] = 80
    mask = torch.ones_like(words)
    mask[1, 4:] = 0
    pixels = noise(2, 3, 42, 42)
    both = {"pixel_values": pixels, "qformer_ids": words}
    made = projector(319, 7)
    for program in ("match", "caption", "contrast"):
        made += [(program, both), (program, {**both, "qformer_mask": mask})]
    made += [("contrast", {"pixel_values": pixels}), ("contrast", {"qformer_ids": words})]
    made += [("embed_image", {"pixel_values": pixels}), ("embed_text", {"qformer_ids": words, "qformer_mask": mask})]
    return made


def flamingo() -> list[tuple[str, dict[str, Tensor]]]:
    pixels = noise(2, 2, 1, 3, 42, 42)
    text = ids([[5, 318, 7, 8, 318], [9, 5, 318, 7]], 11)
    padded, mask = left_padded(text)
    return [
        ("encode_image", {"pixel_values": pixels}),
        ("forward", {"pixel_values": pixels, "input_ids": text}),
        ("forward", {"pixel_values": pixels, "input_ids": padded, "attention_mask": mask}),
        ("forward", {"input_ids": text}),
        ("forward", {"input_ids": padded, "attention_mask": mask}),
    ]


def idefics() -> list[tuple[str, dict[str, Tensor]]]:
    pixels = noise(2, 2, 3, 42, 42)
    text = ids([[5, 318, 319, 318, 8], [9, 318, 319, 319]], 11)
    padded, mask = left_padded(text)
    seen = torch.rand(2, 11, 2, generator=IMAGES) > 0.5
    seen[0, :2] = False
    both = {"pixel_values": pixels, "image_attention_mask": seen}
    return [
        ("encode_image", {"pixel_values": pixels}),
        ("forward", {**both, "input_ids": text}),
        ("forward", {**both, "input_ids": padded, "attention_mask": mask}),
        ("forward", {"pixel_values": pixels, "input_ids": text}),
        ("forward", {"input_ids": text}),
    ]


def qwen2_vl() -> list[tuple[str, dict[str, Tensor]]]:
    images, videos = torch.tensor([[1, 4, 6], [1, 2, 4]]), torch.tensor([[2, 4, 2]])
    pixels, frames = noise(32, 1176), noise(16, 1176)
    text = ids([[303, *[305] * 6, 304, 9, *[306] * 4, 11], [7, 303, *[305] * 2, 304]], 16)
    still = ids([[303, *[305] * 6, 304, 9], [7, 303, *[305] * 2, 304]], 13)
    film = ids([[303, *[306] * 4, 304, 9], [7, 9]], 11)
    padded, mask = left_padded(text)
    plain, plain_mask = left_padded(ids([[5]] * 2, 9))
    image = {"pixel_values": pixels, "image_grid_thw": images}
    video = {"pixel_values_videos": frames, "video_grid_thw": videos}
    return [
        ("encode_image", image),
        ("encode_video", video),
        ("forward", {**image, **video, "input_ids": text}),
        ("forward", {**image, **video, "input_ids": padded, "attention_mask": mask}),
        ("forward", {**image, "input_ids": still}),
        ("forward", {**video, "input_ids": film}),
        ("forward", {"input_ids": plain}),
        ("forward", {"input_ids": plain, "attention_mask": plain_mask}),
    ]


def qwen2_5_vl() -> list[tuple[str, dict[str, Tensor]]]:
    """As Qwen2-VL, and once with the time between frames."""
    cases = qwen2_vl()
    film = next(given for program, given in cases if program == "forward" and "pixel_values" not in given)
    return [*cases, ("forward", {**film, "second_per_grid_ts": torch.tensor([0.7])})]


def videollama_3() -> list[tuple[str, dict[str, Tensor]]]:
    """Images of blocks of one and two patches, a video whole and pruned."""
    images = {"image_grid_thw": torch.tensor([[1, 2, 3], [1, 4, 4]]), "image_merge_sizes": torch.tensor([1, 2])}
    image = {"pixel_values": noise(22, 588), **images}
    video = {"pixel_values_videos": noise(16, 588), "video_grid_thw": torch.tensor([[2, 2, 4]]), "video_merge_sizes": torch.tensor([2])}
    kept = {"video_compression_mask": torch.tensor([True, True, False, True])}
    text = ids([[9, *[305] * 6, 9, *[306] * 3, 11], [7, *[305] * 4, 12]], 16)
    film, short = ids([[9, *[306] * 4, 8], [7, 9]], 11), ids([[9, *[306] * 3, 8], [7, 9]], 11)
    padded, mask = left_padded(text)
    plain, plain_mask = left_padded(ids([[5]] * 2, 9))
    return [
        ("encode_image", image),
        ("encode_video", video),
        ("encode_video", {**video, **kept}),
        ("forward", {**image, **video, **kept, "input_ids": text}),
        ("forward", {**image, **video, **kept, "input_ids": padded, "attention_mask": mask}),
        ("forward", {**video, "input_ids": film}),
        ("forward", {**video, **kept, "input_ids": short}),
        ("forward", {"input_ids": plain}),
        ("forward", {"input_ids": plain, "attention_mask": plain_mask}),
    ]


def minimax_vl() -> list[tuple[str, dict[str, Tensor]]]:
    """A picture of two tiles and one of one tile, which has a view of padding."""
    image = {"pixel_values": noise(2, 3, 3, 42, 42), "image_sizes": torch.tensor([[42, 84], [30, 42]])}
    text, plain = ids([[5, *[300] * (9 + 3 * 7)], [5, 6, *[300] * (9 + 3 * 4)]], 33), ids([[5]] * 2, 9)
    padded, mask = left_padded(text)
    return [
        ("encode_image", image),
        ("forward", {**image, "input_ids": text}),
        ("forward", {**image, "input_ids": padded, "attention_mask": mask}),
        ("forward", {"input_ids": plain}),
    ]


def janus() -> list[tuple[str, dict[str, Tensor]]]:
    drawn = noise(1, 3, 16, 16)
    codes = torch.randint(0, 32, (1, 16), generator=IMAGES)
    text = ids([[5, *[304] * 16], [5, *[304] * 16]], 21)
    made = [(p, {("pixel_values" if k == "pixel_values" else k): v for k, v in i.items()}) for p, i in projector(304, 16, size=56)]
    generated = ids([[5, 303, *[306] * 16, 305]], 22)
    return [
        *made,
        ("encode_codes", {"gen_values": drawn}),
        ("decode_image", {"image_ids": codes}),
        ("forward_image", {"image_ids": codes, "input_ids": generated}),
        ("forward", {"gen_values": drawn, "input_ids": generated}),
        ("forward", {"pixel_values": noise(2, 3, 56, 56), "input_ids": text}),
    ]


CASES = {
    "clip": clip, "llava-1.5": lambda: projector(300, 9), "cogvlm": lambda: projector(0, 11), "blip-2": blip_2, "flamingo": flamingo,
    "idefics": idefics, "qwen2-vl": qwen2_vl, "qwen2.5-vl": qwen2_5_vl, "janus": janus, "honeybee": lambda: projector(300, 4),
    "cyclip": clip, "videollama-3": videollama_3, "minimax-vl-01": minimax_vl,
}  # fmt: skip


def aimv2() -> list[tuple[str, dict[str, Tensor]]]:
    pixels, text = noise(2, 3, 42, 42), ids([[318]] * 2, 7)
    mask = torch.ones_like(text)
    mask[1, 5:] = 0
    both = {"pixel_values": pixels, "prefix_length": torch.tensor([3, 8])}
    return [
        ("forward", {"pixel_values": pixels}),
        ("pretrain", both),
        ("pretrain", {**both, "input_ids": text}),
        ("pretrain", {**both, "input_ids": text, "attention_mask": mask}),
    ]


def kosmos() -> list[tuple[str, dict[str, Tensor]]]:
    """Places of the image behind the padding of the first row."""
    text, where = ids([[5]] * 2, 13), torch.zeros(2, 13, dtype=torch.long)
    padded, mask = left_padded(text)
    padded[0, :2] = 1
    where[:, 4:10] = 1
    image = {"pixel_values": noise(2, 3, 42, 42), "image_embeds_position_mask": where}
    return [
        ("encode_image", {"pixel_values": image["pixel_values"]}),
        ("forward", {**image, "input_ids": text}),
        ("forward", {**image, "input_ids": padded, "attention_mask": mask}),
        ("forward", {"input_ids": padded, "attention_mask": mask}),
    ]


def resized(cases: list[tuple[str, dict[str, Tensor]]], size: int) -> list[tuple[str, dict[str, Tensor]]]:
    """The same calls with pictures of another size."""
    for _, given in cases:
        if "pixel_values" in given:
            given["pixel_values"] = noise(*given["pixel_values"].shape[:-2], size, size)
    return cases


def flan_t5() -> list[tuple[str, dict[str, Tensor]]]:
    cases = projector(319, 7)
    for program, given in cases:
        if program == "forward":
            given["decoder_input_ids"] = torch.tensor([[0, 5, 6], [0, 7, 8]])
    return cases


def hybrid() -> list[tuple[str, dict[str, Tensor]]]:
    """Each picture at two resolutions."""
    cases = projector(302, 9)
    for _, given in cases:
        if "pixel_values" in given:
            given["high_res_pixel_values"] = noise(len(given["pixel_values"]), 3, 60, 60)
    return cases


def stitched() -> list[tuple[str, dict[str, Tensor]]]:
    """Views and tiles of two grids."""
    cases = projector(301, 9)
    for _, given in cases:
        if "pixel_values" in given:
            given |= {"tiles": noise(5, 3, 42, 42), "tile_grid": torch.tensor([[1, 2], [3, 1]])}
    return [*cases, ("forward", {"coords": noise(2, 1), "input_ids": ids([[5, 302]] * 2, 7)})]


CASES |= {
    "deepseek-vl": hybrid, "moondream@2025": stitched,
    "clip@rn50": lambda: resized(clip(), 48), "blip-2@opt": lambda: projector(319, 7), "blip-2@flan-t5": flan_t5,
    "flamingo@flamingo-3b": lambda: resized(flamingo(), 64), "aimv2": aimv2, "aimv2@lit": clip, "kosmos-2": kosmos,
}  # fmt: skip
"""`spec@variant`."""
