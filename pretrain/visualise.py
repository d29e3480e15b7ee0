"""Pictures of what an objective sees and makes of it, one row per image: reconstructions, richness, stages of PSTS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pretrain.config import TrainConfig
from pretrain.data.augment import CropRule, resize_whole
from pretrain.data.corpus import Corpus, SampleRows, SampleRule, join, open_corpus
from pretrain.data.noise import Purpose, torch_uniform
from pretrain.data.order import epoch_order
from pretrain.data.places import access_of
from pretrain.data.reader import EVALUATION_FORMATS, ShardReader, decode
from pretrain.data.supply import supplied
from pretrain.errors import InputError, UnreadableImage
from pretrain.models import Objective, Output, SelectiveMAE
from pretrain.models.encoder import encode
from pretrain.models.hog import richness
from pretrain.models.selection import mark as marked_ids
from pretrain.run import load_run, writing
from pretrain.sheet import Colour, Column, heat, sheet, to_pixels

SEED, ADDED, TARGET = (255, 176, 0), (64, 156, 255), (57, 211, 83)
_CANDIDATES = 3
_WORST = 128
"""Mean error over the colours that is drawn brightest, of 255."""


def draw(model: Objective, images: Tensor, gsd: Tensor, noise: Tensor, progress: Tensor) -> Image.Image:
    """Run the objective on some images and draw one row for each; arguments as :func:`draw_columns`."""
    return sheet(draw_columns(model, images, gsd, noise, progress))


@torch.no_grad()
def draw_columns(model: Objective, images: Tensor, gsd: Tensor, noise: Tensor, progress: Tensor) -> list[Column]:
    """Run the objective on some images: the columns of a sheet, with a picture of S x S pixels for each image.

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
    seeds, size = getattr(model, "seeds", 0), images.shape[2]
    targets = _spread(marked_ids(output.target_ids, model.num_patches), model.grid, size)
    error = (rebuilt.float() - images.float()).abs().mean(dim=1) * targets
    columns = [
        Column(to_pixels(images), "input"),
        Column(to_pixels(mark(images, output, model.grid[0], seeds)), legend=_legend(seeds)),
        Column(to_pixels(torch.where(targets[:, None] > 0, images, 128)), "targets"),
        Column(to_pixels(rebuilt), "prediction"),
        Column(heat(error, _WORST, size), f"error, 0 to {_WORST} of 255"),
    ]
    if isinstance(model, SelectiveMAE):
        columns.append(Column(to_pixels(complete(model, images, output)), "all unseen rebuilt"))
    return columns


