"""Scale-MAE's Laplacian block: tokens on a grid become a low-frequency and a high-frequency image (section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.models.encoder import run_blocks


class LaplacianDecoder(nn.Module):
    """A two-level feature pyramid, then one upsampling head per band; both heads enlarge eightfold."""

    def __init__(self, width: int, head_width: int, layers: int) -> None:
        super().__init__()
        self.pyramid_low = Enlarging(width, width, 2)
        self.pyramid_high = nn.Sequential(
            Enlarging(width, width, 2), ChannelNorm(width), nn.GELU(), Enlarging(width, width, 2)
        )
        self.head_low = UpsamplingHead(width, head_width, layers)
        self.head_high = UpsamplingHead(width, head_width, layers)

    def forward(self, plane: Tensor, *, recompute: bool = False) -> tuple[Tensor, Tensor]:
        """(B, D, g, g) to the low band (B, 3, 16g, 16g) and the high band (B, 3, 32g, 32g)."""
        low = run_blocks((self.pyramid_low, self.head_low), plane, recompute=recompute)
        return low, run_blocks((self.pyramid_high, self.head_high), plane, recompute=recompute)


class UpsamplingHead(nn.Module):
    """Residual blocks of grouped convolutions, then transposed convolutions by four and by two."""

    def __init__(self, inputs: int, width: int, layers: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.proj = nn.Conv2d(inputs, width, 1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(layers)))
        self.enlarge = nn.Sequential(
            ChannelNorm(width),
            Enlarging(width, half, 4),
            nn.GELU(),
            nn.Conv2d(half, quarter, 3, padding=1, groups=quarter),
            nn.GELU(),
            nn.Conv2d(quarter, half, 1),
            nn.GELU(),
            Enlarging(half, 3, 2),
        )

    def forward(self, plane: Tensor) -> Tensor:
        """(B, D, h, w) to (B, 3, 8h, 8w)."""
        image: Tensor = self.enlarge(self.blocks(self.proj(plane)))
        return image


class ResidualBlock(nn.Module):
    """Grouped 3 x 3 and pointwise convolution beside a pointwise shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.convs = nn.Sequential(
            nn.GELU(), nn.Conv2d(width, half, 3, padding=1, groups=half), nn.GELU(), nn.Conv2d(half, width, 1)
        )
        self.shortcut = nn.Conv2d(width, width, 1)

    def forward(self, plane: Tensor) -> Tensor:
        """Shape kept."""
        summed: Tensor = self.shortcut(plane) + self.convs(plane)
        return summed


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, plane: Tensor) -> Tensor:
        """Shape kept."""
        lines = F.layer_norm(plane.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return lines.permute(0, 3, 1, 2)


class Enlarging(nn.ConvTranspose2d):
    """A transposed convolution without overlap: one matrix product, whose outputs are put beside each other."""

    def __init__(self, inputs: int, outputs: int, factor: int) -> None:
        super().__init__(inputs, outputs, factor, stride=factor)
        self.factor = factor

    def forward(self, plane: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, h, w) to (B, D, factor * h, factor * w), channels last in memory."""
        batch, _, rows, columns = plane.shape
        kernel = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        assert self.bias is not None
        blocks = F.linear(plane.permute(0, 2, 3, 1), kernel, self.bias.repeat(self.factor**2))
        blocks = blocks.view(batch, rows, columns, self.factor, self.factor, -1).transpose(2, 3)
        return blocks.reshape(batch, rows * self.factor, columns * self.factor, -1).permute(0, 3, 1, 2)
