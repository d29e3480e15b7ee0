"""What a new user types wrong, and the answer: one line that says what to type instead, and the exit code 2."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from curation import cli as curate
from curation.base.columns import table
from curation.sources.plan import list_sources, make_plan
from curation.sources.recipe import Recipe, load_recipe
from curation.sources.say import format_plan, format_sources
from pretrain import cli as pretrain

OWN = "name: mine\nsources: [{id: mine, path: mine}]\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to type commands in: a recipe, its images, and the output of a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "mine/a.png")
    for number in range(4):
        (tmp_path / f"labelled/{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (60 * number, 0, 0)).save(tmp_path / f"labelled/{number % 2}/{number}.png")
    (tmp_path / "mine.yaml").write_text(OWN)
    (tmp_path / "named.yaml").write_text(OWN.replace("name: mine", "name: My Corpus"))
    (tmp_path / "id.yaml").write_text(OWN.replace("id: mine", "id: My Folder"))
    (tmp_path / "corpus/shards").mkdir(parents=True)
    (tmp_path / "corpus/shards/index.parquet").write_bytes(b"an index")
    return tmp_path


WRONG = {
    "rs-curate run mine.yaml": "rs-curate run: --out is missing; example: rs-curate run mine.yaml --out corpus",
    "rs-curate run mine.yaml --out o --wrong": r"unknown: --wrong; see rs-curate --help",
    "rs-curate run mine.yaml --out o": r"source mine: its folder mine is relative; say where with --data DIR",
    "rs-curate run named.yaml --out o": r"name: lower case letters, digits and hyphens only, such as my-corpus",
    "rs-curate run id.yaml --out o": r"sources\.0\.id: lower case letters, digits and underscores only, such as my_",
    "rs-curate run mine.yaml deduplicate=of --out o": r"deduplicate\.method: Input should be 'near', 'exact' or 'off'",
    "rs-curate run mine.yaml --out o --dashboard no": r"'no': expected a port such as 8787, or HOST:8787",
    "rs-curate run mine.yaml --out o --dashboard 1 --scheduler tcp://x:1": r"the dashboard is the scheduler's",
    "rs-curate verify corpus": r"corpus/shards/index\.parquet: not a Parquet file",
    "rs-curate init nowhere": r"nowhere: does not exist; give the folder of your imagery",
    "rs-pretrain train dmeo --out r": r"dmeo: no such config; did you mean demo\?",
    "rs-pretrain train demo": "rs-pretrain train: --out is missing; example: rs-pretrain train demo",
    "rs-pretrain train demo data.shards=corpus --out r": r"corpus: is the output of a run; its shards are c",
    "rs-pretrain train demo data.shards=x objective.name=mae --out r": r"is no key of this objective, but of",
    "rs-pretrain train mae_vit_b data.shards=x epochs=1 --out r": r"warmup_epochs 40 exceeds epochs 1; set it too",
    "rs-pretrain train mae_vit_b data.shards=x objective.mask_ratio=2 --out r": r"objective\.mask_ratio: Input should",
    "rs-pretrain evaluate --encoder histogram --data labelled --k 1000": r"k 1000: there are 2 images to train on",
    "rs-pretrain evaluate --encoder histogram --data labelled --masks folders --votes plain": r"--votes: is of images",
    "rs-pretrain evaluate --encoder histogram --data x --masks folders --classes 1": r"'1': expected VALUE=NAME",
    "rs-pretrain evaluate --encoder histogram --data x --masks loveda --window 5": r"window: Input should be greater",
    "rs-pretrain visualise --run r --out seen.gif": r"seen\.gif: pictures are written as \.png or \.jpg",
    "rs-pretrain evaluate --encoder histogram --data labelled --tune": r"--tune: needs --masks; rs-pretrain evaluate",
    "rs-pretrain evaluate --encoder histogram --data labelled --masks folders --test-data x": r"--test-data: is of im",
    "rs-pretrain train demo data.shards=x objective.target_ratio=2 --out r": r"objective\.target_ratio: Input should",
}


@pytest.mark.parametrize("typed", WRONG)
def test_a_wrong_command_says_what_to_type(here: Path, typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = shlex.split(typed)
    try:
        code = {"rs-curate": curate.main, "rs-pretrain": pretrain.main}[program](words)
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr().err.strip()
    assert code == 2 and "\n" not in told
    assert re.search(WRONG[typed], told), told


@pytest.mark.parametrize(("program", "module"), [("rs-curate", curate), ("rs-pretrain", pretrain)])
def test_every_help_ends_with_an_example_that_parses(program: str, module, capsys: pytest.CaptureFixture[str]) -> None:
    for name, example in module.EXAMPLES.items():
        with pytest.raises(SystemExit):
            module.main([name, "--help"])
        assert capsys.readouterr().out.rstrip().endswith(f"example: {example}")
        first, *words = shlex.split(example)
        assert first == program and words[0] == name
        assert callable(module._parser().parse_args(words).command)


@pytest.mark.parametrize("words", [["evaluate", "suite"], ["bench", "step"]])
def test_help_of_a_command_below_another_ends_with_an_example_too(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        pretrain.main([*words, "--help"])
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"example: rs-pretrain {' '.join(words)} ")


# ------------------------------------------------------------------------------------------------ what comes next


def test_what_a_plan_says_to_type_next_works(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curate.main(["plan", "mine.yaml", "--data", "."]) == 0
    told = capsys.readouterr().out
    assert "nothing to download" in told and "rs-curate fetch" not in told
    commands = [shlex.split(line)[:5] for line in told.splitlines() if line.startswith("  rs-curate ")]
    assert [words[1] for words in commands] == ["check", "run", "run"]
    assert curate.main(commands[0][1:5]) == 0


def test_fetching_a_folder_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curate.main(["fetch", "mine.yaml", "--data", "."]) == 0
    assert "a folder of your own, nothing to fetch" in capsys.readouterr().out
    assert curate.main(["fetch", "mine.yaml", "--data", "elsewhere"]) == 1
    assert "elsewhere/mine does not exist, and nothing says where to fetch it from" in capsys.readouterr().out
    assert not (here / "elsewhere").exists()


def test_added_files_are_noticed(here: Path) -> None:
    import os

    from curation.sources.changes import changed_folder
    from curation.sources.inventory import write_inventory
    from curation.sources.recipe import resolve

    (here / "mine/sub").mkdir()
    Image.new("RGB", (64, 64)).save(here / "mine/sub/b.png")
    listing = here / "images.parquet"
    write_inventory(resolve(load_recipe("mine.yaml"), here), listing)
    assert changed_folder(listing, here / "mine") is None
    later = listing.stat().st_mtime_ns + 1_000_000_000
    os.utime(here / "mine/sub/b.png", ns=(later, later))  # written over in place
    assert changed_folder(listing, here / "mine") is None
    os.utime(here / "mine/sub", ns=(later, later))  # a name came or went
    assert changed_folder(listing, here / "mine") == "sub"
    os.utime(here / "mine/sub", ns=(0, 0))
    os.utime(here / "mine", ns=(later, later))
    assert changed_folder(listing, here / "mine") == "."


def test_nothing_kept_is_shown_all_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        Image.new("RGB", (96, 96), (number, 0, 0)).save(here / f"mine/flat_{number}.png")
    (here / "mine/broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert curate.main(["run", "mine.yaml", "--data", ".", "--out", "out", "--workers", "1"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"no tile was kept: 4 of 4 tiles are (blank|not_optical); .*out/report.html shows them", told), (
        told
    )
    assert "broken.jpg" in (here / "out/report.html").read_text()
    assert curate.main(["groups", "out"]) == 0
    assert capsys.readouterr().out == "no duplicates\n"
    # A second time: nothing is made anew, and a file that was added since is noticed.
    Image.new("RGB", (96, 96)).save(here / "mine/new.png")
    assert curate.main(["run", "mine.yaml", "--data", ".", "--out", "out", "--workers", "1"]) == 1
    assert "changed after it was listed; what was added, replaced or removed there is seen with --relist" in (
        capsys.readouterr().out
    )


# ------------------------------------------------------------------------------------------------ words for values


@pytest.mark.parametrize(
    ("written", "method"),
    [
        ("off", "off"),
        ("exact", "exact"),
        ("{method: off}", "off"),
        ("{method: exact, radius: 2}", "exact"),
        ("on", "near"),
    ],
)
def test_deduplication_is_switched_off_by_a_word(tmp_path: Path, written: str, method: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"{OWN}deduplicate: {written}\n")
    assert load_recipe(str(path)).deduplicate.method == method
    path.write_text(OWN)
    assert load_recipe(str(path), [f"deduplicate={written}"]).deduplicate.method == method


def test_a_recipe_survives_being_written_and_read(tmp_path: Path) -> None:
    import yaml

    recipe = Recipe.model_validate({"name": "m", "sources": [{"id": "s"}], "deduplicate": "off"})
    again = Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json"))))
    assert again == recipe


# ------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_tables_fit_the_terminal(width: int) -> None:
    """Lines of the table, that is down to the first empty line; the ids can still be typed."""
    sources = list_sources()
    for text in (
        format_sources(sources, width=width),
        format_plan(make_plan(load_recipe("opticalrs-4m")), width=width),
    ):
        lines = text.partition("\n\n")[0].splitlines()
        assert max(len(line) for line in lines if not line.startswith("(too wide")) <= width
    shown = format_sources(sources, width=width).partition("\n\n")[0]
    assert all(re.search(rf"^{source.id}\b", shown, re.MULTILINE) for source in sources)


def test_a_table_names_the_columns_that_do_not_fit() -> None:
    rows = [("a", "some words that are long", "1"), ("b", "x", "22")]
    assert table(("id", "words", "n"), rows, right=(2,), width=20) == (
        "id  words          n\n--  ------------  --\na   some words …   1\nb   x             22"
    )
    assert table(("id", "words", "n"), rows, right=(2,), width=14).splitlines()[-1] == "(too wide for 14 columns: n)"


# ------------------------------------------------------------------------------------------------ other answers


def test_training_without_torch_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from pretrain.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["train", "demo", "data.shards=x", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == "rs-pretrain: rs-pretrain needs torch; from the project's folder: pip install '.[pretrain]'"
    )


def test_a_file_that_is_no_image_is_named_without_an_address(here: Path) -> None:
    from pretrain.errors import InputError
    from pretrain.visualise import read_file

    with pytest.raises(InputError, match=r"mine\.yaml: not an image of a format that is read \(JPEG, PNG"):
        read_file(Path("mine.yaml"), 32)
