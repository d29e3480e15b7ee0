"""Weights from elsewhere: facebookresearch MAE, SelectiveMAE, Scale-MAE, and any plain ViT with timm's names.

All of them name an encoder's tensors as timm does, inside wrappers of several kinds, beside decoders and heads that are
left behind. Files are opened without running what is in them: tensors, and the ``argparse.Namespace`` that the
releases store beside them, are read; a pickle that wants anything else is refused by its name.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pretrain.config import EncoderConfig
from pretrain.errors import InputError
from pretrain.models.encoder import build_encoder, position_table
from pretrain.models.positions import on_grid
from pretrain.run import RunFolder

_KEPT = ("cls_token", "reg_token", "pos_embed", "patch_embed.", "blocks.", "norm.", "norm_pre.")
_LEFT = (
    "decoder", "mask_token", "head", "fc_norm.", "pos_embed_probs", "get_token_probs", "hog.", "fpn.", "fcn_",
    "laplacian.", "mean", "std",
)  # fmt: skip
_MARK = "patch_embed.proj.weight"
_WRAPPERS = ("model", "state_dict", "module", "model_state_dict")
_NAMES = {
    (192, 12): "vit_tiny_patch16_224", (384, 12): "vit_small_patch16_224", (768, 12): "vit_base_patch16_224",
    (1024, 24): "vit_large_patch16_224", (1280, 32): "vit_huge_patch14_224",
}  # fmt: skip
"""Width and depth of timm's models: the number of heads cannot be read from weights."""


class Released(NamedTuple):
    """An encoder's weights as somebody released them."""

    path: Path
    weights: dict[str, Tensor]
    """By timm's names."""
    gsd_aware: bool
    """Whether the positions were scaled by the GSD (Scale-MAE): such weights come without a table of positions."""

    @property
    def side(self) -> int:
        """Side of the images in pixels; 224 where no table of positions says."""
        table, patch = self.weights.get("pos_embed"), int(self.weights[_MARK].shape[-1])
        return math.isqrt(table.shape[1]) * patch if table is not None else 224

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len({name.split(".")[1] for name in self.weights if name.startswith("blocks.")})


def read_released(path: Path) -> Released:
    """Read an encoder's weights from a file, from what ``export`` wrote, or from a run.

    Raises:
        InputError: the file is absent or damaged, wants more than tensors while loading, or holds no plain ViT.
    """
    state = _tensors(_file_of(path))
    marks = [name.removesuffix(_MARK) for name in state if name.endswith(_MARK)]
    if len(marks) != 1:
        raise InputError(
            f"{path}: holds {len(marks)} vision transformers with timm's names (tensors named {_MARK}); one is needed"
        )
    shape = tuple(state[marks[0] + _MARK].shape)
    if len(shape) != 4:
        raise InputError(f"{path}: {marks[0] + _MARK} is {shape}, in a plain ViT (width, bands, patch, patch)")
    inner = {name.removeprefix(marks[0]): tensor for name, tensor in state.items() if name.startswith(marks[0])}
    weights = {name: tensor.float() for name, tensor in inner.items() if name.startswith(_KEPT)}
    if "norm.weight" not in weights:  # fine-tuned on the patches' mean: the same norm under another name
        weights |= {
            f"norm.{part}": inner[f"fc_norm.{part}"] for part in ("weight", "bias") if f"fc_norm.{part}" in inner
        }
    if unknown := [name for name in inner if not name.startswith((*_KEPT, *_LEFT))]:
        raise InputError(f"{path}: holds {unknown[0]}, which a plain ViT does not have; only those can be read")
    return Released(path, weights, any(name.startswith("fpn.") for name in inner) or "pos_embed" not in inner)


def config_of(released: Released, args: Mapping[str, Any]) -> EncoderConfig:
    """The timm model that the weights are of.

    Args:
        released: the weights.
        args: further arguments of ``timm.create_model``; ``num_heads`` where width and depth are no usual ones.

    Raises:
        InputError: nobody knows the number of heads.
    """
    width, patch, depth = *released.weights[_MARK].shape[::3], released.depth
    name = _NAMES.get((width, depth))
    if name is None and "num_heads" not in args:
        raise InputError(
            f"{released.path}: a ViT of width {width} and depth {depth}; weights do not tell the number of heads: give "
            "args: {num_heads: N}"
        )
    shape = {"img_size": released.side, "patch_size": patch}
    if name is None:
        name, shape = "vit_base_patch16_224", shape | {"embed_dim": width, "depth": depth}
    return EncoderConfig(name=name, args=shape | dict(args))


def load_released(
    path: Path, args: Mapping[str, Any] | None = None
) -> tuple[VisionTransformer, EncoderConfig, Released]:
    """An encoder with released weights, its configuration, and the weights as they were read.

    Raises:
        InputError: see :func:`read_released`, :func:`config_of` and :func:`start_from`.
    """
    released = read_released(path)
    config = config_of(released, args or {})
    vit = build_encoder(config)
    fill(vit, released)
    return vit.eval(), config, released


def start_from(vit: VisionTransformer, path: Path) -> Released:
    """Give an encoder the weights in a file, an export or a run.

    Raises:
        InputError: see :func:`read_released`; or the weights are of another architecture.
    """
    released = read_released(path)
    fill(vit, released)
    return released


def fill(vit: VisionTransformer, released: Released) -> None:
    """Copy weights into an encoder, strictly; positions of another grid are computed anew or resampled by timm.

    Raises:
        InputError: a tensor is missing, has another shape, or is one that the encoder does not have; names it.
    """
    weights = released.weights | {"pos_embed": _positions(vit, released)}
    own = vit.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        shapes = [tuple(state[name].shape) if name in state else "absent" for state in (own, weights)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{released.path}: {name} is {shapes[1]}, the encoder's {shapes[0]}; encoder.name or encoder.args name "
                "another architecture"
            )
    vit.load_state_dict(weights, strict=True)


def _positions(vit: VisionTransformer, released: Released) -> Tensor:
    own, found = position_table(vit), released.weights.get("pos_embed")
    if found is None or found.shape == own.shape:
        return own if found is None else found
    side, grid = math.isqrt(found.shape[1]), vit.patch_embed.grid_size
    prefix = found.shape[1] - side**2
    if found.shape[2] != own.shape[2] or prefix != own.shape[1] - vit.patch_embed.num_patches:
        return found  # another architecture: its shape is told
    return on_grid(found, (side, side), grid, prefix)


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    latest = RunFolder(path).latest()
    folder = latest[0] if latest is not None else path
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"{path}: is neither what rs-pretrain export wrote nor a run; give a file of weights")
    return folder / "model.safetensors"


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, unwrapped."""
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except (
        OSError, SafetensorError, EOFError, RuntimeError, ValueError, LookupError, TypeError, struct.error
    ) as error:  # fmt: skip
        told = "" if isinstance(error, LookupError) else " ".join(str(error).split())[:200]  # a key says nothing
        why = told or "it is no such file, or ends early"
        raise InputError(f"{path}: cannot be read as weights ({why})") from None
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: holds a {type(state).__name__}, no weights")
    return {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _unpickled(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        what = f"wants {wanted.group(1)} while it is loaded" if wanted else "is no plain file of weights"
        raise InputError(
            f"{path}: {what}; only tensors and argparse.Namespace are read, since anything else may run code. Where "
            "you trust it, load it yourself and save its tensors with safetensors"
        ) from None
