"""Pictures of what an encoder makes of images: attention, principal components of its patches, nearest neighbours."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from pretrain.errors import InputError
from pretrain.evaluate.encoders import VitEncoder, from_run
from pretrain.page import embedded, write_page
from pretrain.run import load_run
from pretrain.sheet import Column, heat, sheet, to_pixels
from pretrain.visualise import draw_choices, open_images, write_picture

_HEADS = 4
_NEAREST = 5
_BATCH = 32

WORDS = {
    "reconstruction": "Input; what the encoder saw (seeds, added) and what it was asked for (targets); the targets as "
    "they are; as predicted (with norm_pix a patch borrows its mean and contrast from the input); the error.",
    "richness": "Energy of the histogram of oriented gradients of each patch: what SelectiveMAE prefers.",
    "stages": "Tokens chosen in the middle of each stage of progressive semantic token selection, from the same noise.",
    "attention": "What the class token attends to in the last block: mean of the heads, and single heads; each from "
    "none to the most of its picture.",
    "components": "The first three principal components of all patches' features as red, green and blue: equal colours "
    "are alike to the encoder.",
    "neighbours": "A query and the images that are nearest to it by the cosine of the mean of their patches' features.",
}
"""Kind of picture to what it shows."""


def draw_kinds(
    run: Path, kinds: Sequence[str], count: int, gallery: int, data: Sequence[Path] | None = None,
    files: Sequence[Path] = (),
) -> dict[str, Image.Image]:  # fmt: skip
    """Sheets of a run's newest checkpoint, by kind; ``stages`` are SelectiveMAE's alone.

    Args:
        run: folder of the run.
        kinds: of :data:`WORDS`.
        count: images (rows), taken from the shards.
        gallery: images among which neighbours are looked for.
        data: other shards than those of the training.
        files: image files to draw instead; they are the gallery, too.

    Raises:
        InputError: there is no run, no shards, an image cannot be read, or the run has none of the kinds.
    """
    sheets: dict[str, Image.Image] = {}
    if {"reconstruction", "richness", "stages"} & set(kinds):
        sheets |= draw_choices(run, count, data, files)
    if {"attention", "components", "neighbours"} & set(kinds):
        sheets |= draw_features(run, count, gallery, data, files)
    if chosen := {kind: sheets[kind] for kind in WORDS if kind in kinds and kind in sheets}:
        return chosen
    raise InputError(f"{run}: has no {', '.join(kinds)}; stages are of runs of selective_mae, neighbours of two images")


@torch.no_grad()
def draw_features(
    run: Path, count: int, gallery: int, data: Sequence[Path] | None = None, files: Sequence[Path] = ()
) -> dict[str, Image.Image]:
    """The sheets ``attention``, ``components`` and, of two images or more, ``neighbours``; see :func:`draw_kinds`."""
    model, config, _ = load_run(run)
    encoder = from_run(run, "mean")
    images, gsd, _ = open_images(model, config, max(count, gallery), data, files)
    gsd = torch.where(gsd.isfinite(), gsd * images.shape[2] / encoder.input.size, 1.0)
    shown = _resized(images, encoder.input.size)
    rows = slice(0, None if files else count)
    sheets = {
        "attention": _attention_sheet(encoder, shown[rows], gsd[rows]),
        "components": _components_sheet(shown[rows], encoder.patch_map(shown[rows], gsd[rows])),
    }
    if len(shown) > 1:
        batches = [slice(start, start + _BATCH) for start in range(0, len(shown), _BATCH)]
        features = torch.cat([encoder.features(shown[batch], gsd[batch]) for batch in batches])
        sheets["neighbours"] = _neighbours_sheet(shown, features, rows)
    return sheets


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[2] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True, align_corners=False)


def _attention_sheet(encoder: VitEncoder, images: Tensor, gsd: Tensor) -> Image.Image:
    maps = attention(encoder, images, gsd)
    shown = [("mean of heads", maps.mean(1)), *((f"head {n + 1}", maps[:, n]) for n in range(maps.shape[1]))]
    columns = [
        Column(heat(values, values.amax(dim=(1, 2), keepdim=True), images.shape[2]), title)
        for title, values in shown[: _HEADS + 1]
    ]
    return sheet([Column(to_pixels(images), "input"), *columns])


@torch.no_grad()
def attention(encoder: VitEncoder, images: Tensor, gsd: Tensor) -> Tensor:
    """What the class token attends to in the last block, (B, heads, rows, columns); the rest to prefix tokens."""
    seen: list[Tensor] = []
    last = encoder.vit.blocks[-1].attn
    hook = last.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        grid = encoder.patch_map(images, gsd).shape[2:]
    finally:
        hook.remove()
    weights = _weights(encoder.vit, seen[0])[:, :, encoder.vit.num_prefix_tokens :]
    return weights.reshape(*weights.shape[:2], *grid)


def _weights(vit: VisionTransformer, tokens: Tensor) -> Tensor:
    """Attention of the class token over all tokens: (B, heads, P + N), rows that sum to one."""
    attn = vit.blocks[-1].attn
    parts = attn.qkv(tokens).reshape(*tokens.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key = attn.q_norm(parts[0][:, :, :1]), attn.k_norm(parts[1])
    weights: Tensor = (attn.scale * query @ key.transpose(-2, -1)).softmax(dim=-1)[:, :, 0]
    return weights


def _components_sheet(images: Tensor, maps: Tensor) -> Image.Image:
    shares = components(maps)
    pixels = F.interpolate(shares.mul(255).round().to(torch.uint8), size=images.shape[2:], mode="nearest")
    return sheet([Column(to_pixels(images), "input"), Column(to_pixels(pixels), "principal components")])


def components(maps: Tensor) -> Tensor:
    """First three principal components of patch features (B, D, h, w), each from 0 to 1: (B, 3, h, w).

    One basis for all images. The middle 96 % of a component's values fill its range; a component points to where its
    greatest loading is positive.
    """
    rows = maps.double().permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
    centred = rows - rows.mean(0)
    basis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -3:].flip(1)
    basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
    values = centred @ basis
    low, high = (torch.from_numpy(np.quantile(values.numpy(), share, axis=0)) for share in (0.02, 0.98))
    shares = ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).float()
    return shares.reshape(len(maps), *maps.shape[2:], 3).permute(0, 3, 1, 2)


def _neighbours_sheet(images: Tensor, features: Tensor, rows: slice) -> Image.Image:
    cosine = F.normalize(features, dim=1) @ F.normalize(features, dim=1).T
    found = cosine.fill_diagonal_(-torch.inf)[rows].topk(min(_NEAREST, len(images) - 1), dim=1)
    columns = [
        Column(to_pixels(images[rank]), f"nearest {number}", captions=[f"{value:.3f}" for value in values.tolist()])
        for number, (rank, values) in enumerate(zip(found.indices.T, found.values.T, strict=True), start=1)
    ]
    return sheet([Column(to_pixels(images[rows]), "query"), *columns])


def write_sheets(sheets: dict[str, Image.Image], out: Path, title: str) -> list[Path]:
    """Write ``KIND.png`` each and ``index.html``, which holds all of them.

    Raises:
        InputError: the folder cannot be written.
    """
    shown, paths = [], []
    for kind, picture in sheets.items():
        write_picture(picture, out / f"{kind}.png")
        paths.append(out / f"{kind}.png")
        data = io.BytesIO()
        picture.save(data, format="PNG", optimize=True)
        shown.append({"kind": kind, "words": WORDS[kind], "source": embedded(data.getvalue())})
    write_page(out / "index.html", "pictures.html.j2", title=title, shown=shown)
    return [*paths, out / "index.html"]
