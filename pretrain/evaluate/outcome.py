"""What the answers of all protocols have in common."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one encoder came to on one data set by one protocol."""

    per_class: list[float | None]
    """Accuracy or intersection over union; None for a class of which nothing was tested."""
    train_images: int
    test_images: int
    """Those that could be read."""
    unreadable: list[str]
    """Names of the images that were left out on both sides."""
    feature_seconds: float
    """What computing the features cost, also where they came from the cache."""
    classifier_seconds: float
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
