"""Pictures of what an objective sees and makes of it: original, chosen tokens, reconstruction, one row per image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from curation.base.arrays import Bytes
from pretrain.data.augment import CropRule, resize_whole
from pretrain.data.corpus import Corpus, SampleRows, SampleRule, join, open_corpus
from pretrain.data.noise import Purpose, torch_uniform
from pretrain.data.order import epoch_order
from pretrain.data.reader import EVALUATION_FORMATS, ShardReader, decode
from pretrain.errors import InputError, UnreadableImage
from pretrain.models import Objective, Output, SelectiveMAE
from pretrain.models.encoder import encode
from pretrain.run import load_run, writing

Colour = tuple[int, int, int]

SEED, ADDED, TARGET = (255, 176, 0), (64, 156, 255), (57, 211, 83)
_CELL, _GAP, _HEAD = 192, 6, 20
_LEGEND = "legend"
_CANDIDATES = 3


@torch.no_grad()
def draw(model: Objective, images: Tensor, gsd: Tensor, noise: Tensor, progress: Tensor) -> Image.Image:
    """Run the objective on some images and draw one row for each.

    Args:
        model: the objective; its mode (training or not) is kept.
        images: uint8 (B, 3, S, S).
        gsd: (B,) metres per pixel.
        noise: (B, n) uniform.
        progress: 0-d, share of training done.
    """
    training = model.training
    model.eval()
    output = model(images, gsd, noise, progress)
    rebuilt = model.reconstruct(images, output)
    model.train(training)
    columns = [("original", images), (_LEGEND, mark(images, output, model.grid[0], getattr(model, "seeds", 0)))]
    if isinstance(model, SelectiveMAE):
        columns += [("targets rebuilt", rebuilt), ("all unseen rebuilt", complete(model, images, output))]
    else:
        columns += [("reconstruction", rebuilt)]
    return _sheet([(title, _to_pixels(column)) for title, column in columns], _legend(getattr(model, "seeds", 0)))


@torch.no_grad()
def complete(model: SelectiveMAE, images: Tensor, output: Output) -> Tensor:
    """Rebuild every patch that was not seen, chosen as a target or not: the decoder can be asked for any position."""
    seen = torch.zeros(images.shape[0], model.num_patches, device=images.device).scatter(1, output.visible_ids, 1.0)
    unseen = seen.argsort(dim=1, stable=True)[:, : model.num_patches - output.visible_ids.shape[1]]
    latent = encode(model.encoder, model.embed(model.patchify(images), output.visible_ids))
    answer = output._replace(prediction=model.decoder(latent, unseen), target_ids=unseen)
    return model.reconstruct(images, answer)


def mark(images: Tensor, output: Output, grid: int, seeds: int) -> Tensor:
    """The images with chosen patches framed by their role and the others darkened: uint8 (B, 3, S, S)."""
    marked = (images.float() * 0.3).to(torch.uint8)
    patch = images.shape[2] // grid
    width = max(1, patch // 8)
    visible = output.visible_ids.tolist()
    for row, targets in enumerate(output.target_ids.tolist()):
        roles = [(ids, colour) for ids, colour in (
            (targets, TARGET), (visible[row][:seeds], SEED), (visible[row][seeds:], ADDED)
        )]  # fmt: skip
        for ids, colour in roles:
            for index in ids:
                top, left = index // grid * patch, index % grid * patch
                place = (row, slice(None), slice(top, top + patch), slice(left, left + patch))
                shown = images[place] if colour != TARGET else marked[place]
                marked[place] = _frame(shown, colour, width)
    return marked


def _frame(patch: Tensor, colour: Colour, width: int) -> Tensor:
    framed = torch.tensor(colour, dtype=torch.uint8, device=patch.device)[:, None, None].expand_as(patch).clone()
    framed[:, width:-width, width:-width] = patch[:, width:-width, width:-width]
    return framed


def _to_pixels(images: Tensor) -> Bytes:
    pixels: Bytes = images.permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def _legend(seeds: int) -> list[tuple[str, Colour]]:
    visible = [("seeds", SEED), ("added", ADDED)] if seeds else [("visible", ADDED)]
    return [*visible, ("targets", TARGET)]


def _sheet(columns: list[tuple[str, Bytes]], legend: list[tuple[str, Colour]]) -> Image.Image:
    step, rows = _CELL + _GAP, len(columns[0][1])
    sheet = Image.new("RGB", (len(columns) * step + _GAP, rows * step + _GAP + _HEAD), "white")
    pen = ImageDraw.Draw(sheet)
    for x, (title, column) in enumerate(columns):
        left = _GAP + x * step
        if title == _LEGEND:
            _draw_legend(pen, left, legend)
        else:
            pen.text((left, 6), title, fill="black")
        for y, pixels in enumerate(column):
            cell = Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.NEAREST)
            sheet.paste(cell, (left, _HEAD + _GAP + y * step))
    return sheet


def _draw_legend(pen: ImageDraw.ImageDraw, left: int, legend: list[tuple[str, Colour]]) -> None:
    for name, colour in legend:
        pen.rectangle((left, 8, left + 8, 16), fill=colour)
        pen.text((left + 11, 6), name, fill="black")
        left += 20 + int(pen.textlength(name))


def draw_run(run: Path, count: int, data: Sequence[Path] | None = None, files: Sequence[Path] = ()) -> Image.Image:
    """Draw what a run's newest checkpoint makes of some images.

    Args:
        run: folder of the run.
        count: images taken from the shards, by a fixed permutation.
        data: other shards than those of the training.
        files: image files to draw instead.

    Raises:
        InputError: there is no run, no shards, or an image cannot be read.
    """
    model, config, state = load_run(run)
    if files:
        images = torch.stack([_read_file(path, model.crop_size) for path in files])
        sample_id, gsd = torch.arange(len(files)), torch.ones(len(files))
    else:
        rule = SampleRule(1, model.uses_gsd, "drop" if model.uses_gsd else "refuse")
        images, gsd, sample_id = _sample(open_corpus(data or config.data.folders, rule), count, model.crop_size)
    noise = torch_uniform(config.seed, Purpose.MASK, torch.zeros_like(sample_id), sample_id, model.noise_size)
    return draw(model, images, gsd, noise, torch.tensor(state.step / state.total_steps))


def _read_file(path: Path, size: int) -> Tensor:
    try:
        return resize_whole(decode(path.read_bytes(), EVALUATION_FORMATS), size)
    except (OSError, UnreadableImage) as error:
        raise InputError(f"{path}: {error}") from None


def _sample(corpus: Corpus, count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, S, S), GSD (B,) and ids (B,) of a fixed choice; unreadable samples are passed over.

    Of each three candidates the one with the most contrast is taken: open water shows nothing.
    """
    readable = _readable(corpus, size)
    chosen = []
    for _ in range(count):
        if candidates := list(islice(readable, _CANDIDATES)):
            chosen.append(max(candidates, key=lambda candidate: float(candidate[0].float().std())))
    if not chosen:
        raise InputError(f"{corpus.paths[0].parent}: no image in it can be read; rs-curate verify says why")
    images, gsd, ids = zip(*chosen, strict=True)
    return torch.stack(images), torch.tensor(gsd), torch.tensor(ids)


def _readable(corpus: Corpus, size: int) -> Iterator[tuple[Tensor, float, int]]:
    reader = ShardReader(corpus.paths, CropRule(size, (1.0, 1.0), (1.0, 1.0), 1e9))
    for row in _in_order(corpus):
        try:
            rgb = decode(reader.read(int(row.shard), int(row.offset), int(row.size)))
        except UnreadableImage:
            continue
        yield resize_whole(rgb, size), float(row.gsd_m) * min(rgb.shape[:2]) / size, int(row.sample_id)


def _in_order(corpus: Corpus) -> Iterator[SampleRows]:
    """Single samples in a fixed, mixed order, a few shards at a time."""
    for window in epoch_order(corpus.sizes, 0, 0, window=4):
        rows = join([corpus.rows(int(shard)) for shard in window.shards])
        yield from (rows.at(index) for index in window.permutation)


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture atomically; the format follows the file name's ending."""
    with writing(path) as aside:
        picture.save(aside, format="JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG")
