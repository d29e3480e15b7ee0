"""Frozen encoders behind one interface: what turns images into features, and a name for exactly what it is.

``open_encoder`` takes what a person types: ``run:DIR``, ``run:DIR@STEP``, ``export:DIR``, ``untrained:DIR``,
``official:FILE``, ``timm:NAME``, ``random:NAME``, ``histogram``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import timm
import torch
from pydantic import model_validator
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from curation.base.files import digest
from curation.base.settings import Strict
from pretrain.config import EncoderConfig
from pretrain.errors import InputError
from pretrain.export import card_of, load_export
from pretrain.model_card import Card
from pretrain.models.encoder import build_encoder, encode, patch_positions
from pretrain.models.objective import IMAGENET_MEAN, IMAGENET_STD
from pretrain.models.positions import gsd_sincos_2d, on_grid
from pretrain.official import load_released
from pretrain.run import load_run

Pool = Literal["token", "mean", "both"]
"""Class token, mean of the patch tokens, or one beside the other."""

_BINS = 8


class Input(NamedTuple):
    """What an encoder takes."""

    size: int
    """Side of the square images in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of RGB in 0 to 1."""
    patch: int = 1
    """Sides must be multiples of it."""


class FrozenEncoder(Protocol):
    """Anything that turns images into features; a protocol, hence without bodies."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def input(self) -> Input:
        """What it takes."""

    @property
    def in_words(self) -> str:
        """What is taken of it, for people."""

    @property
    def identity(self) -> str:
        """Hash of all that decides the features: architecture, weights, pooling."""

    def features(self, images: Tensor, gsd: Tensor) -> Tensor:
        """Features (B, D) of uint8 images (B, 3, H, W), given the metres per pixel (B,) of these images."""

    def to(self, device: torch.device) -> FrozenEncoder:
        """The same on a device."""


