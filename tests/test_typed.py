"""Every command that the documentation shows is typed, page by page, on a desk where what it names is there.

In place of the internet and of the Hub stand servers of this machine, in place of the shipped recipes of terabytes
small ones of the same names. Trainings are made brief. Some pages have tests of their own; what nobody types is listed
with the reason.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from loopback import serving
from PIL import Image
from rasterio.transform import from_origin
from textures import texture

from curation import cli as curate
from pretrain import cli as pretrain

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path for path in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]}
PROGRAM = r"(?:rs-curate|rs-pretrain|torchrun|dask|srun|python|pip|git|cd|make|ssh|energon|sha256sum)"
LINE = re.compile(rf"^(?: {{4,}}|)({PROGRAM} .*)$", re.MULTILINE)
CODE = re.compile(r"^```bash.*?^```|(?:^ {4,}\S.*\n)+", re.MULTILINE | re.DOTALL)
OURS = ("rs-curate", "rs-pretrain")

ELSEWHERE = {
    "docs/cookbook.md": "test_cookbook.py",
    "docs/quickstart.md": "test_snippets.py",
    "docs/publish.md": "curation/release/test_publish_page.py",
    "docs/loading.md": "pretrain/test_loading_page.py",
    "docs/remote.md": "curation/remote/test_remote_docs.py",
    "docs/cluster.md": "curation/executor/test_cluster_page.py",
}
"""Pages whose commands another test types."""

NOT_TYPED = {
    r"^(pip|git|cd) ": "installs this project from a clone, which is what the tests run in",
    r"^make ": "starts these tests, or the demo, whose chain is test_chain.py",
    r"^ssh ": "wants a second machine",
    r"^energon ": "of a library that is not installed; tests/curation/shards/test_consume.py tries it where it is",
    r"^rs-curate COMMAND|^rs-pretrain COMMAND": "stands for every command; test_messages.py asks each for its help",
    r"^rs-pretrain evaluate suite benchmarks/": "wants weights of 2 GB that others released, and hours",
    r"^python (-m )?benchmarks": "measures for minutes to hours; the last test here runs those that need no data set",
    r"^torchrun --nproc-per-node=8 ": "wants eight GPUs; docs/cluster.md has the line that is typed",
}
"""Commands that no test types, and why."""


def lines(page: str) -> list[str]:
    code = "\n".join(CODE.findall(PAGES[page].read_text(encoding="utf-8"))).replace("\\\n", " ")
    found = [re.sub(r"\s+", " ", line.partition("  #")[0]).strip() for line in LINE.findall(code)]
    return [line for line in found if not any(re.search(each, line) for each in NOT_TYPED)]


def test_every_command_is_typed_or_says_why_not() -> None:
    typed = {page for page in PAGES if lines(page)}
    assert typed == {*DESK, *ELSEWHERE}
    assert all((ROOT / "tests" / test).exists() for test in ELSEWHERE.values())
    assert {line.split()[0] for page in DESK for line in lines(page)} == {*OURS}


# ------------------------------------------------------------------------------------------------ what words mean

CHOSEN = ((r"\s*\[[^\]]*\]", ""), (r"(\b[A-Z_]+)\|[A-Z|_]+", r"\1"))
"""How a synopsis is read: what may be left out is, and of alternatives the first is taken."""

CURATE = {
    "RECIPE": "mine.yaml", "FOLDER": "their_tars", "ID": "my_test.yaml", "CORPUS": "corpus", "--data DIR": "--data raw",
    "--out DIR": "--out made", "--out OUT": "--out made", "OUT": "corpus", "LOCK": "corpus/lock", "IMAGE": "city/a.jpg",
    "A B": "corpus corpus/lock", "URL": "{here}/published", "SHARDS": "packed", "FILE": "probe.json",
}  # fmt: skip
PRETRAIN = {
    "train CONFIG": "train small.yaml",
    "data CONFIG": "data small.yaml", "CONFIG": "suite.yaml", "--data DIR": "--data labelled",
    "--run DIR": "--run run",
    "run:DIR": "run:run", "--run OTHER": "--run run", "--out FOLDER": "--out shown", "--out DIR": "--out tried",
    "--device cuda": "--device cpu", "--compile": "", "--precision bf16": "--precision fp32",
    "pretrain/configs": f"{ROOT}/pretrain/configs", "demo/corpus": "corpus",
}  # fmt: skip
DESK: dict[str, dict[str, str]] = {
    "docs/audit.md": {"/data/their_shards": "their_tars", "raw/.fingerprints": "prints"},
    "docs/benchmarks/guard.md": {"DATA/classification": "their_tars"},
    "docs/benchmarks/learning.md": {
        "RSSCN7_half": "mine",
        "small_mae": "small.yaml",
        "RSSCN7": "labelled",
        "corpus": "rsscn",
    },
    "docs/benchmarks/shards.md": {"manifests/": f"{ROOT}/manifests/", "corpus": "demo"},
    "docs/benchmarks/step.md": {},
    "docs/benchmarks/train.md": {"small_mae": "small.yaml"},
    "docs/curate.md": {"init FOLDER": "init mine", "run FOLDER --out DIR": "run mine --out looked_at"},
    "docs/deduplication.md": {},
    "docs/exclusion.md": {"--out OUT": "--out corpus"},
    "docs/fetching.md": {},
    "docs/methods/mae.md": {"RUN": "by_mae"},
    "docs/methods/scale_mae.md": {"RUN": "by_scale_mae"},
    "docs/methods/selective_mae.md": {"RUN": "by_selective_mae"},
    "docs/other_libraries.md": {},
    "docs/pretrain.md": {},
    "docs/recipes/open-13m.md": {
        "--out OUT": "--out open_13m",
        "publish OUT": "publish open_13m",
        "hf://datasets/OWNER/NAME": "{here}/hub_13m",
    },
    "docs/recipes/open-4m.md": {
        "--out OUT": "--out open_4m",
        "publish OUT": "publish open_4m",
        "hf://datasets/OWNER/NAME": "{here}/hub_4m",
    },
    "docs/recipes/opticalrs-13m.md": {"--out OUT": "--out optical_13m"},
    "docs/recipes/opticalrs-4m.md": {"--out OUT": "--out optical_4m"},
    "docs/shards.md": {"some/folder": "their_tars"},
    "docs/troubleshooting.md": {},
}
"""Page -> what its words mean on the desk, before those of all pages."""

BRIEF = "epochs=1 optim.warmup_epochs=0 global_batch=4 max_batch_per_gpu=4 data.workers=0 device=cpu picture_every=0"
MORE = {
    "rs-curate run": "--workers 1", "rs-curate audit": "--workers 1", "rs-curate verify": "--workers 1",
    "rs-curate rebuild": "--workers 1", "rs-curate fingerprint": "--workers 1",
    "rs-pretrain bench step": "--encoder vit_tiny_patch16_224 --batch 2 --repeats 1",
    "rs-pretrain bench train": "--steps 4 --seconds 5",
    "rs-pretrain bench data": "--workers 1 --seconds 1",
}  # fmt: skip
"""Words behind a command that make it a matter of seconds."""


def words_of(page: str, line: str, here: Path) -> list[str]:
    for pattern, meant in CHOSEN:
        line = re.sub(pattern, meant, line)
    all_pages = CURATE if line.startswith("rs-curate") else PRETRAIN
    for word, meant in [*DESK[page].items(), *((w, m) for w, m in all_pages.items() if w not in DESK[page])]:
        line = re.sub(
            rf"(?<![\w./-]){re.escape(word)}(?![\w])" if word[-1].isalnum() else re.escape(word),
            meant.replace("{here}", here.as_uri()),
            line,
        )
    line = re.sub(r"^(rs-pretrain (?:bench )?(?:train|data) \S+)", rf"\1 {BRIEF}", line)
    more = next((more for command, more in MORE.items() if line.startswith(command)), "")
    return shlex.split(f"{line} {more}".replace("&", ""))


# ------------------------------------------------------------------------------------------------ what lies on the desk


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with images, recipes, a corpus, a training and its export, and servers of what is fetched."""
    root = tmp_path_factory.mktemp("desk")
    _images(root)
    _masks(root)
    handler = functools.partial(_Handler, directory=str(root / "served"))
    with serving(handler) as url, pytest.MonkeyPatch.context() as patch:
        _manifests(root, url)
        patch.setattr("curation.sources.source.manifests_folder", lambda kind: root / "manifests" / kind)
        patch.chdir(root)
        for line in MADE:
            assert _typed(shlex.split(line)) == 0, line
        shutil.copytree(
            root / "corpus/shards", root / "their_tars", ignore=shutil.ignore_patterns("*.parquet", "*.json")
        )
        yield root


