"""Every pixel source, opened well. Expected values come from Pillow, from rasterio and from hand calculation."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curation.base.errors import UnreadableImage
from curation.catalogue import Window
from curation.imagery.image import open_image, raw_bytes
from curation.imagery.location import Location
from curation.sources.recipe import ExcludeRules
from curation.sources.source import Source, Stretch

RULES = ExcludeRules()
ALL = Window(0, 0, 60, 40)


def texture(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (max(height // 8, 2), max(width // 8, 2), 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def read(path: Path, window: Window = ALL, **manifest: Any) -> tuple[np.ndarray, np.ndarray | None]:
    with open_image(Location(path.parent, path.name), Source(id="s", **manifest), RULES) as image:
        return image.read(window)


def write_tiff(path: Path, bands: np.ndarray, **profile: Any) -> Path:
    count, height, width = bands.shape
    defaults = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": bands.dtype}
    with rasterio.open(path, "w", **{**defaults, **profile}) as out:
        out.write(bands)
    return path


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("jpg", {"quality": 90}), ("jpg", {"quality": 90, "progressive": True, "subsampling": 0}), ("png", {}),
     ("bmp", {}), ("webp", {"quality": 90}), ("webp", {"lossless": True})],
)  # fmt: skip
def test_plain_formats_give_pillows_pixels(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(texture()).save(path, **options)
    rgb, valid = read(path)
    np.testing.assert_array_equal(rgb, np.asarray(Image.open(path).convert("RGB")))
    assert valid is None


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA", "RGBA", "PA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture = Image.fromarray(texture())
    if mode == "PA":
        picture = picture.quantize(16)
        picture.info["transparency"] = 0
        picture.save(path, transparency=0)
    else:
        picture.convert(mode).save(path)
    rgb, valid = read(path)
    expected = np.asarray(Image.open(path).convert("RGBA"))
    inside = expected[..., 3] > 0
    np.testing.assert_array_equal(rgb[inside], expected[..., :3][inside])
    assert (valid is None) == bool(inside.all())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(texture()).save(path, exif=exif.tobytes(), quality=95)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    with open_image(Location(tmp_path, "a.jpg"), Source(id="s"), RULES) as image:
        assert (image.height, image.width) == upright.shape[:2]
        np.testing.assert_array_equal(image.read(Window(0, 0, image.width, image.height))[0], upright)
        assert image.pass_through == (orientation == 1)


def test_a_name_that_lies_is_seen_through(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(texture()).save(path, format="PNG")
    with open_image(Location(tmp_path, "a.jpg"), Source(id="s"), RULES) as image:
        assert (image.format, image.pass_through) == ("PNG", False)
        np.testing.assert_array_equal(image.read(ALL)[0], texture())


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff", b"<html><body>404</body></html>", b"version https://git-lfs.github.com/spec/v1\n",
     b"\x89PNG\r\n\x1a\n" + bytes(40), b"II*\0" + bytes(60), b"BM" + bytes(60), b"RIFF\0\0\0\0WEBPVP8 ",
     b"\0\0\0\x0cjP  \r\n\x87\n"],
)  # fmt: skip
def test_what_is_no_image_is_unreadable(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(UnreadableImage):
        read(tmp_path / "a.jpg", Window(0, 0, 1, 1))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
def test_truncation_is_found(tmp_path: Path, image_format: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(texture(200, 300)).save(buffer, format=image_format)
    data = buffer.getvalue()
    for share in (0.5, 0.97):
        (tmp_path / "a").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UnreadableImage):
            read(tmp_path / "a", Window(0, 0, 300, 200))


def test_garbage_after_a_jpeg_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(texture()).save(path)
    expected = np.asarray(Image.open(path))
    path.write_bytes(path.read_bytes() + bytes(512))
    np.testing.assert_array_equal(read(path)[0], expected)


def test_giant_declared_sizes_are_refused_before_decoding(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(texture()).save(buffer, format="JPEG")
    data = bytearray(buffer.getvalue())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    (tmp_path / "a.jpg").write_bytes(bytes(data))
    side = 9_008  # one tile of 81 million pixels, though the image has few
    layout = {"tiled": True, "blockxsize": side, "blockysize": side, "compress": "deflate", "sparse_ok": True}
    write_tiff(tmp_path / "b.tif", np.zeros((1, 40, 60), np.uint8), **layout)
    rules = ExcludeRules(max_pixels=50_000_000)
    for name in ("a.jpg", "b.tif"):
        location = Location(tmp_path, name)
        with pytest.raises(UnreadableImage, match="max_pixels|can hold"), open_image(location, Source(id="s"), rules):
            pass


@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}, {"interleave": "pixel"}])
@pytest.mark.parametrize("compress", [None, "deflate", "lzw"])
def test_tiff_layouts_give_the_same_pixels(tmp_path: Path, layout: dict[str, Any], compress: str | None) -> None:
    bands = np.moveaxis(texture(), -1, 0)
    path = write_tiff(tmp_path / "a.tif", bands, photometric="RGB", compress=compress, **layout)
    np.testing.assert_array_equal(read(path)[0], texture())
    np.testing.assert_array_equal(read(path, Window(7, 5, 30, 20))[0], texture()[5:25, 7:37])


def test_manifest_orders_bands(tmp_path: Path) -> None:
    bands = np.stack([np.full((40, 60), value, np.uint8) for value in (10, 20, 30, 40)])
    path = write_tiff(tmp_path / "a.tif", bands, photometric="MINISBLACK")
    assert read(path, bands=(4, 3, 2))[0][0, 0].tolist() == [40, 30, 20]
    assert read(path)[0][0, 0].tolist() == [10, 20, 30]
    with pytest.raises(UnreadableImage, match="the file has 4"):
        read(path, bands=(5, 2, 1))


def test_one_band_per_file(tmp_path: Path) -> None:
    for name, value in (("r", 10), ("g", 20), ("b", 30)):
        write_tiff(tmp_path / f"{name}.tif", np.full((1, 40, 60), value, np.uint8))
    location = Location(tmp_path, "r.tif", None, ("r.tif", "g.tif", "b.tif"))
    with open_image(location, Source(id="s"), RULES) as image:
        assert image.read(ALL)[0][3, 4].tolist() == [10, 20, 30]
        assert image.bands == 3
    write_tiff(tmp_path / "b.tif", np.zeros((1, 41, 60), np.uint8))
    with pytest.raises(UnreadableImage, match="differ in size"), open_image(location, Source(id="s"), RULES):
        pass


def test_palettes_are_expanded(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    indexes = np.arange(40 * 60, dtype=np.uint8).reshape(1, 40, 60) % 3
    with rasterio.open(path, "w", driver="GTiff", height=40, width=60, count=1, dtype="uint8") as out:
        out.write(indexes)
        out.write_colormap(1, {0: (9, 8, 7, 255), 1: (1, 2, 3, 255), 2: (200, 100, 50, 255)})
    rgb, _ = read(path)
    assert rgb[0, :3].tolist() == [[9, 8, 7], [1, 2, 3], [200, 100, 50]]


@pytest.mark.parametrize("how", ["nodata", "alpha", "mask", "manifest", "nan"])
def test_invalid_pixels_are_marked_and_black(tmp_path: Path, how: str) -> None:
    bands = np.moveaxis(texture(seed=1), -1, 0).copy()
    bands[bands == 7] = 8
    hole = np.zeros((40, 60), bool)
    hole[:10, :20] = True
    path = tmp_path / "a.tif"
    manifest: dict[str, Any] = {}
    if how == "alpha":
        alpha = np.where(hole, 0, 255).astype(np.uint8)
        write_tiff(path, np.concatenate([bands, alpha[None]]), photometric="RGB", alpha="YES")
    elif how == "mask":
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path, "w", driver="GTiff", height=40, width=60, count=3, dtype="uint8", photometric="RGB"
            ) as out,
        ):
            out.write(bands)
            out.write_mask(~hole)
    elif how == "nan":
        values = bands.astype(np.float32)
        values[:, hole] = np.nan
        write_tiff(path, values)
        manifest["stretch"] = Stretch(how="fixed", fixed=(0, 255))
    else:
        bands[:, hole] = 7
        write_tiff(path, bands, nodata=7 if how == "nodata" else None)
        manifest["nodata"] = 7 if how == "manifest" else None
    rgb, valid = read(path, **manifest)
    assert valid is not None
    np.testing.assert_array_equal(valid, ~hole)
    assert (rgb[hole] == 0).all() and (rgb[~hole] == texture(seed=1)[~hole]).mean() > 0.98


def test_sixteen_bits_are_stretched_once_per_scene_not_per_tile(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(100, 3100, (3, 400, 500)).astype(np.uint16)
    values[:, :, :100] = 0  # an undeclared collar has no say
    path = write_tiff(tmp_path / "a.tif", values)
    with open_image(Location(tmp_path, "a.tif"), Source(id="s"), RULES) as image:
        limits = image.stretch
        assert limits is not None
        expected = np.percentile(values[:, :, 100:], (2, 98), axis=(1, 2)).T.reshape(-1)
        np.testing.assert_allclose(limits, expected, atol=15)
        whole, valid = image.read(Window(0, 0, 500, 400))
        part, _ = image.read(Window(150, 30, 64, 80))
        np.testing.assert_array_equal(part, whole[30:110, 150:214])
        assert valid is not None and not valid[:, :100].any() and valid[:, 100:].all()
        low, high = limits[:2]
        by_hand = np.rint(np.clip((values[0, 50, 300] - low) * 255 / (high - low), 0, 255))
        assert whole[50, 300, 0] == by_hand
    with open_image(Location(tmp_path, "a.tif"), Source(id="s"), RULES, stretch=(0, 5000) * 3) as image:
        assert image.read(Window(300, 50, 1, 1))[0][0, 0, 0] == round(float(values[0, 50, 300]) * 255 / 5000)
    fixed = Stretch(how="fixed", fixed=(0, 3000))
    assert read(path, Window(300, 50, 1, 1), stretch=fixed)[0][0, 0, 1] == min(
        round(float(values[1, 50, 300]) * 255 / 3000), 255
    )


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "float32", "float64"])
def test_every_real_type_is_stretched(tmp_path: Path, dtype: str) -> None:
    ramp = np.linspace(10, 1000, 60).astype(dtype)[None, None].repeat(40, 1).repeat(3, 0)
    path = write_tiff(tmp_path / "a.tif", ramp)
    rgb, _ = read(path)
    assert rgb[0, 0].tolist() == [0, 0, 0] and rgb[0, -1].tolist() == [255, 255, 255]
    assert (np.diff(rgb[0, :, 0].astype(int)) >= 0).all()


def test_sixteen_bit_png_keeps_its_bits(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 2400).astype(np.uint16).reshape(1, 40, 60)
    with rasterio.open(tmp_path / "a.png", "w", driver="PNG", height=40, width=60, count=1, dtype="uint16") as out:
        out.write(values)
    with open_image(Location(tmp_path, "a.png"), Source(id="s"), RULES) as image:
        assert (image.dtype, image.bands) == ("uint16", 1)
        assert image.stretch is not None and image.stretch[1] > 60_000


def test_jpeg_2000(tmp_path: Path) -> None:
    path = tmp_path / "a.jp2"
    bands = np.moveaxis(texture(128, 128), -1, 0)
    write_tiff(path, bands, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    np.testing.assert_array_equal(read(path, Window(0, 0, 128, 128))[0], texture(128, 128))


def test_complex_values_cannot_be_shown(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", np.ones((1, 40, 60), np.complex64))
    with pytest.raises(UnreadableImage, match="complex"):
        read(path)


def test_windows_beyond_the_edge_are_padded(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", np.moveaxis(texture(), -1, 0))
    rgb, valid = read(path, Window(50, 30, 20, 20))
    assert rgb.shape == (20, 20, 3) and valid is not None
    assert valid[:10, :10].all() and valid.sum() == 100 and rgb[~valid].max() == 0


def test_trim_cuts_a_painted_border(tmp_path: Path) -> None:
    Image.fromarray(texture()).save(tmp_path / "a.jpg")
    with open_image(Location(tmp_path, "a.jpg"), Source(id="s", trim=(5, 4, 3, 2)), RULES) as image:
        assert image.area == Window(5, 4, 52, 34) and not image.pass_through


def test_thumbnail_overviews_of_camera_files_are_not_taken_for_the_image(shared: Path) -> None:
    root = shared / "data" / "rasters" / "drone_brighton"
    with open_image(Location(root, "DJI_0018.JPG"), Source(id="s"), RULES) as image:
        rgb, _ = image.read(Window(0, 0, image.width, image.height))
        assert rgb.shape == (2250, 4000, 3)
        assert rgb[:40].max() > 100  # the thumbnail has black bars there


# ------------------------------------------------------------------------------------------------ ground


def test_gsd_of_projected_geographic_and_feet(tmp_path: Path) -> None:
    bands = np.zeros((3, 40, 60), np.uint8)
    cases = [
        ("EPSG:32631", Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), 0.5 / 0.9996),  # UTM on its central meridian
        (
            "EPSG:2263",
            Affine(1, 0, 984_000, 0, -1, 200_000),
            1200 / 3937,
        ),  # US survey feet, near the standard parallels
        ("EPSG:3857", Affine(10, 0, 0, 0, -10, 8_399_737.89), 10 * math.cos(math.radians(60))),  # 60 degrees north
    ]
    for crs, transform, expected in cases:
        write_tiff(tmp_path / "a.tif", bands, crs=crs, transform=transform)
        with open_image(Location(tmp_path, "a.tif"), Source(id="s", gsd_m=99), RULES) as image:
            gsd, source, _ = image.ground([ALL])[0]
            assert source == "file" and gsd == pytest.approx(expected, rel=4e-3)
            assert image.crs == crs
    degree = 1 / 3600
    write_tiff(tmp_path / "a.tif", bands, crs="EPSG:4326", transform=Affine(degree, 0, 10, 0, -degree, 0))
    with open_image(Location(tmp_path, "a.tif"), Source(id="s"), RULES) as image:
        # a second of longitude on the equator 30.922 m, of latitude 30.715 m (WGS 84)
        assert image.ground([Window(0, 0, 1, 1)])[0].gsd == pytest.approx(math.sqrt(30.922 * 30.715), rel=1e-3)


def test_gsd_without_a_place_comes_from_the_manifest(tmp_path: Path) -> None:
    Image.fromarray(texture()).save(tmp_path / "a.jpg")
    for gsd, expected in (
        (0.5, (0.5, "manifest")),
        ((0.2, 0.8), (pytest.approx(0.4), "manifest")),
        (None, (None, "none")),
    ):
        with open_image(Location(tmp_path, "a.jpg"), Source(id="s", gsd_m=gsd), RULES) as image:
            assert image.ground([ALL]) == [(*expected, None)]


def test_bounds_across_the_date_line_and_of_the_whole_earth(tmp_path: Path) -> None:
    bands = np.zeros((1, 40, 60), np.uint8)
    write_tiff(tmp_path / "a.tif", bands, crs="EPSG:32660", transform=Affine(10_000, 0, 500_000, 0, -10_000, 5_900_000))
    with open_image(Location(tmp_path, "a.tif"), Source(id="s"), RULES) as image:
        found = image.ground([ALL])[0].bounds
        assert found is not None and found[0] > 170 and found[2] < -170 and found[1] < found[3]
    write_tiff(tmp_path / "b.tif", bands, crs="EPSG:4326", transform=Affine(6, 0, -180, 0, -4.5, 90))
    with open_image(Location(tmp_path, "b.tif"), Source(id="s"), RULES) as image:
        assert image.ground([ALL])[0].bounds == (-180.0, -90.0, 180.0, 90.0)


def test_a_raster_on_a_site_grid_has_a_gsd_but_no_bounds(tmp_path: Path) -> None:
    """Photogrammetric blocks have no ellipsoid: it used to crash after twelve seconds an image."""
    for unit, expected in (('"metre",1', 0.02), ('"foot",0.3048', 0.02 * 0.3048)):
        crs = f'LOCAL_CS["site",UNIT[{unit}]]'
        transform = Affine(0.02, 0, 100, 0, -0.02, 200)
        write_tiff(tmp_path / "a.tif", np.zeros((3, 64, 64), np.uint8), crs=crs, transform=transform)
        with open_image(Location(tmp_path, "a.tif"), Source(id="s", gsd_m=99), RULES) as image:
            assert image.georeference is not None and image.georeference.on_earth
            assert image.ground([ALL]) == [(pytest.approx(expected), "file", None)]


@pytest.mark.parametrize("how", ["gcps", "rpcs", "nan", "line"])
def test_files_without_a_usable_transform_have_no_ground(tmp_path: Path, how: str) -> None:
    from rasterio.control import GroundControlPoint
    from rasterio.rpc import RPC

    profile: dict[str, Any] = {}
    if how == "gcps":
        corners = [(0, 0, 2, 49), (0, 60, 2.1, 49), (40, 0, 2, 48.9), (40, 60, 2.1, 48.9)]
        profile = {"gcps": [GroundControlPoint(*corner) for corner in corners], "crs": "EPSG:4326"}
    elif how == "rpcs":
        ones = [1.0] * 20
        profile = {"rpcs": RPC(0, 1, 49, 1, ones, ones, 20, 40, 2, 1, ones, ones, 30, 60, None, None)}
    else:
        transform = Affine(*([math.nan] * 6 if how == "nan" else [1, 1, 0, 1, 1, 0]))
        profile = {"crs": "EPSG:32631", "transform": transform}
    write_tiff(tmp_path / "a.tif", np.zeros((3, 40, 60), np.uint8), **profile)
    with open_image(Location(tmp_path, "a.tif"), Source(id="s"), RULES) as image:
        assert image.ground([ALL]) == [(None, "none", None)]
        assert image.affine is None or how == "line"


def test_a_pgm_lies_nowhere_whatever_was_opened_before(tmp_path: Path) -> None:
    """GDAL says that it has no place and leaves unset the numbers in which rasterio looks for one."""
    Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60)).save(tmp_path / "b.pgm")
    write_tiff(tmp_path / "a.tif", np.zeros((1, 40, 60), np.uint8), transform=Affine(2, 0, 500_000, 0, -2, 5_900_000))
    for name, expected in (("a.tif", (2, 0, 500_000, 0, -2, 5_900_000)), ("b.pgm", None)):
        with open_image(Location(tmp_path, name), Source(id="s"), RULES) as image:
            assert image.affine == expected
    (tmp_path / "b.pmw").write_text("3\n0\n0\n-3\n101.5\n198.5\n")  # of the first pixel's centre
    with open_image(Location(tmp_path, "b.pgm"), Source(id="s"), RULES) as image:
        assert image.affine == (3, 0, 100, 0, -3, 200)


@settings(max_examples=25, deadline=None)
@given(left=st.integers(0, 59), top=st.integers(0, 39), width=st.integers(1, 60), height=st.integers(1, 40))
def test_windows_are_cuts_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, left: int, top: int, width: int, height: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "window.tif"
    if not path.exists():
        write_tiff(path, np.moveaxis(texture(), -1, 0), tiled=True, blockxsize=16, blockysize=16)
    width, height = min(width, 60 - left), min(height, 40 - top)
    rgb, _ = read(path, Window(left, top, width, height))
    np.testing.assert_array_equal(rgb, texture()[top : top + height, left : left + width])


# ------------------------------------------------------------------------------------------------ safety


def test_paths_outside_of_the_source_are_refused(tmp_path: Path) -> None:
    for file in ("../a.jpg", "/etc/passwd"):
        with pytest.raises(UnreadableImage, match="outside"):
            raw_bytes(Location(tmp_path, file))


def test_a_vrt_that_names_other_files_is_not_followed(tmp_path: Path) -> None:
    write_tiff(tmp_path / "secret.tif", np.zeros((1, 40, 60), np.uint8))
    vrt = '<VRTDataset rasterXSize="60" rasterYSize="40"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    vrt += '<SourceFilename relativeToVRT="1">secret.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    (tmp_path / "a.tif").write_text(vrt)
    with pytest.raises(UnreadableImage):
        read(tmp_path / "a.tif")


def test_bands_are_taken_by_their_names(tmp_path: Path) -> None:
    """A Sentinel-2 stack in ESA's order: red is the fourth of twelve, blue the second."""
    pixels = np.stack([np.full((64, 64), 10 * band, np.uint8) for band in range(1, 13)])
    names = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=64, height=64, count=12, dtype="uint8", photometric="MINISBLACK"
    ) as out:
        out.write(pixels)
        out.descriptions = names
    with open_image(Location(tmp_path, "a.tif"), Source(id="s"), RULES) as image:
        assert image.read(Window(0, 0, 64, 64))[0][0, 0].tolist() == [40, 30, 20]