class EncoderSpec(Strict):
    """An encoder by name."""

    spec: str
    """``run:DIR[@STEP]``, ``export:DIR``, ``untrained:DIR`` or ``untrained:NAME``, ``official:FILE`` (MAE,
    SelectiveMAE, Scale-MAE, any ViT with timm's names), ``timm:NAME`` (weights from the Hub), ``random:NAME`` (timm's
    own start), ``histogram``."""
    args: dict[str, Any] = {}
    """Further keyword arguments of ``timm.create_model``, for names and released weights."""
    mean: tuple[float, float, float] | None = None
    """Of RGB in 0 to 1, where the encoder was trained with other statistics than its kind's."""
    std: tuple[float, float, float] | None = None

    seed: int = 0
    """Of random weights."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"spec": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class VitEncoder:
    """A plain timm ViT: any size that is a multiple of its patch, positions in metres where it was trained so."""

    name: str
    vit: VisionTransformer
    input: Input
    config: EncoderConfig
    pool: Pool = "mean"
    gsd_aware: bool = False

    @property
    def identity(self) -> str:
        """Hash of architecture, weights, pooling and kind of positions."""
        return digest([self.config.model_dump(), weights_hash(self.vit), self.pool, self.gsd_aware, self.input])

    @property
    def in_words(self) -> str:
        """What is computed, for people."""
        pooled = {"token": "class token", "mean": "mean of patch tokens", "both": "class token and mean"}[self.pool]
        return pooled + (", positions in metres" if self.gsd_aware else "")

    def to(self, device: torch.device) -> VitEncoder:
        """The same on a device, ready to evaluate."""
        return replace(self, vit=self.vit.to(device).eval())

    def features(self, images: Tensor, gsd: Tensor) -> Tensor:
        """(B, D), or (B, 2D) for both, float32; ``images`` may have any size that is a multiple of the patch."""
        x, _ = self._encoded(images, gsd)
        mean = x[:, self.vit.num_prefix_tokens :].mean(1)
        pooled = {"token": [x[:, 0]], "mean": [mean], "both": [x[:, 0], mean]}[self.pool]
        return torch.cat([self.vit.fc_norm(part) for part in pooled], dim=1).float()

    def patch_map(self, images: Tensor, gsd: Tensor) -> Tensor:
        """Features of the patches where they lie: (B, D, rows, columns)."""
        x, grid = self._encoded(images, gsd)
        return x[:, self.vit.num_prefix_tokens :].transpose(1, 2).reshape(len(x), -1, *grid)

    def _encoded(self, images: Tensor, gsd: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """All tokens (B, P + N, D) after the final norm, and the grid of the last N."""
        cut = self.vit.patch_embed.proj(normalised(images, self.input))
        grid = (cut.shape[2], cut.shape[3])
        tokens = self.vit.patch_embed.norm(cut.flatten(2).transpose(1, 2))
        return encode(self.vit, tokens + self.positions(grid, gsd)), grid

    def positions(self, grid: tuple[int, int], gsd: Tensor) -> Tensor:
        """Positions (B or 1, N, D) of a grid, in metres for an encoder that was trained so."""
        table, native = patch_positions(self.vit), self.vit.patch_embed.grid_size
        if self.gsd_aware:
            return gsd_sincos_2d(grid, table.shape[1], gsd)
        return on_grid(table[None], native, grid)


@dataclass(frozen=True)
class TimmEncoder:
    """Any other timm model, pooled as timm pools it."""

    name: str
    model: nn.Module
    input: Input
    config: EncoderConfig
    in_words: str = "pooled as timm does"

    @property
    def identity(self) -> str:
        """Hash of architecture and weights."""
        return digest([self.config.model_dump(), weights_hash(self.model), self.input])

    def to(self, device: torch.device) -> TimmEncoder:
        """The same on a device, ready to evaluate."""
        return replace(self, model=self.model.to(device).eval())

    def features(self, images: Tensor, gsd: Tensor) -> Tensor:
        """(B, D) float32."""
        pooled: Tensor = self.model(normalised(images, self.input)).float()
        return pooled


@dataclass(frozen=True)
class ColourHistogram:
    """Square roots of a joint RGB histogram of 8 x 8 x 8 bins: cosine is then the Bhattacharyya coefficient.

    It learned nothing and knows colour alone: the yardstick for everything that did learn.
    """

    input: Input
    name: str = "colour histogram"
    identity: str = "histogram-8x8x8-sqrt"
    in_words: str = "8 x 8 x 8 colours, square roots"

    def to(self, device: torch.device) -> ColourHistogram:
        """The same."""
        return self

    def features(self, images: Tensor, gsd: Tensor) -> Tensor:
        """(B, 512) float32."""
        red, green, blue = (images.flatten(2) // (256 // _BINS)).to(torch.int16).unbind(1)
        colours = (red * _BINS + green) * _BINS + blue
        counts = torch.stack([torch.bincount(image, minlength=_BINS**3) for image in colours])
        return (counts / colours.shape[1]).sqrt()


def normalised(images: Tensor, how: Input) -> Tensor:
    """Uint8 images to float32 by the encoder's statistics."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (how.mean, how.std))
    return (images.float() / 255 - mean) / std


def weights_hash(model: nn.Module) -> str:
    """BLAKE2b of all names, shapes and values."""
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        state.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy() if tensor.dim() else b"")
    return state.hexdigest()


def open_encoder(spec: EncoderSpec, pool: Pool = "mean") -> FrozenEncoder:
    """Open an encoder by name.

    Raises:
        InputError: nobody has such a name, or what it names cannot be loaded.
    """
    kind, _, rest = spec.spec.partition(":")
    if kind not in _KINDS or bool(rest) == (kind == "histogram"):
        raise InputError(f"{spec.spec}: no such encoder; give one of {', '.join(sorted(_KINDS))}, as run:DIR")
    opened = _KINDS[kind](rest, spec, pool)
    _refuse_unused(kind, spec, opened)
    if spec.mean is None and spec.std is None:
        return opened
    assert not isinstance(opened, ColourHistogram)
    how = opened.input._replace(mean=spec.mean or opened.input.mean, std=spec.std or opened.input.std)
    return replace(opened, input=how)


def _refuse_unused(kind: str, spec: EncoderSpec, opened: FrozenEncoder) -> None:
    """Refuse fields that would change nothing: the table would name an encoder that was not asked."""
    fixed = kind in ("run", "export", "histogram") or (
        kind == "untrained" and Path(spec.spec.partition(":")[2]).is_dir()
    )
    if fixed and spec.args:
        raise InputError(f"{spec.spec}: takes no args ({', '.join(spec.args)}); its architecture is its own")
    if isinstance(opened, ColourHistogram) and (spec.mean or spec.std):
        raise InputError(f"{spec.spec}: takes no mean and std; colours are counted as they are")


