"""Other loaders of the images that ``benchmarks/loader.py`` makes, each as its own documentation loads such images.

What is not installed is left out. A library's own format is written once, beside the shards, with the JPEGs' very
bytes. All resize antialiased and bicubic but FFCV, which has one way.

    pip install webdataset mosaicml-streaming litdata nvidia-dali-cuda120
    pip install opencv-python-headless ffcv     # is compiled, against OpenCV and libturbojpeg
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms as v1
from torchvision.transforms import v2

BATCH, SIDE = 64, 224
AREA, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_EPOCHS = 10**6
"""In one: workers that start anew for every few images would be measured otherwise."""
Loader = Callable[[Path, int], Iterator[Any]]
"""Given the folder of shards and a number of workers, 0 for none."""

RELEASED = v1.Compose([
    v1.RandomResizedCrop(SIDE, scale=AREA, interpolation=v1.InterpolationMode.BICUBIC), v1.RandomHorizontalFlip(),
    v1.ToTensor(), v1.Normalize(MEAN, DEVIATION),
])  # fmt: skip
TENSORS = v2.Compose([
    v2.RandomResizedCrop(SIDE, scale=AREA, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
    v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION),
])  # fmt: skip


def loaded(samples: Any, workers: int, **options: Any) -> Iterator[Any]:
    """Torch's loader, epoch after epoch."""
    return endless(DataLoader(samples, BATCH, num_workers=workers, drop_last=True, worker_init_fn=_one, **options))


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _one(_: int) -> None:
    torch.set_num_threads(1)


def pillow(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def turbo(data: bytes) -> Tensor:
    return torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB")).permute(2, 0, 1)


class Files(Dataset[Tensor]):
    """A folder of files, as ImageFolder reads it."""

    def __init__(self, folder: Path, decode: Callable[[bytes], Any], transform: Callable[[Any], Tensor]) -> None:
        self.paths, self.decode, self.transform = sorted((folder / "files").iterdir()), decode, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.decode(self.paths[index].read_bytes()))


def from_files(decode: Callable[[bytes], Any], transform: Callable[[Any], Tensor]) -> Loader:
    def load(folder: Path, workers: int) -> Iterator[Any]:
        files = Files(folder, decode, transform)
        return loaded(files, workers, sampler=RandomSampler(files, num_samples=_EPOCHS * len(files)))

    return load


def from_webdataset(folder: Path, workers: int) -> Iterator[Any]:
    import webdataset

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    shards = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(100)
    samples = shards.decode("pil").to_tuple("jpg").map_tuple(RELEASED).batched(BATCH, partial=False)
    return endless(DataLoader(samples, None, num_workers=workers, worker_init_fn=_one))


def from_streaming(folder: Path, workers: int) -> Iterator[Any]:
    import streaming

    class Images(streaming.StreamingDataset):
        def __getitem__(self, index: Any) -> Tensor:
            return RELEASED(pillow(super().__getitem__(index)["jpg"]))

    made = folder / "streaming"
    if not made.exists():
        with streaming.MDSWriter(out=str(made), columns={"jpg": "bytes"}) as writer:
            for path in sorted((folder / "files").iterdir()):
                writer.write({"jpg": path.read_bytes()})
    streaming.base.util.clean_stale_shared_memory()
    return loaded(Images(local=str(made), shuffle=True, batch_size=BATCH), workers)


def from_litdata(folder: Path, workers: int) -> Iterator[Any]:
    import litdata

    class Images(litdata.StreamingDataset):
        def __getitem__(self, index: Any) -> Tensor:
            return TENSORS(super().__getitem__(index))

    made = folder / "litdata"
    if not made.exists():
        paths = [str(path) for path in sorted((folder / "files").iterdir())]
        litdata.optimize(Image.open, paths, str(made), chunk_bytes="64MB", num_workers=1, start_method="fork")
    images = Images(str(made), shuffle=True, drop_last=True)
    return endless(litdata.StreamingDataLoader(images, batch_size=BATCH, num_workers=workers, worker_init_fn=_one))


def from_dali(folder: Path, workers: int) -> Iterator[Any]:
    """On the processor, by as many threads as others have workers, and one where they have none."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=max(workers, 1), device_id=None)
    def pipeline() -> Any:
        tars = [str(path) for path in sorted(folder.glob("*.tar"))]
        data = fn.readers.webdataset(paths=tars, ext=["jpg"], random_shuffle=True, initial_fill=100)
        crops = fn.decoders.image_random_crop(data, random_area=AREA, random_aspect_ratio=RATIO)
        sized = fn.resize(crops, size=SIDE, interp_type=types.INTERP_CUBIC, antialias=True)
        scaled = {"mean": [255 * each for each in MEAN], "std": [255 * each for each in DEVIATION]}
        return fn.crop_mirror_normalize(sized, mirror=fn.random.coin_flip(), output_layout="CHW", **scaled)

    running = pipeline()
    running.build()
    while True:
        (batch,) = running.run()
        yield torch.from_dlpack(batch.as_tensor())


def from_ffcv(folder: Path, workers: int) -> Iterator[Any]:
    """Which resizes by OpenCV's areas, not bicubic, and gives uint8."""
    from ffcv import loader, transforms
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder

    made = folder / "images.beton"
    if not made.exists():
        _write_beton(folder, made)
    crops = RandomResizedCropRGBImageDecoder((SIDE, SIDE), scale=AREA, ratio=RATIO)
    steps = [crops, transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.ToTorchImage()]
    how = {"order": loader.OrderOption.QUASI_RANDOM, "os_cache": True, "drop_last": True}
    return endless(loader.Loader(str(made), BATCH, max(workers, 1), pipelines={"image": steps}, **how))


def _write_beton(folder: Path, made: Path) -> None:
    """FFCV encodes what it writes; in the place of that come the files' bytes."""
    import numpy as np
    from ffcv import fields, writer

    written = {}

    class Images:
        paths = sorted((folder / "files").iterdir())

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[Image.Image]:
            written["data"] = self.paths[index].read_bytes()
            return (pillow(written["data"]),)

    fields.rgb_image.encode_jpeg = lambda image, quality: np.frombuffer(written["data"], np.uint8)
    image = fields.RGBImageField(write_mode="jpg")
    writer.DatasetWriter(str(made), {"image": image}, num_workers=1).from_indexed_dataset(Images())


def installed() -> tuple[dict[str, Loader], list[str]]:
    """The loaders that are here, the released path first, and the libraries that are not."""
    found = {
        "released: files, Pillow, torchvision": from_files(pillow, RELEASED),
        "files, simplejpeg, torchvision v2": from_files(turbo, TENSORS),
    }
    absent = []
    for library, name, loader in _LIBRARIES:
        try:
            importlib.import_module(library)
        except ImportError:
            absent.append(library)
        else:
            found[name] = loader
    return found, absent


_LIBRARIES: list[tuple[str, str, Loader]] = [
    ("webdataset", "webdataset, Pillow, torchvision", from_webdataset),
    ("streaming", "mosaicml-streaming, Pillow, torchvision", from_streaming),
    ("litdata", "litdata, torchvision v2", from_litdata),
    ("nvidia.dali", "DALI on the processor", from_dali),
    ("ffcv", "FFCV", from_ffcv),
]
