"""SelectiveMAE (Wang et al., Harnessing Massive Satellite Imagery with Efficient Masked Image Modeling, ICCV 2025)."""

from __future__ import annotations

import torch
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pretrain.config import EncoderConfig, SelectiveMaeObjective
from pretrain.errors import InputError
from pretrain.models.encoder import embed_patches, encode, encode_layers, initialise, patch_positions
from pretrain.models.hog import richness
from pretrain.models.mae import visible_count
from pretrain.models.objective import Objective, share_of
from pretrain.models.output import Output
from pretrain.models.positions import sincos_2d
from pretrain.models.selection import choose, expand, inverse_odds, mark


class SelectiveMAE(Objective):
    """Few visible tokens chosen by richness and similarity; only part of the masked patches is rebuilt."""

    parts = ("select", "embed", "pixel_loss", "hog_loss")

    def __init__(self, config: SelectiveMaeObjective, encoder: EncoderConfig) -> None:
        super().__init__(encoder, norm_pix=config.norm_pix, hog_weight=config.hog_weight)
        self.config = config
        self.uniform = config.seeds == config.targets == "uniform"
        self.counts = token_counts(self.num_patches, config)
        self.late_counts = self.counts
        if config.late_mask_ratio is not None:
            late = config.model_copy(update={"mask_ratio": config.late_mask_ratio})
            self.late_counts = token_counts(self.num_patches, late)
        self.enter(0.0)
        self.noise_size = 3 * self.num_patches
        layers = len(self.encoder.blocks) + 1
        mixes = config.decoder_reads == "mixture"
        self.mixture = LayerMixture(layers, self.encoder.embed_dim, config.decoder_depth) if mixes else None
        self.decoder = CrossAttentionDecoder(self.encoder.embed_dim, config, self.grid, self.outputs)
        if self.patch_size % 2 and not (self.uniform and not config.hog_weight):
            raise InputError(
                f"encoder: HOG cells are half a patch, so {self.patch_size} px patches cannot be scored; "
                "set objective.seeds and objective.targets to uniform, and objective.hog_weight to 0"
            )

    def enter(self, progress: float) -> None:
        """Choose the numbers of tokens: in a compiled step the late ones make a second graph."""
        late = progress >= 1 - self.config.late_share
        self.seeds, self.added, self.target_count = self.late_counts if late else self.counts

    def blocks(self) -> list[nn.Module]:
        """Of the encoder and the decoder."""
        return [*self.encoder.blocks, *self.decoder.blocks]

    def forward(self, images: Tensor, gsd: Tensor, noise: Tensor, progress: Tensor) -> Output:
        """One pass over uint8 images (B, 3, H, W).

        Args:
            images: uint8 (B, 3, H, W) of the encoder's size.
            gsd: unused; part of the common interface.
            noise: (B, 3N) uniform: for the seeds, the random stage and the targets.
            progress: 0-d, share of training done; it decides the stage of PSTS.
        """
        patches = self.patchify(images)
        visible, target = self.select(images, patches, noise, progress)
        tokens = self.embed(patches, visible)
        latent = self.mixture(encode_layers(self.encoder, tokens)) if self.mixture else encode(self.encoder, tokens)
        output = self.decoder(latent, target, recompute=self.grad_checkpointing)
        weights = self._target_weights(images, noise, visible, target)
        prediction, loss = self.judged(output, images, patches, target, weights)
        return Output(loss, prediction, visible, target)

    @torch.no_grad()
    def _target_weights(self, images: Tensor, noise: Tensor, visible: Tensor, target: Tensor) -> Tensor | None:
        """Weights (B, T) of the targets in the loss, float32; None for equal ones."""
        if self.config.target_weights == "equal":
            return None
        with torch.autocast(images.device.type, enabled=False):
            target_noise, taken = noise.float()[:, 2 * self.num_patches :], mark(visible, self.num_patches)
            count, temperature = self.target_count, self.config.temperature
            return inverse_odds(self._score(images), target_noise, count, temperature, taken).gather(1, target)

    @torch.no_grad()
    def select(self, images: Tensor, patches: Tensor, noise: Tensor, progress: Tensor) -> tuple[Tensor, Tensor]:
        """Visible (B, V) and target (B, T) ids; targets ascend. No gradient; float32 in every precision."""
        config = self.config
        with torch.autocast(images.device.type, enabled=False):
            seed_noise, stage_noise, target_noise = torch.split(noise.float(), self.num_patches, dim=1)
            score = self._score(images)
            seeds = choose(config.seeds, score, seed_noise, self.seeds, config.temperature)
            visible = self._expanded(patches, seeds, stage_noise, progress)
            taken = mark(visible, self.num_patches)
            target = choose(config.targets, score, target_noise, self.target_count, config.temperature, taken)
        return visible, target.sort(dim=1).values

    def _expanded(self, patches: Tensor, seeds: Tensor, noise: Tensor, progress: Tensor) -> Tensor:
        """The visible tokens (B, V): the seeds, then those that are added to them."""
        if self.config.added == "uniform":
            fresh = choose("uniform", noise, noise, sum(self.added), 1.0, mark(seeds, self.num_patches))
            return torch.cat([seeds, fresh], dim=1)
        return expand(self.tokens(patches), seeds, self.added, noise, progress, self.config.borders)

    @torch.no_grad()
    def tokens(self, patches: Tensor) -> Tensor:
        """What similarity is measured on, (B, N, D): every patch's embedding plus position; ``psts_content`` without.

        The few visible ones are embedded again with gradient: cheaper than a backward pass through all of them.
        """
        embedded = embed_patches(self.encoder, self.normalise(patches))
        return embedded if self.config.added == "psts_content" else embedded + patch_positions(self.encoder)

    def _score(self, images: Tensor) -> Tensor:
        if self.uniform:
            return torch.zeros(images.shape[0], self.num_patches, device=images.device)
        return richness(images, self.patch_size)