def _spread(patches: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """A number per patch (B, N) as float pixels (B, size, size)."""
    return F.interpolate(patches.float().view(-1, 1, *grid), size=(size, size), mode="nearest")[:, 0]


@torch.no_grad()
def draw_richness(model: Objective, images: Tensor) -> Image.Image:
    """Each patch's HOG energy, from none to the most of its image: what SelectiveMAE chooses seeds and targets by."""
    size = images.shape[2]
    energy = richness(images, size // model.grid[0]).view(-1, *model.grid)
    shown = heat(energy, energy.amax(dim=(1, 2), keepdim=True), size)
    over = (0.5 * to_pixels(images) + 0.5 * shown).round().astype("uint8")
    return sheet(
        [Column(to_pixels(images), "input"), Column(shown, "HOG energy, none to most"), Column(over, "upon the image")]
    )


@torch.no_grad()
def draw_stages(model: SelectiveMAE, images: Tensor, gsd: Tensor, noise: Tensor) -> Image.Image:
    """The tokens that are chosen in the middle of each stage of PSTS, from the same noise."""
    near, far, far_ends, random = model.config.borders
    middles = {"near": near / 2, "far": (far + far_ends) / 2, "random": (random + 1) / 2}
    columns = [Column(to_pixels(images), "input", _legend(model.seeds))]
    for stage, progress in middles.items():
        output = model(images, gsd, noise, torch.tensor(progress))
        shown = mark(images, output, model.grid[0], model.seeds)
        columns.append(Column(to_pixels(shown), f"{stage}: {progress:.0%} of training"))
    return sheet(columns)


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


def _legend(seeds: int) -> list[tuple[str, Colour]]:
    visible = [("seeds", SEED), ("added", ADDED)] if seeds else [("visible", ADDED)]
    return [*visible, ("targets", TARGET)]


def draw_run(run: Path, count: int, data: Sequence[Path] | None = None, files: Sequence[Path] = ()) -> Image.Image:
    """Draw what a run's newest checkpoint makes of some images; see :func:`open_images`.

    Raises:
        InputError: there is no run, no shards, or an image cannot be read.
    """
    model, config, state = load_run(run)
    images, gsd, noise = open_images(model, config, count, data, files)
    return draw(model, images, gsd, noise, torch.tensor(state.step / state.total_steps))


def draw_choices(
    run: Path, count: int, data: Sequence[Path] | None = None, files: Sequence[Path] = ()
) -> dict[str, Image.Image]:
    """The sheets ``reconstruction``, ``richness`` and, of SelectiveMAE, ``stages``; arguments as :func:`draw_run`."""
    model, config, state = load_run(run)
    images, gsd, noise = open_images(model, config, count, data, files)
    sheets = {
        "reconstruction": draw(model, images, gsd, noise, torch.tensor(state.step / state.total_steps)),
        "richness": draw_richness(model, images),
    }
    if isinstance(model, SelectiveMAE):
        sheets["stages"] = draw_stages(model, images, gsd, noise)
    return sheets


def open_images(
    model: Objective, config: TrainConfig, count: int, data: Sequence[Path] | None, files: Sequence[Path]
) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, S, S), their GSD (B,) and their noise (B, n).

    Args:
        model: what the images are for.
        config: of its run.
        count: images taken from the shards, by a fixed permutation.
        data: other shards than those of the training.
        files: image files to draw instead.

    Raises:
        InputError: there are no shards, or an image cannot be read.
    """
    if files:
        images = torch.stack([read_file(path, model.crop_size) for path in files])
        sample_id, gsd = torch.arange(len(files)), torch.ones(len(files))
    else:
        rule = SampleRule(1, model.uses_gsd, "drop" if model.uses_gsd else "refuse")
        images, gsd, sample_id = sample(
            open_corpus(data or config.data.folders, rule, access_of(config.data)), count, model.crop_size
        )
    return (
        images,
        gsd,
        torch_uniform(config.seed, Purpose.MASK, torch.zeros_like(sample_id), sample_id, model.noise_size),
    )


def read_file(path: Path, size: int) -> Tensor:
    """The central square of an image file, uint8 (3, size, size).

    Raises:
        InputError: it cannot be read.
    """
    try:
        return resize_whole(decode(path.read_bytes(), EVALUATION_FORMATS), size)
    except (OSError, UnreadableImage) as error:
        raise InputError(f"{path}: {error}") from None


def sample(corpus: Corpus, count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, S, S), GSD (B,) and ids (B,) of a fixed choice; unreadable samples are passed over.

    Of each three candidates the one with the most contrast is taken: open water shows nothing.
    """
    readable = _readable(corpus, size)
    chosen = []
    for _ in range(count):
        if candidates := list(islice(readable, _CANDIDATES)):
            chosen.append(max(candidates, key=lambda candidate: float(candidate[0].float().std())))
    if not chosen:
        raise InputError(f"{next(iter(corpus.folders))}: no image in it can be read; rs-curate verify says why")
    images, gsd, ids = zip(*chosen, strict=True)
    return torch.stack(images), torch.tensor(gsd), torch.tensor(ids)


def _readable(corpus: Corpus, size: int) -> Iterator[tuple[Tensor, float, int]]:
    reader = ShardReader(corpus.paths, CropRule(size, (1.0, 1.0), (1.0, 1.0), 1e9), corpus.names)
    for row in _in_order(corpus):
        try:
            rgb = decode(reader.read(int(row.shard), int(row.offset), int(row.size)))
        except UnreadableImage:
            continue
        yield resize_whole(rgb, size), float(row.gsd_m) * min(rgb.shape[:2]) / size, int(row.sample_id)


def _in_order(corpus: Corpus) -> Iterator[SampleRows]:
    """Single samples in a fixed, mixed order, a few shards at a time."""
    with supplied(corpus) as supply:
        for window in epoch_order(corpus.sizes, 0, 0, window=4):
            supply.enter("pictures", window.shards.tolist(), [])
            rows = join([corpus.rows(int(shard)) for shard in window.shards])
            yield from (rows.at(index) for index in window.permutation)


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture atomically; the format follows the file name's ending."""
    with writing(path) as aside:
        picture.save(aside, format="JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG")
