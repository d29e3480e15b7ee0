"""Loopback servers that hold a little of each of open-13m's sources, and its recipe bent to them.

Paths, columns, array layouts, asset keys and globs are those of the shipped manifests; only hosts, counts and sizes are
smaller. Pixels are the demo's airborne imagery and textures.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
import yaml
from range_server import RangeServer
from textures import texture

from curation.sources.recipe import load_recipe

HUB = "/datasets/satellogic/EarthView/resolve/main/satellogic/train-{:05d}-of-07863.parquet"
MAJOR_TOM = "/datasets/Major-TOM/Core-S2L2A/resolve/main/images/part_{:05d}.parquet"
SATLAS = "satlas/satlas-dataset-v1-naip-{}.tar"


def encoded(seed: int, side: int, kind: str = "png") -> bytes:
    """A textured picture as a file."""
    held = io.BytesIO()
    texture(seed, side).save(held, kind)
    return held.getvalue()


def cog(folder: Path, pixels: np.ndarray, crs: str, west: float, north: float, metres: float) -> bytes:
    """A Cloud Optimized GeoTIFF of some pixels (bands, rows, columns)."""
    bands, height, width = pixels.shape
    place = rasterio.Affine(metres, 0, west, 0, -metres, north)
    path = folder / "cog.tif"
    with rasterio.open(
        path, "w", driver="COG", width=width, height=height, count=bands, dtype="uint8", crs=crs, transform=place,
        compress="deflate", blocksize=128,
    ) as file:  # fmt: skip
        file.write(pixels)
    return path.read_bytes()


def ground(repository: Path, number: int, side: int) -> np.ndarray:
    """(3, side, side) of the demo's airborne scenes, another place for every number."""
    scenes = sorted((repository / "manifests/demo/neon_scenes").glob("*/*.tif"))
    with rasterio.open(scenes[number % len(scenes)]) as file:
        step = 67 * (number // len(scenes))
        window = rasterio.windows.Window(step % (file.width - side), step % (file.height - side), side, side)
        return np.asarray(file.read((1, 2, 3), window=window))


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A ustar archive."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return held.getvalue()


def table(**columns: Any) -> bytes:
    """A Parquet table, two rows a row group."""
    held = io.BytesIO()
    pq.write_table(pa.table(columns), held, row_group_size=2)
    return held.getvalue()


# ------------------------------------------------------------------------------------------------ what the hosts hold


def fill_buckets(client: Any, folder: Path, repository: Path) -> None:
    """Tars of Satlas and scenes of New Zealand."""
    for bucket in ("ai2-public-datasets", "nz-imagery"):
        client.create_bucket(Bucket=bucket, ACL="public-read")
    for year in (2011, 2012):
        scenes = {
            f"naip/m_2508008_nw_17_1_{year}1013/{band}/3636{number}_55726.png": encoded(year + number, 96)
            for number in range(6)
            for band in ("ir", "tci")
        }
        client.put_object(Bucket="ai2-public-datasets", Key=SATLAS.format(year), Body=tar_of(scenes), ACL="public-read")
    survey = "otago/otago_2024_0.1m/rgb/2193"
    for number in range(2):
        scene = cog(folder, ground(repository, number, 256), "EPSG:2193", 1_400_000 + 30 * number, 4_900_000, 0.1)
        key = f"{survey}/CC11_{number}.tiff"
        client.put_object(Bucket="nz-imagery", Key=key, Body=scene, ACL="public-read")
    client.put_object(Bucket="nz-imagery", Key=f"{survey}/collection.json", Body=b"{}", ACL="public-read")


def fill_hub(server: RangeServer) -> None:
    """Two tables of EarthView with arrays of numbers, one of Major TOM with pictures."""
    for number in range(2):
        arrays = [[np.asarray(texture(100 + 4 * number + n, 96)).transpose(2, 0, 1).tolist()] for n in range(4)]
        kind = pa.list_(pa.list_(pa.list_(pa.list_(pa.uint8()))))
        server.files[HUB.format(number)] = table(rgb=pa.array(arrays, kind), metadata=["{}"] * 4)
    pictures = [encoded(200 + n, 160) for n in range(4)]
    server.files[MAJOR_TOM.format(1)] = table(B04=[b"no picture"] * 4, thumbnail=pictures)


def fill_web(server: RangeServer, folder: Path, repository: Path) -> None:
    """A STAC API of contributed scenes, a list of URLs of mosaics, and an archive to download."""
    core = "https://api.stacspec.org/v1.0.0/"
    root = {
        "type": "Catalog", "stac_version": "1.0.0", "id": "hot", "description": "d",
        "conformsTo": [f"{core}core", f"{core}item-search"],
        "links": [{"rel": "search", "href": server.url("/stac/search"), "type": "application/geo+json"}],
    }  # fmt: skip
    items = []
    for number, licence in enumerate(("CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-SA-4.0")):
        pixels = ground(repository, 4 + number, 256)
        server.files[f"/oin/{number}.tif"] = cog(folder, pixels, "EPSG:32735", 400_000 + 500 * number, 9_700_000, 0.2)
        visual = {"href": server.url(f"/oin/{number}.tif"), "type": "image/tiff; application=geotiff"}
        items.append(
            {"type": "Feature", "stac_version": "1.0.0", "id": f"{number}", "geometry": None, "links": [],
             "bbox": [28, -3, 29, -2], "properties": {"datetime": "2024-05-01T10:00:00Z", "license": licence},
             "assets": {"thumbnail": {"href": "t.png", "type": "image/png"}, "visual": visual}}
        )  # fmt: skip
    server.files["/stac"] = json.dumps(root).encode()
    server.files["/stac/search"] = json.dumps({"type": "FeatureCollection", "features": items, "links": []}).encode()
    with_infrared = np.concatenate([ground(repository, 9, 256), np.full((1, 256, 256), 90, np.uint8)])
    server.files["/Imagery/STATEWIDE_2024_30cm_LeafOFF_4Band.tif"] = cog(
        folder, with_infrared, "EPSG:32145", 450_000, 150_000, 0.3
    )
    server.files["/vermont.txt"] = f"{server.url('/Imagery/STATEWIDE_2024_30cm_LeafOFF_4Band.tif')}\n".encode()
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for number in range(3):
            archive.writestr(f"images/{number}.png", encoded(300 + number, 128))
    server.files["/everwatch.zip"] = held.getvalue()


# ------------------------------------------------------------------------------------------------ the recipe


def bent(server: RangeServer) -> dict[str, Any]:
    """The recipe ``open-13m`` with a source of every kind of access, all on loopback."""
    recipe = load_recipe("open-13m").model_dump(mode="json", exclude_unset=True)
    hub, part = (server.url(path) for path in (HUB, MAJOR_TOM))
    small = {"side": 128, "timeout_seconds": 20, "attempts": 5}
    remotes = {
        "satlas_naip": {"urls": [f"s3://ai2-public-datasets/{SATLAS.format('{2011..2012}')}"], "ranges": 3,
                        "range_megabytes": 0.1},
        "earthview_satellogic": {"urls": [hub.replace("{:05d}", "{00000..00001}")]},
        "major_tom_rgb": {"urls": [part.replace("{:05d}", "{00001..00001}")]},
        "nz_imagery": {"prefix": "s3://nz-imagery/", "region": "ap-southeast-2", "per_file": 3},
        "openaerialmap": {"stac": server.url("/stac"), "collections": ["openaerialmap"], "assets": ["visual"],
                          "licences": ["CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0"], "per_file": 3},
        "vermont": {"url_list": server.url("/vermont.txt"), "per_file": 2},
    }  # fmt: skip
    sources: list[dict[str, Any]] = [{"id": name, "remote": {**small, **told}} for name, told in remotes.items()]
    sources.append({"id": "everwatch", "files": [{"name": "everwatch.zip", "url": server.url("/everwatch.zip")}]})
    recipe |= {"sources": sources, "guard": {"benchmarks": ["rsscn7"]}, "balance": {"per_cell": 5, "total": 1_000}}
    recipe["shards"] = {"max_samples": 8}
    return recipe


def write_recipe(path: Path, server: RangeServer) -> None:
    """Write :func:`bent` as a file."""
    path.write_text(yaml.safe_dump(bent(server)), encoding="utf-8")