MADE = (
    "rs-curate fingerprint --benchmark my_test.yaml --data raw --out prints --workers 1",
    "rs-curate run mine.yaml --data raw --out corpus --workers 1",
    "rs-curate lock corpus",
    f"rs-pretrain train small.yaml --out run {BRIEF}",
    "rs-pretrain export --run run --out ENCODER",
)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def _images(root: Path) -> None:
    """Images of one's own, one of them with a place; sixty with classes; two evaluation sets of one image."""
    for number in range(12):
        path = root / "raw/mine" / ("folder/image.png" if number == 0 else f"city/{chr(96 + number)}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        texture(number).save(path)
    _placed(root / "raw/mine/city/z.tif", np.asarray(texture(12)))
    for number in range(60):
        path = root / f"labelled/{'ab'[number % 2]}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        texture(100 + number, 48).save(path)
    for folder in ("raw/my_test", "raw/aid/AID/Airport"):
        (root / folder).mkdir(parents=True)
        texture(200).save(root / folder / "airport_1.jpg")
    names = sorted(path.relative_to(root / "labelled").as_posix() for path in (root / "labelled").rglob("*.jpg"))
    (root / "train.txt").write_text("\n".join(names[::2]))
    (root / "test.txt").write_text("\n".join(names[1::2]))
    for name in ("mine", "city"):
        (root / name).symlink_to("raw/mine")
    for name, source in (("a.jpg", 1), ("b.jpg", 2)):
        texture(source).save(root / name)


def _masks(root: Path) -> None:
    """LoveDA and SpaceNet 1 as they are published, and folders of one's own; of two classes each."""
    half = np.zeros((32, 32), np.uint8)
    half[:, 16:] = 1
    for number in range(4):
        rgb = texture(300 + number, 32)
        for folder, mask in ((f"LoveDA/{('Train', 'Val')[number % 2]}/Rural", half + 1), ("towns", half * 255)):
            images, masks = ("images_png", "masks_png") if folder.startswith("LoveDA") else ("images", "masks")
            for kind, picture in ((images, rgb), (masks, Image.fromarray(mask))):
                (root / folder / kind).mkdir(parents=True, exist_ok=True)
                picture.save(root / folder / kind / f"{number}.png")
        _outlined(root / "SN1_buildings/train", f"AOI_1_RIO_img{number}", np.asarray(rgb))


def _placed(path: Path, rgb: np.ndarray) -> None:
    """A GeoTIFF of pixels of 1e-5 degrees, its corner in Rio de Janeiro."""
    place = from_origin(-43.5, -22.9, 1e-5, 1e-5)
    high, wide, _ = rgb.shape
    with rasterio.open(path, "w", "GTiff", wide, high, 3, crs="EPSG:4326", transform=place, dtype="uint8") as file:
        file.write(rgb.transpose(2, 0, 1))


def _outlined(folder: Path, name: str, rgb: np.ndarray) -> None:
    for kind in ("3band", "geojson"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    _placed(folder / f"3band/3band_{name}.tif", rgb)
    left, right, top, low = -43.5, -43.5 + 16e-5, -22.9, -22.9 - 32e-5
    ring = [[left, top], [right, top], [right, low], [left, low], [left, top]]
    house = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    collection = {"type": "FeatureCollection", "features": [house]}
    (folder / f"geojson/Geo_{name}.geojson").write_text(json.dumps(collection))


def _manifests(root: Path, url: str) -> None:
    """Shipped names with little behind them: two recipes, their source on a server, the set that they guard."""
    (root / "served").mkdir()
    for archive, members in (("tiles.zip", range(400, 404)), ("aid.zip", range(500, 502))):
        with zipfile.ZipFile(root / "served" / archive, "w") as file:
            for number in members:
                texture(number).save(root / "served/one.jpg")
                file.write(root / "served/one.jpg", f"images/{number}.jpg")
    guarded = yaml.safe_load((ROOT / "manifests/recipes/opticalrs-4m.yaml").read_text())["guard"]["benchmarks"]
    open_ = {"redistributable": "yes", "licence": "CC0-1.0"}
    facts = {"task": "detection", "obtain": {"via": "direct"}, **open_}

    def source(name: str, archive: str, **more: object) -> dict[str, object]:
        return {"id": name, "files": [{"name": archive, "url": f"{url}/{archive}"}], **facts, **more}

    documents: dict[str, object] = {
        "sources/landcoverai": source("landcoverai", "tiles.zip"),
        "sources/archived": source("archived", "tiles.zip", obtain={"via": "zenodo"}),
        **{f"benchmarks/{name}": source(name, "aid.zip") for name in guarded},
        **{f"recipes/{name}": {"name": name, "sources": [{"id": "landcoverai"}], "guard": {"benchmarks": guarded}}
           for name in ("opticalrs-4m", "opticalrs-13m", "open-4m", "open-13m")},
        "../mine": {"name": "mine", "sources": [{"id": "mine", "path": "mine", "gsd_m": 0.5, **open_}]},
        "../my_test": {"id": "my_test", "label_from": "parent"},
        "../small": yaml.safe_load(SMALL),
        "../suite": yaml.safe_load(SUITE),
    }  # fmt: skip
    for path, document in documents.items():
        file = root / f"manifests/{path}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(document))


SMALL = """
encoder: {name: vit_tiny_patch16_224, args: {img_size: 32, patch_size: 8, depth: 1, embed_dim: 24, num_heads: 2}}
objective: {name: mae, decoder_depth: 1, decoder_dim: 16, decoder_heads: 2}
data: {shards: corpus/shards, workers: 0}
"""
SUITE = """
encoders: {ours: "run:run", colours: histogram}
datasets: {classes: {path: labelled}}
protocols: {kNN: {name: knn, k: 5}}
"""


# ------------------------------------------------------------------------------------------------ typing


def _typed(words: Sequence[str]) -> int:
    program, *rest = words
    return (curate if program == "rs-curate" else pretrain).main(rest)


BENCH = "rs-pretrain bench step"
"""Starts a process for each method and size, each of which imports torch."""


@pytest.mark.parametrize("page", DESK)
def test_the_commands_of_a_page_work(
    desk: Path, page: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(desk)
    if page == "docs/pretrain.md":
        request.getfixturevalue("hub")
    for line in lines(page):
        words = words_of(page, line, desk)
        if not line.startswith(BENCH):
            assert _typed(words) == 0, shlex.join(words)


@pytest.mark.soak
def test_every_bench_of_a_page_works(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    typed = {tuple(words_of(page, line, desk)) for page in DESK for line in lines(page) if line.startswith(BENCH)}
    assert len(typed) > 1
    for words in typed:
        assert _typed(words) == 0, shlex.join(words)


LITTLE = {
    "containers.py": "--images 40 --rounds 1",
    "neighbours.py": "--codes 2e4 --rounds 1",
    "select_stage.py": "--rows 2e4",
    "shard_plan.py": "--rows 2e4",
    "shards.py": "--samples 60 --rounds 1",
    "scan.py": "--rounds 1 --count 4 --side 1200",
    "fuzz.py": "--files 20 --workers 1",
    "guard.py --tiles": "--tiles 2e4 --prints 1e3",
    "first_hour.py --parts folders --count": "--count 4",
}
"""Benchmarks that make what they measure, and how they measure little."""
BENCHMARK = re.compile(r"^ {4,}python benchmarks/(.*)$", re.MULTILINE)


def benchmarks() -> list[str]:
    found = [
        line.partition("  #")[0].strip() for page in PAGES.values() for line in BENCHMARK.findall(page.read_text())
    ]
    return [line for line in found if any(line.startswith(script) for script in LITTLE)]


@pytest.mark.soak
@pytest.mark.parametrize("line", benchmarks())
def test_a_benchmark_measures_little(line: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(8):
        texture(number, 600).save(tmp_path / f"images/{number}.jpg")
    words = [word for script, word in LITTLE.items() if line.startswith(script)]
    for word, meant in {"FOLDER": "images", "DIR": "scratch", "/dev/shm/bench": "scratch", "[--threads 2]": ""}.items():
        line = line.replace(word, meant)
    script, *rest = shlex.split(f"{line} {words[0]}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *rest],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
