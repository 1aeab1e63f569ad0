"""preprocessor_config.json of a published checkpoint over the spec's tables: every key is mapped, ignored, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..diagnostics.core import Diagnostic, DiagnosticError, Label, Span
from . import problems

FILES = {
    "processor.image": ("preprocessor_config.json", "image_processor"),
    "processor.native": ("preprocessor_config.json", "image_processor"),
    "processor.patches": ("preprocessor_config.json", "image_processor"),
    "processor.any_resolution": ("preprocessor_config.json", "image_processor"),
    "processor.tiles": ("preprocessor_config.json", "image_processor"),
    "processor.canvas": ("preprocessor_config.json", "image_processor"),
    "processor.split": ("preprocessor_config.json", "image_processor"),
    "processor.padded": ("preprocessor_config.json", "image_processor"),
    "processor.corner": ("preprocessor_config.json", "image_processor"),
    "processor.aspect": ("preprocessor_config.json", "image_processor"),
    "processor.frames": ("video_preprocessor_config.json", "video_processor"),
}
"""By kind of entry: its file, and its part of processor_config.json, where newer releases keep both."""

SHARED = ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std", "resample", "rescale_factor")
"""What videos have of the configuration of images where they have none of their own."""

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""

IGNORED = frozenset({
    "auto_map", "crop_pct", "data_format", "default_to_square", "device", "disable_grouping", "do_convert_rgb", "feature_extractor_type",
    "image_num_channels", "image_processor_type", "image_seq_length", "input_data_format", "num_image_tokens", "pad_size",
    "processor_class", "return_metadata", "return_row_col_info", "return_tensors", "video_metadata", "video_processor_type",
    "_valid_processor_keys", "do_sample_frames", "image_token",
})  # fmt: skip
"""Names of classes, and keys that say nothing of the result."""

NUMBERS = {
    "patch_size": "patch", "merge_size": "merge", "temporal_patch_size": "temporal", "min_pixels": "min_pixels", "max_pixels": "max_pixels",
    "min_size": "min_side", "rescale_factor": "rescale", "fps": "fps", "min_frames": "min_frames", "max_frames": "max_frames",
    "min_patches": "min", "max_patches": "max",
}  # fmt: skip


def overlaid(tables: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The tables with what the folder's configuration of the processor says. Raises DiagnosticError with every key it cannot honour."""
    result = {name: dict(t) if isinstance(t, Mapping) else t for name, t in tables.items()}
    faults: list[Diagnostic] = []
    seen: set[str] = set()
    for name, table in result.items():
        kind = table.get("type") if isinstance(table, Mapping) else None
        # of several entries of a kind, only the first is what people give to the published processor, and what starts from it
        if kind not in FILES or (kind in seen and "source" not in table) or table.get("inverse"):
            continue
        seen.add(kind)
        path, config = _config(folder, *FILES[kind])
        if config is None and kind == "processor.frames":  # older checkpoints have one file for both
            path, config = _config(folder, *FILES["processor.native"])
            config = None if config is None else {key: value for key, value in config.items() if key in SHARED}
        if config is not None:
            config = _own(config, name, result)
            table.update(_Read(path, config, dict(table), faults).table())
    if faults:
        raise DiagnosticError(*faults)
    if (stop := _stop(folder)) and isinstance(result.get("input_ids"), dict):
        result["input_ids"]["stop"] = stop
    return result