def token_counts(patches: int, config: SelectiveMaeObjective) -> tuple[int, tuple[int, int], int]:
    """Seeds, tokens added by each of the two sub-steps, and targets (196 patches, 0.85, 0.25: 14, (7, 8), 49).

    Raises:
        InputError: the ratios leave no seed or target, or more tokens than there are patches.
    """
    visible, targets = visible_count(patches, config.mask_ratio), share_of(patches, config.target_ratio)
    seeds = visible // 2
    added = visible - seeds
    if seeds < 1 or added < 2 or targets < 1 or visible + targets > patches:
        raise InputError(
            f"objective: mask_ratio {config.mask_ratio} and target_ratio {config.target_ratio} of {patches} patches "
            f"give {visible} visible and {targets} targets; needed are at least 3 and 1, at most {patches} together"
        )
    return seeds, (added // 2, added - added // 2), targets


class CrossAttentionDecoder(nn.Module):
    """Queries are the target positions, keys and values the encoder's output (CrossMAE, Fu et al. 2024)."""

    positions: Tensor

    def __init__(self, latent_dim: int, config: SelectiveMaeObjective, grid: tuple[int, int], outputs: int) -> None:
        super().__init__()
        width, depth = config.decoder_dim, config.decoder_depth
        self.heads = config.decoder_heads
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.kv = nn.Linear(latent_dim, depth * 2 * width)
        self.blocks = nn.ModuleList(CrossBlock(width, self.heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pred = nn.Linear(width, outputs)
        self.register_buffer("positions", sincos_2d(grid, width), persistent=False)
        initialise(self)
        for layer in self.kv.weight.detach().chunk(depth):
            # The fan-out of all layers together would start them too small.
            nn.init.xavier_uniform_(layer)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, latent: Tensor, target: Tensor, *, recompute: bool = False) -> Tensor:
        """Predict patches ``target`` (B, T) from ``latent`` (B, L, E), or one for each block: (B, T, p*p*3)."""
        batch, length = latent.shape[-3:-1]
        kv = self._keys_values(latent).view(batch, length, 2 * len(self.blocks), self.heads, -1).unbind(2)
        x = self.mask_token + self.positions[target]
        for index, block in enumerate(self.blocks):
            key, value = kv[2 * index].transpose(1, 2), kv[2 * index + 1].transpose(1, 2)
            if recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, key, value, use_reentrant=False)
            else:
                x = block(x, key, value)
        prediction: Tensor = self.pred(self.norm(x))
        return prediction

    def _keys_values(self, latent: Tensor) -> Tensor:
        """(B, L, depth * 2 * width), a block's keys and then its values."""
        if latent.ndim == 3:
            joined: Tensor = self.kv(latent)
            return joined
        weight = self.kv.weight.view(len(self.blocks), -1, latent.shape[-1])
        return torch.einsum("dble,dwe->bldw", latent, weight).flatten(2) + self.kv.bias


class LayerMixture(nn.Module):
    """For each decoder block a learned sum of the encoder's layers, normed (CrossMAE's ``WeightedFeatureMaps``).

    Unlike there, the last layer passes the encoder's own norm first, so that this norm is trained.
    """

    def __init__(self, layers: int, dim: int, depth: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(depth, layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in range(depth))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, layers: list[Tensor]) -> Tensor:
        """Mix ``layers`` of (B, L, E): (depth, B, L, E)."""
        mixed = torch.einsum("dk,kble->dble", self.weight, torch.stack(layers))
        return torch.stack([norm(each) for norm, each in zip(self.norms, mixed.unbind(), strict=True)])


class CrossBlock(nn.Module):
    """``x += cross_attention(norm(x), latent); x += mlp(norm(x))``; keys and values come ready from the decoder."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.q = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Update the queries (B, T, D) from keys and values (B, heads, L, D/heads)."""
        query = self.q(self.norm1(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed
