"""Every piece of Python and YAML in the documentation: the Python runs, on a small corpus; the YAML is understood.

The cookbook and "Publish a corpus" have tests of their own, which type their commands as well. Of "Encoders in other
libraries", which are not installed, only what needs none of them is looked at.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from textures import texture

from curation.base.settings import validate
from curation.cli import main
from curation.sources.recipe import Recipe
from pretrain import cli as pretrain
from pretrain.config import TrainConfig
from pretrain.evaluate.suite import Suite

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path for path in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]}
FENCE = re.compile(r"^```(python|yaml)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = {"docs/publish.md", "docs/cookbook.md", "docs/other_libraries.md"}

SMALL = """
encoder: {name: vit_tiny_patch16_224, args: {img_size: 32, patch_size: 8, depth: 1, embed_dim: 24, num_heads: 2}}
objective: {name: mae, decoder_depth: 1, decoder_dim: 16, decoder_heads: 2}
data: {shards: corpus/shards, workers: 0}
optim: {warmup_epochs: 0}
epochs: 1
global_batch: 4
picture_every: 0
device: cpu
"""


def pieces(page: str, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(PAGES[page].read_text(encoding="utf-8")) if kind == language]


def with_pieces(language: str) -> list[str]:
    return sorted(page for page in PAGES.keys() - ELSEWHERE if pieces(page, language))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a recipe with its corpus, labelled images, a training and its export."""
    root = tmp_path_factory.mktemp("snippets")
    for number in range(12):
        for folder in ("mine", f"labelled/{'ab'[number % 2]}"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            texture(number).save(root / folder / f"{number}.jpg")
    (root / "mine.yaml").write_text(
        f"name: demo\nsources: [{{id: mine, path: {root / 'mine'}}}]\nshards: {{max_samples: 4}}\n"
    )
    (root / "small.yaml").write_text(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["run", "mine.yaml", "--out", "corpus", "--workers", "1"]) == 0
        Path("shards").symlink_to("corpus/shards")
        assert pretrain.main(["train", "small.yaml", "--out", "trained"]) == 0
        assert pretrain.main(["export", "--run", "trained", "--out", "ENCODER"]) == 0
    return root


@pytest.mark.parametrize("page", with_pieces("python"))
def test_python_runs(
    place: Path, page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict[str, Any] = {}
    for piece in pieces(page, "python"):
        for library in ("datasets", "torchgeo"):
            if re.search(rf"^(import|from) {library}\b", piece, re.MULTILINE):
                pytest.importorskip(library)
        exec(piece, names)
    told = capsys.readouterr().out
    for line in SHOWN.get(page, ()):
        assert re.search(line, told, re.MULTILINE), told


SHOWN = {
    "docs/python.md": (
        r"^12 tiles of 12 images; what was not there already: \(",
        r"^\d+\.jpg \(192, 192\) kept \d+ grey levels$",
        r"^run:run +knn +\d+\.\d% \(\d+\.\d% to ",
        r"^histogram +linear +\d",
    ),
    "docs/shards.md": (r"^12 tiles$", r"^mine$", r"^12 tiles; the last: torch\.Size\(\[3, 192, 192\]\)"),
}
"""What pages print: twelve textures of 192 px, none of them a copy."""


@pytest.mark.parametrize("page", with_pieces("yaml"))
def test_yaml_is_understood(page: str) -> None:
    for piece in pieces(page, "yaml"):
        for document in yaml.safe_load_all(piece):
            _understood(document)


def _understood(document: dict[str, Any]) -> None:
    """Let the settings model of the command that reads it take a document; what it leaves out is added."""
    if "sources" in document:
        validate(Recipe, {"name": "mine", **document}, "recipe")
    elif "encoders" in document:
        validate(Suite, document, "suite")
    elif "objective" in document:
        validate(TrainConfig, {"data": {"shards": "shards"}, **document}, "config")
    elif "class_path" in document.get("model", {}):
        assert document["model"]["class_path"].startswith("terratorch.")  # Lightning's command line reads it
    else:
        assert "apiVersion" in document, f"of no command: {sorted(document)}"


def test_settings_of_other_libraries_are_whole() -> None:
    page = "docs/other_libraries.md"
    (terratorch,) = (yaml.safe_load(piece) for piece in pieces(page, "yaml"))
    assert terratorch["model"]["class_path"] == "terratorch.tasks.SemanticSegmentationTask"
    _, *configs = pieces(page, "python")  # the first imports torchgeo
    found = []
    for config in configs:
        names: dict[str, Any] = {}
        exec(config, names)  # mmengine's configurations are plain Python
        assert names["_base_"] and names["optim_wrapper"]["optimizer"]["type"] == "AdamW"
        found.append(names)
    segments, detects, rotates = found
    assert segments["model"]["decode_head"]["num_classes"] == 7  # LoveDA without "no data"
    # DIOR and DIOR-R have the same 20 classes (Li et al. 2020, section 3.1).
    assert len(set(detects["classes"])) == 20
    assert [each["model"]["roi_head"]["bbox_head"]["num_classes"] for each in (detects, rotates)] == [20, 20]


# ------------------------------------------------------------------------------------------------ the quick start

STEP = re.compile(r'^```yaml title="([^"]+)"\n(.*?)^```|^    (rs-[a-z]+ [^\n]*)$', re.MULTILINE | re.DOTALL)
"""A recipe with the name of its file, or a command."""
BRIEF = ["epochs=1", "optim.warmup_epochs=0", "global_batch=2", "max_batch_per_gpu=2", "data.workers=0", "device=cpu"]


def test_the_quick_start_is_true_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    """Its commands typed in their order, in one folder, with its recipes; images lie in the test's own ``/data``."""
    monkeypatch.chdir(tmp_path)
    for number, folder in enumerate(("my_images", "raw/city_2019", "raw/rivers")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for seed in range(4 * number, 4 * number + 4):
            texture(seed).save(tmp_path / "data" / folder / f"{seed}.jpg")
    page = PAGES["docs/quickstart.md"].read_text(encoding="utf-8").replace("/data/", f"{tmp_path}/data/")
    typed = 0
    for name, recipe, line in STEP.findall(page):
        if name:
            Path(name).write_text(recipe)
            continue
        program, *words = shlex.split(line)
        if program == "rs-pretrain":
            words = [word.replace("pretrain/configs", f"{repository}/pretrain/configs") for word in words]
            assert pretrain.main([*words, *BRIEF]) == 0, line
        else:
            assert main([*words, *(["--workers", "1"] if words[0] == "run" else [])]) == 0, line
        typed += 1
    assert typed == 6
    assert Path("run/log.jsonl").exists()
