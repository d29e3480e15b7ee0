"""How an encoder is shown images, in words: published results depend on it, so every output says it."""

from __future__ import annotations

from collections.abc import Sequence

from pretrain.evaluate.encoders import FrozenEncoder


def in_words(encoder: FrozenEncoder, sides: Sequence[int] = (), *, windows: bool = False) -> str:
    """How images are prepared and what is taken of the encoder.

    Args:
        encoder: the encoder.
        sides: at which the images were shown, by default the encoder's input size; of windows those in the images.
        windows: whether windows were shown, for segmentation.
    """
    mean, std = (", ".join(f"{value:g}" for value in values) for values in encoder.input[1:3])
    statistics = f"mean ({mean}), deviation ({std})"
    shown = ", ".join(str(side) for side in sides or [encoder.input.size])
    if windows:
        return f"windows of {shown} px, bicubic to {encoder.input.size} px, {statistics}; patch tokens"
    return f"central square, bicubic to {shown} px, {statistics}; {encoder.in_words}"
