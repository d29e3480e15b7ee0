"""What a file is, by its first bytes; names lie."""

from __future__ import annotations

from curation.base.errors import UnreadableImage

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JP2"),
    (b"\xff\x4f\xff\x51", "JP2"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"EHFA_HEADER_TAG", "HFA"),
    (b"NITF0", "NITF"),
    (b"NSIF0", "NITF"),
)


def sniff(head: bytes) -> str:
    """Format by the first bytes.

    Raises:
        UnreadableImage: empty, or of a format that is not read.
    """
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp" and b"avif" in head[8:32]:
        return "AVIF"
    if head[:2] in (b"P5", b"P6") and head[2:3].isspace():
        return "PNM"
    raise UnreadableImage("empty file" if not head else f"not an image format that is read; begins with {head[:8]!r}")
