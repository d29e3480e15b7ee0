"""The house as its imports show it: rooms, walls, and the picture on the design page (``python docs/house.py``).

``WALLS`` is the one list of what may import what; ``tests/test_walls.py`` holds it. The picture is drawn from the
imports that are there, so it cannot show a house that nobody lives in.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent

FLOORS = {
    "curation": (
        "cli", "pipeline", "start", "executor", "release", "report", "shards", "select", "scan", "imagery", "sources",
        "remote", "containers", "catalogue", "base",
    ),
    "pretrain": ("cli", "bench", "evaluate", "train", "export", "run", "data", "models", "base"),
}  # fmt: skip
"""Rooms from top to bottom. A module imports from its own room and from those below."""

SINGLE = {
    "curation": {
        "cli": ("cli", "run_commands", "release_commands", "audit"),
        "pipeline": ("pipeline", "run_state", "keys", "clean", "repair"),
        "catalogue": ("catalogue", "record"),
    },
    "pretrain": {
        "cli": ("cli", "evaluate_commands", "plot"),
        "train": ("train", "layout", "loop", "rehearsal"),
        "export": ("export", "push", "conversions", "model_card", "visualise", "sheet", "official"),
        "run": ("run", "page", "checkpoint", "log", "schedule", "health", "trackers"),
        "base": ("config", "device", "errors", "signals", "distributed", "patience"),
    },
}
"""Rooms that are not folders: modules that lie side by side in the package."""

SHARED = ("curation.base", "curation.shards", "curation.__version__")
"""What ``pretrain`` may use of ``curation``."""


@dataclass(frozen=True)
class Import:
    """One import, also one inside a function: where it stands, and the module or name that it takes."""

    file: Path
    line: int
    module: str

    @property
    def importer(self) -> str:
        """Dotted name of the importing module."""
        return ".".join(self.file.with_suffix("").parts)


@dataclass(frozen=True)
class Wall:
    """Modules below ``inside`` do not import ``forbidden``, except in ``but``."""

    inside: str
    forbidden: str
    why: str
    but: tuple[str, ...] = ()


WALLS = (
    Wall("curation", "torch", "shards are built without torch"),
    Wall("curation", "timm", "shards are built without timm"),
    Wall("curation", "pretrain", "the shards are all that the two packages share"),
    Wall("curation", "dask", "Dask lives in one room", ("curation.executor",)),
    Wall("curation", "distributed", "Dask lives in one room", ("curation.executor",)),
    Wall("pretrain", "dask", "Dask lives in curation"),
    Wall("pretrain", "torch.distributed", "process groups live in one room", ("pretrain.distributed",)),
    Wall("pretrain.models", "curation", "models see no file", ("pretrain.models.hog_kernel",)),
    Wall("pretrain.models", "pretrain.data", "models see no file"),
    Wall("pretrain.data", "pretrain.models", "the stream sees no model"),
    Wall("pretrain.data", "timm", "the stream sees no model"),
)


def imports(root: Path, package: str) -> Iterator[Import]:
    """Every import of a package's modules; ``from x import y`` gives ``x.y``."""
    for path in sorted((root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for module in _modules(node):
                yield Import(path.relative_to(root), node.lineno, module)  # type: ignore[attr-defined]


def _modules(node: ast.AST) -> Iterable[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def violations(root: Path) -> list[str]:
    """Imports that go through a wall or up the stairs, as ``file:line: what and why``."""
    found = []
    for package in FLOORS:
        for each in imports(root, package):
            broken = [*_walls(each), *_stairs(each, package), *_shared(each)]
            found += [f"{each.file}:{each.line}: imports {each.module} ({why})" for why in broken]
    return found


def _walls(each: Import) -> Iterator[str]:
    for wall in WALLS:
        exempt = any(_within(each.importer, name) for name in wall.but)
        if _within(each.importer, wall.inside) and _within(each.module, wall.forbidden) and not exempt:
            yield wall.why


def _stairs(each: Import, package: str) -> Iterator[str]:
    if not _within(each.module, package) or each.importer.endswith(("__init__", "__main__")):
        return
    here, there = room(each.importer), room(each.module)
    floors = FLOORS[package]
    if here not in floors:
        yield f"{here} is no room of the house; docs/house.py lists them"
    elif there in floors and floors.index(there) < floors.index(here):
        yield f"{there} is above {here}"


def _shared(each: Import) -> Iterator[str]:
    crosses = _within(each.importer, "pretrain") and _within(each.module, "curation")
    if crosses and not any(_within(each.module, name) for name in SHARED):
        yield f"pretrain uses only {', '.join(SHARED[:2])}"


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def room(module: str) -> str:
    """The room in which a module lies: its folder, or the name under which single modules are gathered."""
    package, name = [*module.split("."), ""][:2]
    for gathered, modules in SINGLE.get(package, {}).items():
        if name in modules:
            return gathered
    return name


# ------------------------------------------------------------------------------------------------ picture

WIDTH, LEFT, HIGH, GAP, LINE = 620, 250, 30, 14, 15
INK, PAPER, LINES, ROOM = "#24424a", "#ffffff", "#5b9aa0", "#eef5f5"


def picture(root: Path, package: str) -> str:
    """One package as SVG: rooms from top to bottom with their modules, and an arc for every import between rooms."""
    rooms = [name for name in FLOORS[package] if _modules_of(root, package, name)]
    arcs: Counter[tuple[str, str]] = Counter()
    for each in imports(root, package):
        if _within(each.module, package):
            arcs[room(each.importer), room(each.module)] += 1
    places, top, boxes = {}, GAP, []
    for name in rooms:
        lines = _wrapped(_modules_of(root, package, name), 58)
        high = HIGH + LINE * (len(lines) - 1)
        places[name] = top + high / 2
        boxes.append(_box(name, lines, top, high))
        top += high + GAP
    drawn = [
        _arc(places[one], places[other], count)
        for (one, other), count in sorted(arcs.items())
        if one in places and other in places and one != other
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + GAP} {top}" '
            f'font-family="sans-serif" font-size="12" fill="{INK}" role="img" aria-label="Rooms of {package}">',
            f'<rect width="100%" height="100%" fill="{PAPER}"/>',
            *drawn,
            *boxes,
            "</svg>",
            "",
        ]
    )


def _modules_of(root: Path, package: str, name: str) -> list[str]:
    if name in SINGLE.get(package, {}):
        return [module for module in SINGLE[package][name] if (root / package / f"{module}.py").exists()]
    folder = root / package / name
    inside = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    return inside or ([name] if folder.with_suffix(".py").exists() else [])


def _wrapped(words: list[str], width: int) -> list[str]:
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 2 > width:
            lines.append("")
        lines[-1] += (", " if lines[-1] else "") + word
    return lines


def _box(name: str, lines: list[str], top: float, high: float) -> str:
    texts = [
        f'<text x="{LEFT + 120}" y="{top + 19 + LINE * number}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    return (
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{high}" rx="4" fill="{ROOM}" stroke="{LINES}"/>'
        f'<text x="{LEFT + 12}" y="{top + 19}" font-weight="bold">{escape(name)}</text>' + "".join(texts)
    )


def _arc(one: float, other: float, count: int) -> str:
    out = LEFT - 14 - min(abs(other - one) * 0.34, LEFT - 30)
    return (
        f'<path d="M {LEFT} {one} C {out} {one}, {out} {other}, {LEFT} {other}" fill="none" stroke="{LINES}" '
        f'stroke-opacity="0.55" stroke-width="{0.8 + min(count, 12) * 0.25:.2f}"><title>{count} imports</title></path>'
    )


def main() -> None:
    """Draw both packages into ``docs/assets``."""
    for package in FLOORS:
        (DOCS / "assets" / f"house-{package}.svg").write_text(picture(DOCS.parent, package), encoding="utf-8")


if __name__ == "__main__":
    main()