def from_run(path: Path, pool: Pool, step: int | None = None) -> VitEncoder:
    """The encoder of a run's checkpoint, by default the newest."""
    model, config, state = load_run(path, step)
    return from_card(f"{path.name}, step {state.step}", model.encoder, card_of(model, config, state), pool)


def from_card(name: str, vit: VisionTransformer, card: Card, pool: Pool) -> VitEncoder:
    """An encoder of this project."""
    shape = Input(card.input_size, tuple(card.mean), tuple(card.std), vit.patch_embed.patch_size[0])
    return VitEncoder(name, vit, shape, card.encoder, pool, gsd_aware=card.objective == "scale_mae")


def untrained(of: VitEncoder, seed: int) -> VitEncoder:
    """An encoder of the same architecture as it is before training."""
    torch.manual_seed(seed)
    return replace(of, name=f"untrained {of.config.name}", vit=build_encoder(of.config).eval())


def _run(rest: str, spec: EncoderSpec, pool: Pool) -> VitEncoder:
    folder, at, step = rest.rpartition("@")
    if not at or not step.isdigit():
        return from_run(Path(rest), pool)
    return from_run(Path(folder), pool, int(step))


def _export(rest: str, spec: EncoderSpec, pool: Pool) -> VitEncoder:
    return from_card(Path(rest).name, *load_export(Path(rest)), pool)


def _untrained(rest: str, spec: EncoderSpec, pool: Pool) -> VitEncoder:
    if Path(rest).is_dir():
        kind = _export if (Path(rest) / "card.json").is_file() else _run
        return untrained(kind(rest, spec, pool), spec.seed)
    torch.manual_seed(spec.seed)
    config = EncoderConfig(name=rest, args=spec.args)
    return _vit(f"untrained {rest}", build_encoder(config).eval(), config, pool)


def _official(rest: str, spec: EncoderSpec, pool: Pool) -> VitEncoder:
    vit, config, released = load_released(Path(rest), spec.args)
    shape = Input(vit.patch_embed.img_size[0], IMAGENET_MEAN, IMAGENET_STD, vit.patch_embed.patch_size[0])
    return VitEncoder(Path(rest).stem, vit, shape, config, pool, released.gsd_aware)


def _vit(name: str, vit: VisionTransformer, config: EncoderConfig, pool: Pool) -> VitEncoder:
    patch = vit.patch_embed  # timm's own configuration does not follow img_size
    return VitEncoder(
        name, vit, input_of(vit)._replace(size=patch.img_size[0], patch=patch.patch_size[0]), config, pool
    )


def input_of(model: nn.Module) -> Input:
    """What a timm model takes, by its own configuration."""
    about = resolve_model_data_config(model)
    return Input(about["input_size"][1], about["mean"], about["std"])


def from_timm(name: str, spec: EncoderSpec, pool: Pool, *, pretrained: bool) -> VitEncoder | TimmEncoder:
    """A timm model, with weights from the Hub or as timm starts it.

    Raises:
        InputError: timm does not know the name or an argument, or cannot fetch the weights.
    """
    if not timm.is_model(name):
        raise InputError(f"{spec.spec}: timm has no model {name!r}; see timm.list_models()")
    torch.manual_seed(spec.seed)
    try:
        model = timm.create_model(name, pretrained=pretrained, **{"num_classes": 0, **spec.args}).eval()
    except (TypeError, AssertionError, ValueError, RuntimeError, OSError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{spec.spec}: timm cannot make it ({why}); random:{name} needs no weights") from None
    config = EncoderConfig(name=name, args=spec.args)
    label = name if pretrained else f"random {name}"
    plain = type(model) is VisionTransformer and model.cls_token is not None and model.pos_embed is not None
    if plain and model.attn_pool is None:
        return _vit(label, model, config, pool)
    return TimmEncoder(label, model, input_of(model), config)


_KINDS: dict[str, Callable[[str, EncoderSpec, Pool], VitEncoder | TimmEncoder | ColourHistogram]] = {
    "run": _run,
    "export": _export,
    "untrained": _untrained,
    "official": _official,
    "timm": lambda rest, spec, pool: from_timm(rest, spec, pool, pretrained=True),
    "random": lambda rest, spec, pool: from_timm(rest, spec, pool, pretrained=False),
    "histogram": lambda rest, spec, pool: ColourHistogram(Input(256, (0.0,) * 3, (1.0,) * 3)),
}
