"""One configuration of a training run: strict, one YAML per published experiment in ``pretrain/configs/``.

The command line, Python and the checkpoint share these models. What an objective computes is in
:mod:`pretrain.models`; here are only its numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from curation.base.settings import Strict


class EncoderConfig(Strict):
    """The timm VisionTransformer that is pretrained."""

    name: str = "vit_base_patch16_224"
    """A timm model name; made with ``num_classes=0, global_pool='token', fc_norm=False, pretrained=False``."""
    args: dict[str, Any] = {}
    """Further keyword arguments of ``timm.create_model``: ``img_size``, ``patch_size``, ``depth``, ..."""


class _Objective(Strict):
    """What all objectives share."""

    mask_ratio: float = Field(0.75, gt=0, lt=1)
    decoder_depth: int = Field(8, ge=1)
    decoder_dim: int = Field(512, ge=8, multiple_of=4)
    """A multiple of 4, as sin-cos tables are."""
    decoder_heads: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> _Objective:
        if self.decoder_dim % self.decoder_heads:
            raise ValueError(f"decoder_heads {self.decoder_heads} must divide decoder_dim {self.decoder_dim}")
        return self


class _RebuiltPatches(_Objective):
    """What the objectives share that rebuild hidden patches."""

    norm_pix: bool = True
    """Whether each target patch is normalised by its own mean and deviation."""
    hog_weight: float = Field(0.0, ge=0)
    """Weight of a second loss beside the pixels': each target patch's histograms of oriented gradients, every cell
    normalised (MaskFeat, Wei et al. 2022, section 3.2). Not in the paper."""


class MaeObjective(_RebuiltPatches):
    """Masked autoencoder (He et al. 2022): the baseline."""

    name: Literal["mae"]


Selection = Literal["hog_sample", "hog_topk", "half_hog", "uniform"]


class SelectiveMaeObjective(_RebuiltPatches):
    """SelectiveMAE: 15 % visible, 25 % reconstructed, both chosen."""

    name: Literal["selective_mae"]
    mask_ratio: float = Field(0.85, gt=0, lt=1)
    target_ratio: float = Field(0.25, gt=0, lt=1)
    decoder_depth: int = Field(12, ge=1)
    decoder_reads: Literal["last", "mixture"] = "last"
    """What the decoder attends to: the encoder's output, or for each of its blocks a learned mixture of the outputs of
    all encoder blocks and of what goes into the first (CrossMAE, section 3.3). Not in the paper."""
    seeds: Selection = "hog_sample"
    added: Literal["psts", "psts_content", "uniform"] = "psts"
    """How the visible tokens beside the seeds are chosen: by similarity of embedding and position (the paper), by
    similarity of the embedding alone, or at random. With everything ``uniform`` this is CrossMAE."""
    targets: Selection = "hog_topk"
    """``half_hog``: the richest patches for one half, the other half at random among the rest."""
    target_weights: Literal["equal", "inverse"] = "equal"
    """How the targets' errors are averaged: ``inverse`` weighs each by one over the odds of its being drawn, so that
    the loss estimates that over all masked patches. For ``targets: hog_sample``. Not in the paper."""
    temperature: float = Field(1.0, gt=0)
    borders: tuple[float, float, float, float] = (0.35, 0.375, 0.725, 0.75)
    """Shares of training where near ends, far begins, far ends, random begins."""
    late_mask_ratio: float | None = Field(None, gt=0, lt=1)
    """Mask ratio at the end of training: more tokens are seen then, as when features are made. Not in the paper."""
    late_share: float = Field(0.1, gt=0, lt=1)
    """Share of training that is the end, where ``late_mask_ratio`` is set."""

    @model_validator(mode="after")
    def _counts(self) -> SelectiveMaeObjective:
        if self.target_ratio > self.mask_ratio:
            raise ValueError(
                f"target_ratio {self.target_ratio} exceeds mask_ratio {self.mask_ratio}: targets are masked patches"
            )
        if self.target_weights == "inverse" and self.targets != "hog_sample":
            raise ValueError(f"target_weights inverse needs targets that are drawn: hog_sample, not {self.targets}")
        if list(self.borders) != sorted(self.borders) or not 0 <= self.borders[0] <= self.borders[-1] <= 1:
            raise ValueError("borders must ascend within 0 and 1")
        return self


class ScaleMaeObjective(_Objective):
    """Scale-MAE: positions scaled by GSD, Laplacian band-pass decoder."""

    name: Literal["scale_mae"]
    decoder_depth: int = Field(3, ge=1)
    target_size: int = Field(448, ge=32)
    fcn_dim: int = Field(512, ge=8, multiple_of=4)
    fcn_layers: int = Field(2, ge=1)
    high_band: int = Field(14, ge=1)
    """Side to which the image is reduced before it is taken away from itself; the released training script has 7."""
    low_loss: Literal["l1", "l2"] = "l2"
    high_loss: Literal["l1", "l2"] = "l1"
    """The released training script has l2 for both."""

    @model_validator(mode="after")
    def _band_is_coarser(self) -> ScaleMaeObjective:
        if self.high_band >= self.target_size:
            raise ValueError(f"high_band {self.high_band} must be less than target_size {self.target_size}")
        return self


ObjectiveConfig = Annotated[MaeObjective | SelectiveMaeObjective | ScaleMaeObjective, Field(discriminator="name")]


Ratio = Annotated[float, Field(ge=0, le=1)]

Place = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
"""A folder of this machine, or the URL of one elsewhere."""


class AugmentConfig(Strict):
    """How samples are mirrored and turned, on the device."""

    hflip: Ratio = 0.5
    """Share of the samples that are mirrored left to right."""
    vflip: Ratio = 0.0
    """Share of the samples that are mirrored top to bottom."""
    quarter_turns: Ratio = 0.0
    """Share of the samples that are turned by 90, 180 or 270 degrees; 0.75 makes all four orientations equally
    frequent."""


class DataConfig(Strict):
    """Where samples come from, and how they are cropped."""

    shards: Place | list[Place]
    """Folder of shards with its ``index.parquet``, or several: here, or at ``s3://``, ``hf://`` or ``https://``."""
    cache: Path | None = None
    """Folder on a disk of this machine for shards that come from elsewhere; runs and processes share it."""
    cache_gigabytes: float = Field(100, gt=0)
    """What the cache may hold, in 10^9 bytes."""
    missing_shard: Literal["stop", "skip"] = "stop"
    """What becomes of a shard that cannot be had for ``retry_seconds``: the run stops with its name, or its samples
    stay with weight 0 and count as unreadable."""
    mix: list[Annotated[int, Field(ge=1, le=1_000_000)]] = []
    """Weights of the folders, whole numbers in their order: so many of every ``sum(mix)`` samples come from each, and a
    sample comes again only after all others of its folder. Without it each epoch has every sample once."""
    window: int = Field(8, ge=1)
    """Shards whose samples are mixed with each other; so many are open at a time."""
    groups: int = Field(1, ge=1)
    """Equal parts to which each epoch's shards are dealt; every global batch takes an equal part of each. With one
    group per node a node reads only its part. Part of the order, so it does not follow the number of nodes."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Least and greatest share of the image's area that a random crop covers."""
    max_upsample: float = Field(4.0, ge=1)
    """Crops are never enlarged by more; images too small for it are left out at the start."""
    crops_per_image: int = Field(1, ge=1)
    """Crops of each decoded image, all in one batch (repeated augmentation, Hoffer et al. 2020): a batch of G rows has
    G / K images, and an epoch, which shows every image once, K times the steps."""
    decode: Literal["exact", "fast", "gpu"] = "exact"
    """``exact``: JPEGs have the pixels that Pillow gives; ``fast``: they are decoded at a half, a quarter or an eighth
    of their sides where the crop is reduced by as much, and colours are not interpolated; ``gpu``: workers hand them
    over as they are, and the GPU decodes, crops and resizes them."""
    augment: AugmentConfig = AugmentConfig()
    gsd_missing: Literal["refuse", "drop"] | dict[str, Annotated[float, Field(gt=0)]] = "refuse"
    """For objectives that use the GSD: what becomes of samples without one. A mapping gives metres per source."""
    max_unreadable: Ratio = 0.001
    """Share of samples that may turn out unreadable before the run stops."""
    retry_seconds: float = Field(120, ge=0)
    """How long to wait for a shard that cannot be read (a file system that is away) before the run stops. Less than
    ``timeout_minutes``, for which the other processes wait for this one."""
    workers: int | None = Field(None, ge=0)
    """Processes that read and decode, per GPU. By default as many as there are cores, at most eight, and one where the
    CPU computes as well."""
    prefetch: int = Field(2, ge=1)
    """Micro-batches that each worker prepares ahead."""

    @model_validator(mode="after")
    def _scale_ascends(self) -> DataConfig:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale {self.crop_scale}: expected 0 < least <= greatest <= 1")
        return self

    @model_validator(mode="before")
    @classmethod
    def _mirrored_as_before(cls, data: Any) -> Any:
        """Runs of earlier releases have ``hflip`` and ``vflip`` beside the other fields."""
        if isinstance(data, dict) and (old := {name: data[name] for name in ("hflip", "vflip") if name in data}):
            rest = {name: value for name, value in data.items() if name not in old}
            return {**rest, "augment": {**old, **rest.get("augment", {})}}
        return data

    @model_validator(mode="after")
    def _a_weight_per_folder(self) -> DataConfig:
        if self.mix and len(self.mix) != len(self.folders):
            raise ValueError(
                f"mix has {len(self.mix)} weights for {len(self.folders)} folders of shards; give one each"
            )
        if self.mix and len(set(self.folders)) < len(self.folders):
            raise ValueError("shards has a folder twice; give it once in shards and its whole weight in mix")
        return self

    @property
    def folders(self) -> list[str]:
        """The folders of shards, here or elsewhere."""
        return self.shards if isinstance(self.shards, list) else [self.shards]


