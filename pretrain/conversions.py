"""Encoders for other libraries: their names for timm's tensors, in the kind of file that each reads.

timm and terratorch read what ``export`` wrote; mmdetection's ViTDet has timm's names as well.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import timm
import torch
from torch import Tensor

from pretrain.errors import InputError
from pretrain.export import load_export
from pretrain.model_card import Card
from pretrain.models.encoder import timm_args
from pretrain.run import writing

Library = Literal["torchgeo", "mmpretrain", "mmsegmentation", "mmdetection"]
LIBRARIES: tuple[str, ...] = get_args(Library)


class Rename(NamedTuple):
    """A part of timm's names, as a pattern, and what stands in its place."""

    timm: str
    theirs: str


_BLOCKS = (
    Rename(r"^patch_embed\.proj\.", "patch_embed.projection."),
    Rename(r"^blocks\.", "layers."),
    Rename(r"\.norm([12])\.", r".ln\1."),
    Rename(r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    Rename(r"\.mlp\.fc2\.", ".ffn.layers.1."),
    Rename(r"^norm\.", "ln1."),
)
NAMES: dict[Library, tuple[Rename, ...]] = {
    "torchgeo": (Rename("^", "model."),),
    "mmpretrain": _BLOCKS,
    "mmsegmentation": (
        *_BLOCKS, Rename(r"\.attn\.qkv\.", ".attn.attn.in_proj_"), Rename(r"\.attn\.proj\.", ".attn.attn.out_proj."),
    ),
    "mmdetection": (),
}  # fmt: skip
"""VisionTransformer of mmpretrain and of mmsegmentation, by the modules' own names and ``vit2mmseg.py``; torchgeo's
tasks take a backbone out of a Lightning checkpoint (``trainers.utils.extract_backbone``)."""


def convert(weights: Path, library: Library, out: Path) -> Card:
    """Write exported weights as another library reads them: tensors and strings alone, in torch's format.

    Raises:
        InputError: see :func:`pretrain.export.load_export`; the library cannot make such an encoder; ``out`` cannot be
            written.
    """
    encoder, card = load_export(weights)
    if library == "torchgeo":
        _refuse_arguments(card)
    state = renamed(encoder.state_dict(), library)
    holds: dict[str, Any] = {"model" if library == "mmdetection" else "state_dict": state}  # ViTDet asks for model
    if library == "torchgeo":
        holds["hyper_parameters"] = {"model": card.encoder.name}
    with writing(out) as aside:
        torch.save(holds, aside)
    return card


def renamed(state: dict[str, Tensor], library: Library) -> dict[str, Tensor]:
    """Tensors by a library's names."""
    return {_theirs(name, library): tensor.contiguous() for name, tensor in state.items()}


def _theirs(name: str, library: Library) -> str:
    for pattern, replacement in NAMES[library]:
        name = re.sub(pattern, replacement, name)
    return name


def _refuse_arguments(card: Card) -> None:
    """Torchgeo's tasks make a model of timm by its name alone."""
    with torch.device("meta"):
        theirs = timm.create_model(card.encoder.name, num_classes=0).state_dict()
        ours = timm.create_model(card.encoder.name, **timm_args(card.encoder)).state_dict()
    differs = [name for name in theirs if name not in ours or theirs[name].shape != ours[name].shape]
    if differs:
        raise InputError(
            f"encoder.args: torchgeo's tasks make {card.encoder.name} as timm does, and {differs[0]} is another then; "
            "load the exported folder with timm.create_model in a task of your own"
        )