def _own(config: dict[str, Any], name: str, tables: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of one of two entries that start from the same pictures: `high_res_pixel_values` has `high_res_size`, the other `size`."""
    pairs = [(table["source"], other) for other, table in tables.items() if isinstance(table, Mapping) and "source" in table]
    prefix = next((root.removesuffix(other) for root, other in pairs if name in (root, other) and root.endswith(other)), "")
    if not prefix:
        return config
    plain = {key: value for key, value in config.items() if not key.startswith(prefix)}
    if "source" in tables[name]:
        return plain
    return plain | {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}


def _stop(folder: Path) -> list[int]:
    """What ends an answer by generation_config.json."""
    path = folder / "generation_config.json"
    config = _table(path) if path.is_file() else {}
    stop = config.get("eos_token_id")
    return [i for i in (stop if isinstance(stop, list) else [stop]) if isinstance(i, int) and not isinstance(i, bool)]


def _table(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DiagnosticError(Diagnostic(problems.CONFIG, f"{path} cannot be read: {error}", fix="copy the file again")) from None
    if not isinstance(config, dict):
        raise DiagnosticError(Diagnostic(problems.CONFIG, f"{path} holds no table", fix="copy the file again"))
    return config


def _config(folder: Path, name: str, part: str) -> tuple[Path, dict[str, Any] | None]:
    for path, key in ((folder / name, None), (folder / "processor_config.json", part)):
        if not path.is_file():
            continue
        config = _table(path)
        if key is None:
            return path, config
        if isinstance(config.get(key), dict):
            return path, config[key]
    return folder / name, None


class _Read:
    """One configuration as the fields of an entry."""

    def __init__(self, path: Path, config: dict[str, Any], base: dict[str, Any], faults: list[Diagnostic]) -> None:
        self.path, self.config, self.base, self.faults = path, config, base, faults
        self.left = {k for k, v in config.items() if v is not None and k not in IGNORED}

    def take(self, key: str, default: Any = None) -> Any:
        self.left.discard(key)
        value = self.config.get(key)
        return default if value is None else value

    def refuse(self, key: str, reason: str, fix: str = "write a spec with a [processor] of its own for this checkpoint") -> None:
        shown = json.dumps(self.config.get(key))[:80]
        self.faults.append(Diagnostic(problems.CONFIG, f"{self.path.name}: {key} = {shown} {reason}", _line(self.path, key), fix=fix))

    def table(self) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key, field in NUMBERS.items():
            value = self.take(key)
            if key == "patch_size" and (sides := _sides(value)) and not isinstance(sides, int) and sides[0] == sides[1]:
                value = sides[0]
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                self.refuse(key, "is not a number")
            else:
                fields[field] = value
        for key in ("do_resize", "do_rescale", "do_normalize"):
            if self.take(key, True) is False:
                if key == "do_normalize":
                    fields["stats"] = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
                elif key == "do_rescale":
                    fields["rescale"] = 1.0
                else:
                    self.refuse(key, "is not supported: the model takes pictures of one size")
        self.statistics(fields)
        resample = self.take("resample")
        if resample is not None:
            if resample in RESAMPLE and not isinstance(resample, bool):
                fields["resample"] = RESAMPLE[resample]
            else:
                self.refuse("resample", "is not supported", "use 0 (nearest), 1 (lanczos), 2 (bilinear) or 3 (bicubic)")
        colour = self.take("background_color")
        if colour is not None:
            fields["pad"] = list(colour) if isinstance(colour, (list, tuple)) else colour
        rest = {
            "processor.aspect": self.between,
            "processor.image": self.fitting, "processor.patches": self.shrinking, "processor.padded": self.longest,
            "processor.tiles": self.tiling, "processor.split": self.splitting, "processor.any_resolution": self.canvases,
            "processor.canvas": self.canvas,
            "processor.corner": self.cornered,
            "processor.frames": self.videos,
        }  # fmt: skip
        rest.get(self.base["type"], self.budget)(fields)
        for key in sorted(self.left):
            self.refuse(key, "is not known")
        return fields

    def statistics(self, fields: dict[str, Any]) -> None:
        mean, std = (self.take(key) for key in ("image_mean", "image_std"))
        if (mean is None and std is None) or "stats" in fields:
            return
        values = [[v] * 3 if isinstance(v, (int, float)) else v for v in (mean, std)]
        if not all(isinstance(v, list) and len(v) == 3 for v in values):
            self.refuse("image_mean", "and image_std are not three numbers each")
            return
        fields["stats"] = dict(zip(("mean", "std"), values))

    def budget(self, fields: dict[str, Any]) -> None:
        """Pictures at their own resolution: the area in pixels, under the older or the newer name."""
        size = self.take("size")
        if isinstance(size, dict):
            for key, field in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
                if isinstance(size.get(key), int):
                    fields[field] = size[key]
        elif size is not None:
            self.refuse("size", "is no area")

    def videos(self, fields: dict[str, Any]) -> None:
        """As pictures; which frames are taken, which tokens stay, and what all frames of a video may have together."""
        self.budget(fields)
        if self.config.get("do_sample_frames"):  # else frames come as they were sampled
            fields["sampling"] = "starts"
        if (tokens := self.take("max_video_tokens")) is not None:
            fields["max_tokens"] = int(tokens * 0.9) if self.config.get("cap_pixels_per_frame") else None
        self.take("cap_pixels_per_frame")
        if (pruned := self.take("use_token_compression")) is not None:
            fields["prune"] = {} if pruned else None

    def canvases(self, fields: dict[str, Any]) -> None:
        """The size of a view, and the canvases."""
        size, crop = self.take("size"), _sides(self.take("crop_size"))
        sides = _sides(size)
        square = (sides, sides) if isinstance(sides, int) else sides
        if square is not None:
            fields["size"] = _one(square)
        elif size is not None:
            self.refuse("size", "is no size that is understood")
        if crop is not None and square is not None and crop != square:
            self.refuse("crop_size", f"differs from the size, which is {list(square)}")
        self.take("do_center_crop")
        if self.take("do_pad", True) is False:
            self.refuse("do_pad", "is not supported: views of several pictures stand in one array")
        canvases = self.take("image_grid_pinpoints")
        if canvases is not None:
            fields["canvases"] = canvases

    def tiling(self, fields: dict[str, Any]) -> None:
        """The size of a tile. Whether pictures are cut at all is said at each call of the published processor, which cuts them."""
        size = _sides(self.take("size"))
        if size is not None and not isinstance(size, int):
            fields["size"] = _one(size)
        elif self.config.get("size") is not None:
            self.refuse("size", "is no height and width")
        self.take("crop_to_patches")
        if self.take("do_center_crop", False):
            self.refuse("do_center_crop", "is not supported: whole pictures go in")
        for key in ("crop_size", "do_pad"):
            self.take(key)

    def canvas(self, fields: dict[str, Any]) -> None:
        """The size of a tile, and how many there may be."""
        size, most = _sides(self.take("size")), self.take("max_image_tiles")
        if size is not None and not isinstance(size, int):
            fields["size"] = _one(size)
        elif self.config.get("size") is not None:
            self.refuse("size", "is no height and width")
        if most is not None:
            fields["max"] = most
        if self.take("do_pad", True) is False:
            self.refuse("do_pad", "is not supported: a picture fills whole tiles")

    def splitting(self, fields: dict[str, Any]) -> None:
        """The long side of a picture, the side of a tile, and whether there is more than one."""
        for key, field in (("size", "longest"), ("max_image_size", "size")):
            value = self.take(key)
            if isinstance(value, dict) and isinstance(value.get("longest_edge"), int):
                fields[field] = value["longest_edge"]
            elif value is not None:
                self.refuse(key, "has no longest_edge")
        fields["cut"] = bool(self.take("do_image_splitting", True))
        clips = self.take("video_sampling")
        if not self.base.get("video"):
            clips = None  # an entry of pictures alone
        if isinstance(clips, dict) and not clips.keys() - {"fps", "max_frames", "video_size"}:
            side = clips.get("video_size")
            video = {**self.base["video"], **{k: clips[k] for k in ("fps", "max_frames") if k in clips}}
            fields["video"] = video | ({"longest": side["longest_edge"]} if isinstance(side, dict) and "longest_edge" in side else {})
        elif clips is not None:
            self.refuse("video_sampling", "is not fps, max_frames and video_size")
        if self.take("do_pad", True) is False:
            self.refuse("do_pad", "is not supported: tiles of several samples stand in one array")

    def between(self, fields: dict[str, Any]) -> None:
        """The bounds of both sides, and whether a picture is cut into quarters."""
        size = self.take("size")
        if isinstance(size, dict) and all(isinstance(size.get(f"{side}_edge"), int) for side in ("shortest", "longest")):
            fields |= {side: size[f"{side}_edge"] for side in ("shortest", "longest")}
        elif size is not None:
            self.refuse("size", "has no shortest_edge and longest_edge")
        fields["quarters"] = bool(self.take("do_image_splitting", False))
        if self.take("do_pad", True) is False:
            self.refuse("do_pad", "is not supported: pictures of several sizes stand in one array")

    def longest(self, fields: dict[str, Any]) -> None:
        """The longest side a picture may have."""
        size = self.take("size")
        if isinstance(size, dict) and isinstance(size.get("longest_edge"), int):
            fields["max_side"] = size["longest_edge"]
        elif size is not None:
            self.refuse("size", "has no longest_edge")
        if self.take("do_pad", True) is False:
            self.refuse("do_pad", "is not supported: pictures of several sizes stand in one array")
        if self.take("do_center_crop", False):
            self.refuse("do_center_crop", "is not supported: whole pictures go in")
        self.take("crop_size")

    def cornered(self, fields: dict[str, Any]) -> None:
        """The long side of a picture, the least other one, and whether it is cut."""
        for key, field in (("max_image_size", "size"), ("min_image_size", "min_side")):
            if (value := self.take(key)) is not None:
                fields[field] = value
        fields["split"] = bool(self.take("split_image", False))
        fields.pop("patch", None)  # the model's, which the pictures do not depend on
        canvases = self.take("split_resolutions")
        if canvases is not None:
            fields["canvases"] = canvases
        for key in ("size", "crop_size", "do_pad", "do_center_crop"):
            self.take(key)

    def shrinking(self, fields: dict[str, Any]) -> None:
        """The largest size, and the value of pixels filled up to whole patches."""
        size = _sides(self.take("size"))
        if size is not None and not isinstance(size, int):
            fields["max_size"] = list(size)
        elif self.config.get("size") is not None:
            self.refuse("size", "is no height and width")
        value = self.take("padding_value")
        if value is not None:
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value):
                fields["pad"] = int(value)
            else:
                self.refuse("padding_value", "is no whole number from 0 to 255")
        if self.take("padding_mode", "constant") != "constant":
            self.refuse("padding_mode", "is not supported", "use constant")
        if self.take("do_pad", True) is False:
            self.refuse("do_pad", "is not supported: a picture is made of whole patches")

    def fitting(self, fields: dict[str, Any]) -> None:
        """Which way a picture comes to its size."""
        square = self.take("image_size")
        size, crop = _sides(self.take("size", square)), _sides(self.take("crop_size"))
        cropped, padded = self.take("do_center_crop", False), self.take("do_pad", False)
        if self.take("use_square_size", False):  # KOSMOS-2's file; the class then squashes to its own 224, whatever the size says
            size = 224, 224
        if size is None:
            if self.config.get("size") is not None:
                self.refuse("size", "is no size that is understood")
            return
        if self.base.get("fit") == "longest":  # transformers rounds the other side, the published code cuts it off
            fields |= {"size": _one(size), "rounding": "nearest"}
        elif isinstance(size, int) and not cropped:
            self.refuse("size", "leaves the longer edge open: the model takes pictures of one size")
        elif isinstance(size, int):
            fields |= {"fit": "crop", "short": size, "size": _one(crop or (size, size))}
        elif cropped and crop is not None and crop != size:
            self.refuse("crop_size", f"differs from the size, which is {list(size)}")
        else:
            fields |= {"fit": "pad" if padded else "squash", "size": _one(size)}


def _sides(value: Any) -> int | tuple[int, int] | None:
    """(height, width), or the shortest edge alone as a number."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value, value
    if isinstance(value, dict):
        if isinstance(value.get("shortest_edge"), int) and "height" not in value:
            return int(value["shortest_edge"])
        sides = value.get("height"), value.get("width")
        if all(isinstance(s, int) for s in sides):
            return sides  # type: ignore[return-value]
    return None


def _one(size: int | tuple[int, int]) -> int | list[int]:
    return size if isinstance(size, int) else size[0] if size[0] == size[1] else list(size)


def _line(path: Path, key: str) -> Label | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for number, line in enumerate(lines, 1):
        column = line.find(f'"{key}"')
        if column >= 0:
            return Label(Span(str(path), number, column + 1, number, column + len(key) + 3))
    return None