class OptimConfig(Strict):
    """AdamW with linear warm-up and half-cosine decay, or a constant rate that falls at the end.

    The learning rate is ``base_lr * global_batch / 256 * lr_scale``.
    """

    base_lr: float = Field(1.5e-4, gt=0)
    lr_scale: float = Field(1.0, gt=0)
    """A factor of its own, so that no objective changes the rate behind the reader's back. The released SelectiveMAE
    multiplies by target ratio over mask ratio: 0.25 / 0.85 = 0.294."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.05, ge=0)
    """Not applied to biases, norms, tokens and position tables."""
    warmup_epochs: float = Field(40, ge=0)
    decay_epochs: float | None = Field(None, gt=0)
    """None: half a cosine from the warm-up to the end. Otherwise the rate stays until so many epochs before the end and
    then falls in a straight line, so that a longer run only goes on (Hägele et al. 2024)."""
    min_lr: float = Field(0.0, ge=0)
    clip_grad: float | None = Field(None, gt=0)
    """Greatest norm of the gradient; none by default."""


class NeighboursConfig(Strict):
    """Labelled images by which a run is watched while it trains."""

    data: Path
    """A folder with a folder of images per class, shards, or a CSV list: what ``rs-pretrain evaluate --data`` takes."""
    every: int = Field(5000, ge=1)
    """Steps; the last is always looked at."""
    k: int = Field(20, ge=1)
    train_share: float = Field(0.5, gt=0, lt=1)
    seed: int = 0
    gsd_m: float | None = Field(None, gt=0)


TrackerName = Literal["tensorboard", "wandb", "mlflow"]


class TrainConfig(Strict):
    """Everything that defines a training run."""

    seed: int = Field(0, ge=0, lt=2**63)
    encoder: EncoderConfig = EncoderConfig()
    init_from: Path | None = None
    """Where the encoder's first weights come from: a file of released weights (MAE, SelectiveMAE, Scale-MAE, a ViT with
    timm's names), what ``export`` wrote, or a run. Decoder and optimiser start anew."""
    objective: ObjectiveConfig
    data: DataConfig
    optim: OptimConfig = OptimConfig()
    epochs: int = Field(800, ge=1)
    global_batch: int = Field(2048, ge=1)
    """Images per optimiser step, over all GPUs; never changes in a run."""
    max_batch_per_gpu: int = Field(256, ge=1)
    """A larger share of the global batch is accumulated in equal parts."""
    last_batch: Literal["drop"] = "drop"
    """What becomes of an epoch's last, smaller batch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto``: bf16 on a GPU that computes in it, else fp32. What it stood for when the run began is kept."""
    compile: bool | Literal["auto", "model"] = "auto"
    """Whether ``torch.compile`` makes kernels of the blocks, one by one, and of what lies between them; ``model``: of
    the whole model at once. ``auto``: the blocks, on a GPU that computes in bf16."""
    deterministic: bool = False
    """Whether a GPU uses only kernels that give the same bits each time, so that a resumed run equals one that was
    never stopped there too; slower. A CPU always does."""
    grad_checkpointing: bool = False
    shard_optimizer: bool = False
    """Divide AdamW's moments, 8 bytes a parameter, among the GPUs (ZeRO stage 1), for ViT-H and above."""
    max_nonfinite: int = Field(10, ge=0)
    """Steps without a finite loss and gradient, which change nothing, that are borne before the run stops."""
    timeout_minutes: float = Field(10, gt=0)
    """How long the processes of a run wait for each other, for instance for one that waits for a shard."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of the log; between them nothing waits for the GPU."""
    knn: NeighboursConfig | None = None
    """Accuracy of nearest neighbours on labelled images while the run trains, by all GPUs."""
    track: list[TrackerName] = []
    """Where the log goes as well; each needs its library."""
    peak_tflops: float | None = Field(None, gt=0)
    """What the log's ``mfu`` compares with: 10^12 operations a second of one device. By default a GPU is measured."""
    save_every: int = Field(1000, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    picture_every: int = Field(1000, ge=0)
    """Steps between pictures of reconstructions; 0 for none."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        parts = self.data.groups * self.data.crops_per_image
        if self.global_batch % parts:
            what = "data.groups" if self.data.crops_per_image == 1 else "data.groups * data.crops_per_image"
            raise ValueError(f"global_batch {self.global_batch} is not a multiple of {what} {parts}")
        if self.max_batch_per_gpu < self.data.crops_per_image:
            raise ValueError(f"max_batch_per_gpu {self.max_batch_per_gpu} holds not even the crops of one image")
        if self.optim.warmup_epochs + (self.optim.decay_epochs or 0) > self.epochs and self.optim.decay_epochs:
            raise ValueError(
                f"optim.warmup_epochs {self.optim.warmup_epochs:g} and optim.decay_epochs {self.optim.decay_epochs:g} "
                f"exceed epochs {self.epochs}"
            )
        if self.optim.warmup_epochs > self.epochs:
            raise ValueError(
                f"optim.warmup_epochs {self.optim.warmup_epochs:g} exceeds epochs {self.epochs}; set it too, "
                f"for example optim.warmup_epochs={self.epochs / 20:g}"
            )
        return self


MAY_CHANGE = frozenset(
    {"data.shards", "data.cache", "data.cache_gigabytes", "data.missing_shard", "data.max_unreadable",
     "data.retry_seconds", "data.workers", "data.prefetch", "max_batch_per_gpu", "max_nonfinite",
     "timeout_minutes", "device", "compile", "deterministic", "grad_checkpointing", "shard_optimizer",
     "log_every", "knn", "track", "peak_tflops", "save_every", "keep_checkpoints", "picture_every"}
)  # fmt: skip
"""Fields that a resumed run may change: where and how it runs, what it writes and what it bears, not what it computes.
``data.shards`` may move; the checkpoint compares what is in it. ``epochs`` may be raised, not lowered."""
