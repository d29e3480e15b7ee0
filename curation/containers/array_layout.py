"""What a source says of images that are numbers in a Parquet table."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from curation.base.settings import Strict


class BandColumns(Strict):
    """Columns of a Parquet table that hold the numbers of a band each."""

    red: str = Field(min_length=1)
    green: str = Field(min_length=1)
    blue: str = Field(min_length=1)


class ArrayLayout(Strict):
    """How numbers in a Parquet column are an image: nested lists, one flat list, or raw bytes."""

    axes: Literal["yx", "yxb", "byx", "tyx", "tbyx"] | None = None
    """Outermost first: time, band, row, column. Null: by the number of axes yx, byx (of ``columns``: tyx), tbyx."""
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Lengths of the axes; null: those of nested lists."""
    dtype: Literal["uint8", "uint16", "int16", "float32"] | None = None
    """Of raw bytes, little-endian; null: the column's own numbers."""
    frame: int = Field(0, ge=0)
    """The one that is taken of axis t."""

    @model_validator(mode="after")
    def _complete(self) -> ArrayLayout:
        if self.shape is not None and self.axes is not None and len(self.shape) != len(self.axes):
            raise ValueError(f"axes: {self.axes} are {len(self.axes)}, shape names {len(self.shape)}")
        if self.dtype is not None and self.shape is None:
            raise ValueError("raw bytes (dtype) need shape")
        return self
