"""The study's arms (what is compared), presets (how large) and protocols (how each is asked)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from pretrain.config import EncoderConfig, TrainConfig
from pretrain.evaluate.finetune import Finetune
from pretrain.evaluate.protocols import AnyProtocol, Knn, LinearProbe

RANDOM = {"seeds": "uniform", "added": "uniform", "targets": "uniform"}


@dataclass(frozen=True)
class Arm:
    """One way to pretrain; without an objective the encoder stays as it was drawn, without settings it is colours."""

    words: str
    objective: dict[str, Any] | None = None
    encoder: dict[str, Any] = field(default_factory=dict)
    """Where the encoder is another than the preset's."""


def selective(words: str, **changes: Any) -> Arm:
    """SelectiveMAE as in the paper, with changes."""
    return Arm(words, {"name": "selective_mae", **changes})


ARMS = {
    "histogram": Arm("colour histogram"),
    "untrained": Arm("untrained"),
    "mae": Arm("MAE, mask 0.75", {"name": "mae"}),
    "selective": selective("SelectiveMAE as in the paper"),
    "selective_plain": selective("SelectiveMAE as in the paper, at the rate of what is not swept"),
    "targets_uniform": selective("the same, targets uniform", targets="uniform"),
    "random": selective("seeds, visible, targets random (CrossMAE at 0.85 / 0.25)", **RANDOM),
    "random_mask75": selective("all random, mask 0.75, targets 0.25", mask_ratio=0.75, **RANDOM),
    "targets_half": selective("as in the paper, half of the targets uniform", targets="half_hog"),
    "seeds_targets_uniform": selective(
        "PSTS from uniform seeds, targets uniform (as the released code runs)", seeds="uniform", targets="uniform"
    ),
    "added_content": selective("as in the paper, similarity of content alone", added="psts_content"),
    "added_uniform": selective("as in the paper, added tokens random", added="uniform"),
    "random_targets50": selective("all random, mask 0.75, targets 0.5", mask_ratio=0.75, target_ratio=0.5, **RANDOM),
    "mae_hog_loss": Arm("MAE, gradients as a second target", {"name": "mae", "hog_weight": 10.0}),
    "scale_mae": Arm(
        "Scale-MAE, 128 px in patches of 16 from 256 px",
        {"name": "scale_mae", "target_size": 256, "fcn_dim": 32, "fcn_layers": 1, "high_band": 8},
        {"img_size": 128, "patch_size": 16},
    ),
    "targets50": selective("as in the paper, targets 0.5", target_ratio=0.5),
    "targets_sample": selective("as in the paper, targets drawn by HOG", targets="hog_sample"),
    "targets_inverse": selective(
        "as in the paper, targets drawn by HOG, weighted by inverse odds",
        targets="hog_sample",
        target_weights="inverse",
    ),
    "late50": selective("as in the paper, the last tenth at mask 0.5", late_mask_ratio=0.5),
    "mixture": selective("as in the paper, the decoder reads mixtures of layers", decoder_reads="mixture"),
    "hog_loss": selective("as in the paper, gradients as a second target", hog_weight=10.0),
    "random_late50": selective("all random, the last tenth at mask 0.5", late_mask_ratio=0.5, **RANDOM),
    "random_mixture": selective("all random, the decoder reads mixtures of layers", decoder_reads="mixture", **RANDOM),
    "random_hog_loss": selective("all random, gradients as a second target", hog_weight=10.0, **RANDOM),
    "random_mixture_hog_loss": selective(
        "all random, mixtures of layers, gradients as a second target",
        decoder_reads="mixture",
        hog_weight=10.0,
        **RANDOM,
    ),
}
"""In the order in which they run: what a table cannot do without comes first."""


