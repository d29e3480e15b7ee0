"""What lies on servers: COGs of ground, STAC catalogues, tars."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from range_server import RangeServer
from textures import texture

PLACE = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 4_500_000)


def picture(seed: int, side: int) -> np.ndarray:
    """``(3, side, side)`` of ground, all different."""
    return np.asarray(texture(seed, side)).transpose(2, 0, 1)


def scene(folder: Path, pixels: np.ndarray, **options: Any) -> bytes:
    """A COG of some pixels, blocks of 128."""
    path = folder / "scene.tif"
    bands, height, width = pixels.shape
    profile = {"driver": "COG", "compress": "deflate", "blocksize": 128, "overview_resampling": "average", **options}
    with rasterio.open(
        path, "w", width=width, height=height, count=bands, dtype=pixels.dtype, crs="EPSG:32631", transform=PLACE,
        **profile,
    ) as file:  # fmt: skip
        file.write(pixels)
    data = path.read_bytes()
    path.unlink()
    return data


def item(name: str, taken: str, href: str, **more: Any) -> dict[str, Any]:
    """A STAC item as the specification 1.0.0 asks for it."""
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "geometry": None, "bbox": [10, 50, 11, 51],
        "properties": {"datetime": taken}, "links": [], **more,
        "assets": {"thumb": {"href": "t.png", "type": "image/png"},
                   "data": {"href": href, "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                            "roles": ["data"]}},
    }  # fmt: skip


def catalogue(server: RangeServer, path: str, **told: Any) -> None:
    whole = {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "description": "d", **told}
    server.files[path] = json.dumps(whole).encode()


def tar(names: list[str], **options: Any) -> tuple[bytes, dict[str, bytes]]:
    """A tar of pictures, with what each is."""
    buffer, held = io.BytesIO(), {}
    with tarfile.open(fileobj=buffer, mode="w", **options) as file:
        for number, name in enumerate(names):
            picture = io.BytesIO()
            texture(number, 72).save(picture, "PNG")
            held[name] = picture.getvalue()
            told = tarfile.TarInfo(name)
            told.size = len(held[name])
            file.addfile(told, io.BytesIO(held[name]))
    return buffer.getvalue(), held


NAMES = [f"naip/{'long' * 40 if number % 7 == 0 else ''}{number:04d}.png" for number in range(120)] + ["naip/x.txt"]
