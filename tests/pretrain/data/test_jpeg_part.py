"""Parts of JPEGs are the pixels of the whole, as Pillow decodes it; damage is never read as an image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from textures import texture

from pretrain.data import jpeg_part, reader
from pretrain.data.augment import NOISE_SIZE, Box, CropRule, around
from pretrain.data.jpeg_part import PartDecoder, part_decoder
from pretrain.errors import UnreadableImage

RULE = CropRule(32, (0.05, 0.6), (3 / 4, 4 / 3), 4.0)


@pytest.fixture
def decoder() -> PartDecoder:
    found = part_decoder()
    if found is None:
        pytest.skip("no C compiler, or libjpeg-turbo's header is absent")
    return found


def jpeg(picture: Image.Image, **how: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **how)
    return buffer.getvalue()


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", None], ids=str)
@pytest.mark.parametrize("progressive", [False, True])
def test_a_part_has_the_pixels_that_pillow_decodes(decoder: PartDecoder, subsampling: str, progressive: bool) -> None:
    """Grey where there is no subsampling; sides that are no multiples of a block, down to one pixel."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        width, height = map(int, rng.integers(1, 150, 2))
        picture = texture(int(rng.integers(1000)), max(width, height)).crop((0, 0, width, height))
        how = {"quality": int(rng.integers(20, 98)), "progressive": progressive}
        data = jpeg(picture, subsampling=subsampling, **how) if subsampling else jpeg(picture.convert("L"), **how)
        left, top = int(rng.integers(width)), int(rng.integers(height))
        part = Box(left, top, int(rng.integers(1, width - left + 1)), int(rng.integers(1, height - top + 1)))
        whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        found = decoder.decode(data, (height, width), part)
        assert found is not None
        assert np.array_equal(found, whole[top : top + part.height, left : left + part.width])


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0", None], ids=str)
def test_a_part_of_a_reduced_image_has_the_pixels_of_pillows_draft(
    decoder: PartDecoder, subsampling: str | None
) -> None:
    """At a half, a quarter and an eighth, and with colours that need no interpolation there."""
    rng = np.random.default_rng(1)
    for number in range(60):
        eighths = (4, 2, 1)[number % 3]
        width, height = map(int, rng.integers(64, 300, 2))
        picture = texture(number, max(width, height)).crop((0, 0, width, height))
        data = jpeg(picture, subsampling=subsampling) if subsampling else jpeg(picture.convert("L"))
        reference = Image.open(io.BytesIO(data))
        reference.draft(None, (width * eighths // 8, height * eighths // 8))
        whole = np.asarray(reference.convert("RGB"))
        assert whole.shape[:2] == (-(-height * eighths // 8), -(-width * eighths // 8))
        left, top = int(rng.integers(whole.shape[1])), int(rng.integers(whole.shape[0]))
        part = Box(
            left, top, *(int(rng.integers(1, side + 1)) for side in (whole.shape[1] - left, whole.shape[0] - top))
        )
        found = decoder.decode(data, whole.shape[:2], part, eighths)
        assert found is not None
        assert np.array_equal(found, whole[top : top + part.height, left : left + part.width])


def test_what_is_damaged_or_not_there_is_no_part(decoder: PartDecoder) -> None:
    data = jpeg(texture(1, 128), quality=90)
    assert decoder.decode(data, (128, 128), Box(100, 100, 28, 29)) is None
    assert decoder.decode(data, (64, 64), Box(0, 0, 8, 8)) is None  # a header of another image than that of the caller
    assert decoder.decode(data[: len(data) // 2], (128, 128), Box(0, 96, 32, 32)) is None
    assert decoder.decode(b"\xff\xd8" + bytes(100), (8, 8), Box(0, 0, 8, 8)) is None
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        hurt = bytearray(data)
        for place in rng.integers(2, len(data), 8):
            hurt[place] = rng.integers(256)
        refused += decoder.decode(bytes(hurt), (128, 128), Box(40, 100, 50, 28)) is None
    assert refused > 30


def test_a_library_of_another_version_is_none(
    decoder: PartDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so where the decoder is made, before anything is read."""
    text, made = jpeg_part.SOURCE.read_text(), "jpeg_create_decompress(&jpeg)"
    assert text.count(made) == 1
    other = tmp_path / "other_version.c"
    other.write_text(text.replace(made, "jpeg_CreateDecompress(&jpeg, 1, sizeof jpeg)"))
    monkeypatch.setattr(jpeg_part, "SOURCE", other)
    assert part_decoder.__wrapped__() is None


def crops(data: bytes, count: int, seed: int, fast: bool = False) -> list[np.ndarray]:
    noise = np.random.default_rng(seed).random((count, NOISE_SIZE), np.float32)
    opened = reader.open_for(data, RULE._replace(fast=fast), noise)
    return [opened.crop(box, RULE.size).numpy() for box in opened.boxes]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_crops_are_those_of_the_whole_image(
    decoder: PartDecoder, count: int, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(
        PartDecoder, "decode", lambda self, *given, by=PartDecoder.decode: taken.append(given[3]) or by(self, *given)
    )
    files = [jpeg(texture(seed, 120 + 20 * seed), quality=85) for seed in range(20)]
    parts = [crops(data, count, seed, fast) for seed, data in enumerate(files)]
    assert len(taken) > 8 and set(taken) <= ({8, 4, 3, 2, 1} if fast else {8})
    assert not fast or {4, 3, 2} <= set(taken)
    monkeypatch.setattr(reader, "part_decoder", lambda: None)
    for seed, data in enumerate(files):
        assert all(map(np.array_equal, parts[seed], crops(data, count, seed, fast)))


def test_colours_of_print_are_not_reduced(decoder: PartDecoder) -> None:
    data = jpeg(texture(2, 400).convert("CMYK"), quality=90)
    for seed in range(8):
        assert all(map(np.array_equal, crops(data, 1, seed, fast=True), crops(data, 1, seed)))


def test_a_file_that_was_cut_short_is_refused_wherever_its_crop_lies(decoder: PartDecoder) -> None:
    data = jpeg(texture(3, 200), quality=90)
    for seed in range(10):
        with pytest.raises(UnreadableImage):
            crops(data[:-200], 1, seed)


def test_the_box_around_boxes() -> None:
    assert around([Box(4, 9, 10, 2), Box(1, 10, 4, 30)]) == Box(1, 9, 13, 31)
