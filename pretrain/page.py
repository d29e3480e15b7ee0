"""HTML pages in one file: nothing is loaded from elsewhere, and light and dark follow the reader's setting."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from curation import __version__
from pretrain.run import writing


def write_page(path: Path, template: str, **facts: Any) -> None:
    """Render a template of ``pretrain/templates``; what comes from outside is escaped.

    Raises:
        InputError: the file cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pretrain", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    html = environment.get_template(template).render(version=__version__, **facts)
    with writing(path) as aside:
        aside.write_text(html, encoding="utf-8")


def embedded(picture: bytes) -> str:
    """A PNG as the source of an ``img``."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