@dataclass(frozen=True)
class Preset:
    """How large the study is."""

    words: str
    encoder: dict[str, Any]
    decoder: dict[str, int]
    budgets: dict[str, float]
    """Of each run: ``seconds`` of one CPU core (or of the GPU), ``half`` of them beside MAE's whole, or ``images``."""
    protocols: dict[str, AnyProtocol]
    seeds: tuple[int, ...] = (1, 2, 3)
    sweep_seed: int = 0
    """Measures what a step costs and tries the learning rates; none of its accuracies is reported."""
    rate: float = 5e-4
    """Greatest learning rate of arms that are not swept."""
    rates: tuple[float, ...] = ()
    """Greatest learning rates of which each arm of ``whole`` takes its best by the sweep."""
    sweep_budget: str | None = None
    """Budget of the sweep's runs where it is another than that of the reported ones."""
    whole: tuple[str, ...] = tuple(ARMS)
    """Arms that are swept and asked by all protocols; the others are asked by those of frozen features."""
    batch: int = 16
    resident: bool = False
    """Whether all images lie in the GPU's memory and are cropped there."""
    settings: dict[str, Any] = field(default_factory=dict)

    def asks(self, name: str) -> dict[str, AnyProtocol]:
        """Protocols by which the arm of this name is asked."""
        return {
            protocol: how
            for protocol, how in self.protocols.items()
            if not isinstance(how, Finetune) or (name in self.whole and name != "histogram")
        }

    def encoder_of(self, arm: Arm) -> EncoderConfig:
        """The encoder of an arm."""
        return EncoderConfig(name="vit_tiny_patch16_224", args={**self.encoder, **arm.encoder})


PROBES: dict[str, AnyProtocol] = {"kNN 20": Knn(k=20), "linear": LinearProbe()}
SHORT = Finetune(
    epochs=20, base_lr=4e-3, drop_path=0.0, mixup=0.0, cutmix=0.0, augment=None, vflip=0.5
)  # docs/benchmarks/evaluate.md: what small networks learn more by than by the published recipe

PUBLISHED = (
    "histogram", "untrained", "mae", "selective", "targets_uniform", "seeds_targets_uniform", "random", "random_mask75",
    "random_targets50", "scale_mae", "random_mixture_hog_loss",
)  # fmt: skip
"""What the papers and the release do, what becomes of it without choosing, and the variant that we recommend."""

FULL = Preset(
    words="full size", encoder={"img_size": 112, "patch_size": 8, "depth": 6},
    decoder={"decoder_depth": 4, "decoder_dim": 128, "decoder_heads": 4},
    budgets={"seconds": 2_400, "half": 1_200, "images": 147_000},
    protocols={**PROBES, "fine-tuned": SHORT}, rates=(2.5e-4, 5e-4, 1e-3),
)  # fmt: skip
PRESETS = {
    "full": FULL,
    "pilot": replace(
        FULL, words="pilot", encoder={"img_size": 112, "patch_size": 8, "depth": 4, "embed_dim": 96, "num_heads": 3},
        decoder={"decoder_depth": 2, "decoder_dim": 64, "decoder_heads": 4},
        budgets={"seconds": 150, "half": 75, "images": 20_000}, sweep_budget="half", whole=PUBLISHED, batch=8,
    ),
    "gpu": replace(
        FULL, words="ViT-S on one GPU", encoder={"img_size": 112, "patch_size": 8, "embed_dim": 384, "num_heads": 6},
        decoder={"decoder_depth": 8, "decoder_dim": 256, "decoder_heads": 8},
        budgets={"seconds": 200, "half": 100, "images": 1e6}, rate=6e-4, rates=(), batch=512, resident=True,
        settings={"device": "cuda", "precision": "bf16", "compile": True, "log_every": 100},
    ),
    "smoke": replace(
        FULL, words="a trial of the harness, no measurement",
        encoder={"img_size": 64, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2},
        decoder={"decoder_depth": 1, "decoder_dim": 16, "decoder_heads": 2}, budgets={"seconds": 1, "images": 100},
        protocols=PROBES, seeds=(1, 2), rates=(), batch=4,
    ),
}  # fmt: skip


def train_config(preset: Preset, arm: Arm, shards: str, seed: int, epochs: int, rate: float) -> TrainConfig:
    """What one run computes: the settings of the small configs, of ``epochs`` whole epochs."""
    return TrainConfig.model_validate(
        {
            "seed": seed, "encoder": preset.encoder_of(arm), "epochs": epochs, "global_batch": preset.batch,
            "max_batch_per_gpu": preset.batch, "objective": {**preset.decoder, **(arm.objective or {})},
            "data": {"shards": shards, "augment": {"vflip": 0.5}, "max_upsample": 8, "workers": 0},
            "optim": {"base_lr": rate * 256 / preset.batch, "warmup_epochs": epochs / 10, "clip_grad": 1.0},
            "picture_every": 0, "device": "cpu", "log_every": 20, "keep_checkpoints": 1, "max_nonfinite": 0,
            **preset.settings,
        }
    )  # fmt: skip
