"""Names of NumPy array types, for annotations; shapes stand in docstrings."""

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
Mask = npt.NDArray[np.bool_]
"""Of pixels: true where one is valid."""
Ints = npt.NDArray[np.int64]
ShortInts = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.generic]
"""Samples of a raster in the type in which the file stores them."""
Array = npt.NDArray[Any]
