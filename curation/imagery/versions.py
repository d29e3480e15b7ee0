"""Versions of all that the pixels and bytes of a corpus depend on beside its rules."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version

LIBRARIES = ("numpy", "pillow", "simplejpeg", "rasterio", "pyproj", "numba", "pyarrow", "xxhash", "h5py")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Version of this project, of the libraries, and of the codecs that they bring along, by name."""
    import rasterio
    from PIL import features

    from curation import __version__

    codecs = {f"pillow {name}": features.version(name) for name in ("libjpeg_turbo", "zlib", "webp")}
    return {
        "rscorpus": __version__,
        **{name: version(name) for name in LIBRARIES if _installed(name)},
        "GDAL": rasterio.__gdal_version__,
        **{name: str(told) for name, told in codecs.items() if told},
    }


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec({"pillow": "PIL"}.get(name, name)) is not None
