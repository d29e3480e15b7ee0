"""The smallest labelled images: a folder of plain colours per class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def write_tree(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for number in range(count):
            path = folder / name / "deep" / f"{name}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            colour = (250, 10, 10) if name == "red" else (10, 10, 250)
            Image.new("RGB", (20 + number, 24), colour).save(path)
    return folder
