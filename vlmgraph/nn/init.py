"""First weights as papers and their reference code give them: functions on a whole stack."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import nn

Init = Callable[[nn.Module], None]


def initialiser(name: str, width: int, layers: int, std: float = 0.02) -> Init:
    """normal: N(0, std) (GPT, LLaMA, OPT, BERT); trunc_normal: the same cut at two (ViT); the others as theirs."""
    if name in ("normal", "trunc_normal"):
        return partial(plain, std=std, cut=name == "trunc_normal")
    if name == "xavier":
        return partial(xavier, width=width)
    if name == "clip":
        return partial(clip, width=width, layers=layers)
    if name == "clip_image":
        return partial(clip_image, width=width)
    if name == "t5":
        return partial(t5, width=width)
    if name == "sub_ln":
        return partial(sub_ln, layers=layers)
    raise ValueError(f"there is no initialisation {name!r}; there are normal, trunc_normal, xavier, clip, clip_image, t5 and sub_ln")


def plain(module: nn.Module, std: float, cut: bool = False) -> None:
    """Matrices normal, biases zero; norms, gates and tables have set themselves."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            (nn.init.trunc_normal_ if cut else nn.init.normal_)(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def xavier(module: nn.Module, width: int) -> None:
    """ViT and SigLIP as google-research/big_vision begins them (models/vit.py): matrices Xavier-uniform, biases of an MLP N(0, 1e-6), all
    others zero, positions N(0, width**-0.5), patches N(0, fan_in**-0.5)."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.normal_(part.bias, std=1e-6 if name.startswith("mlp.") or ".mlp." in name else 0.0)
        elif isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=(part.weight[0].numel()) ** -0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for name, parameter in module.named_parameters():
        if name.startswith("position."):
            nn.init.normal_(parameter, std=width**-0.5)


def clip(module: nn.Module, width: int, layers: int) -> None:
    """CLIP (arXiv 2103.00020; openai/CLIP model.py): attention width**-0.5, fc1 (2 width)**-0.5, and what writes into the stream
    smaller by (2 layers)**-0.5."""
    plain(module, width**-0.5)
    out = width**-0.5 * (2 * layers) ** -0.5
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            leaf = name.rpartition(".")[2]
            if leaf in ("out", "fc2", "down"):
                nn.init.normal_(part.weight, std=out)
            elif leaf in ("fc1", "gate", "up"):
                nn.init.normal_(part.weight, std=(2 * width) ** -0.5)


def clip_image(module: nn.Module, width: int) -> None:
    """CLIP's image tower (openai/CLIP model.py): class token and positions width**-0.5; q, k and v as one Xavier-uniform matrix
    without bias, as torch's own attention begins; everything else keeps the first weights of its layer."""
    for name, parameter in module.named_parameters():
        if name == "cls" or name.startswith("position."):
            nn.init.normal_(parameter, std=width**-0.5)
    for name, part in module.named_modules():
        if not isinstance(part, nn.Linear) or ".attention." not in name:
            continue
        if name.rpartition(".")[2] in ("q", "k", "v"):
            bound = (6 / (part.in_features + 3 * part.out_features)) ** 0.5
            nn.init.uniform_(part.weight, -bound, bound)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def t5(module: nn.Module, width: int) -> None:
    """T5 (arXiv 1910.10683): variances so that attention needs no scaling: q by width * head_dim, others by their fan-in."""
    for name, part in module.named_modules():
        if not isinstance(part, nn.Linear):
            continue
        leaf = name.rpartition(".")[2]
        std = part.in_features**-0.5
        if leaf == "q":
            owner = module.get_submodule(name.rpartition(".")[0])
            std = (width * owner.head_dim) ** -0.5
        nn.init.normal_(part.weight, std=std)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def sub_ln(module: nn.Module, layers: int) -> None:
    """Magneto's decoder (arXiv 2210.06423, section 2.3; microsoft/torchscale architecture/decoder.py): weights and biases of values, of
    what leaves attention and of MLPs are sqrt(log(2 layers)) times those that a linear layer begins with."""
    gain = math.sqrt(math.log(2 * layers))
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear) and name.rpartition(".")[2] in ("v", "out", "fc1", "fc2", "gate", "up", "down"):
            for parameter in part.parameters():
                parameter.data.mul_(gain)
