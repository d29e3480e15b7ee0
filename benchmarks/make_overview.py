"""Make ``docs/assets/overview.jpg``, README's picture, from what ``make demo`` left in ``demo/``.

python benchmarks/make_overview.py demo docs/assets/overview.jpg
"""

from __future__ import annotations

import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import rasterio
import rasterio.errors
from PIL import Image, ImageDraw, ImageFile, ImageFont
from rasterio.windows import Window

SIDE, GAP, WIDE = 128, 10, 1112
LEGEND, SHOWN = 10, 2  # pixels above the first reconstruction, and how many are shown
CASES = (  # source, part of the path, verdict, what the caption says
    ("neon_chips", "web/yell_007", "duplicate", "smaller copy"),
    ("neon_chips", "turned", "duplicate", "turned copy"),
    ("neon_chips", "yell_031", "unreadable", "cut off"),
    ("neon_chips", "mask.png", "not_optical", "label mask"),
    ("neon_chips", "mask.jpg", "not_optical", "mask as JPEG"),
    ("blue_marble", "grey", "not_optical", "elevation"),
    ("neon_16bit", "strip", "nodata", "collar"),
    ("blue_marble", "west", "blank", "open sea"),
)


def raw_pixels(path: Path, row: dict[str, object]) -> Image.Image:
    """Read the tile, or the whole image where the row has no window, as it lies in the raw file."""
    if path.suffix in {".jpg", ".png"}:
        ImageFile.LOAD_TRUNCATED_IMAGES = True  # the broken file is shown as far as it goes
        return Image.open(path).convert("RGB")
    window = None if row["col_off"] is None else Window(row["col_off"], row["row_off"], row["width"], row["height"])
    with rasterio.open(path) as file:
        pixels = np.moveaxis(file.read(window=window), 0, 2)
    return Image.fromarray((pixels // 8 if pixels.dtype == np.uint16 else pixels).astype(np.uint8))


def strip(draw_on: Image.Image, top: int, title: str, tiles: list[tuple[Image.Image, str]]) -> int:
    """Paste a titled row of tiles with captions; returns where the next one starts."""
    draw = ImageDraw.Draw(draw_on)
    draw.text((GAP, top), title, fill=(20, 60, 60), font=ImageFont.load_default(19))
    for number, (tile, caption) in enumerate(tiles):
        left = GAP + number * (SIDE + GAP)
        draw_on.paste(tile.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top + 30))
        text = "\n".join(textwrap.wrap(caption, 20))
        draw.text((left, top + 34 + SIDE), text, fill=(70, 70, 70), font=ImageFont.load_default(13))
    captions = max(len(textwrap.wrap(caption, 20)) for _, caption in tiles)
    return top + 44 + SIDE + 16 * captions


def main() -> None:
    """Draw kept tiles, rejected ones with their reasons, and reconstructions."""
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    demo, out = Path(sys.argv[1]), Path(sys.argv[2])
    raw = Path(__file__).resolve().parents[1] / "manifests" / "demo"
    rows = pq.read_table(demo / "corpus" / "catalogue.parquet")
    kept = rows.filter(pc.equal(rows["verdict"], "kept")).to_pylist()
    rng = np.random.default_rng(3)
    shown = [kept[number] for number in rng.choice(len(kept), WIDE // (SIDE + GAP), replace=False)]
    good = [(raw_pixels(raw / row["source"] / row["image"], row), f"{row['gsd_m']:,.1f} m per pixel") for row in shown]
    bad = []
    for source, part, verdict, words in CASES:
        found = [
            row
            for row in rows.filter(pc.equal(rows["verdict"], verdict)).to_pylist()
            if row["source"] == source and part in row["image"]
        ]
        if found:
            row = found[len(found) // 2]
            bad.append((raw_pixels(raw / source / row["image"], row), f"{verdict}: {words}"))
    picture = Image.open(demo / "reconstructions.png").convert("RGB")
    picture = picture.crop((0, 0, picture.width, LEGEND + SHOWN * picture.width // 4))  # four square columns
    picture = picture.resize((WIDE - 2 * GAP, picture.height * (WIDE - 2 * GAP) // picture.width))
    page = Image.new("RGB", (WIDE, 1200), "white")
    top = strip(page, GAP, f"kept: {len(kept):,} tiles", good)
    top = strip(page, top + GAP, "left out, and why", bad)
    title = "pretrained: image, chosen tokens, reconstruction"
    ImageDraw.Draw(page).text((GAP, top + GAP), title, fill=(20, 60, 60), font=ImageFont.load_default(19))
    page.paste(picture, (GAP, top + GAP + 30))
    out.parent.mkdir(parents=True, exist_ok=True)
    page.crop((0, 0, WIDE, min(page.height, top + 2 * GAP + 30 + picture.height))).save(out, quality=86)
    print(f"{out}: {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
