"""The documentation names what exists: columns with their types, verdicts, options, fields with their defaults."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pydantic_core import PydanticUndefined

from curation import cli as curate
from curation.base.settings import Strict
from curation.base.terminal import parse
from curation.catalogue import CATALOGUE, IMAGES, TILES, VERDICTS
from curation.cli import main
from curation.sources.recipe import Recipe, RecipeSource
from curation.sources.source import Source
from pretrain import cli as pretrain

TABLE_ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<second>[^|]*) \|.*\|$", re.MULTILINE)


@pytest.fixture(scope="module")
def docs(repository: Path) -> Path:
    return repository / "docs"


def test_every_column_is_documented_with_its_type(docs: Path) -> None:
    rows = dict(TABLE_ROW.findall((docs / "catalogue.md").read_text(encoding="utf-8")))
    for schema in (CATALOGUE, TILES, IMAGES):
        for field in schema:
            assert rows.get(field.name) == _type_in_words(field.type), field.name


def _type_in_words(kind: pa.DataType) -> str:
    names = {"double": "float64", "float": "float32"}
    if pa.types.is_dictionary(kind):
        return "category"
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.list_size} {_type_in_words(kind.value_type)}"
    if pa.types.is_list(kind):
        return f"list of {_type_in_words(kind.value_type)}"
    if pa.types.is_fixed_size_binary(kind):
        return f"binary ({kind.byte_width})"
    return names.get(str(kind), str(kind))


def test_every_verdict_is_documented_in_order_of_precedence(docs: Path) -> None:
    text = (docs / "catalogue.md").read_text(encoding="utf-8").partition("## Verdicts")[2].partition("\n## ")[0]
    assert tuple(name for name, _ in TABLE_ROW.findall(text)) == VERDICTS


def test_pages_of_the_navigation_exist_and_no_page_is_left_out(docs: Path, repository: Path) -> None:
    navigation = yaml.safe_load((repository / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages, there = set(_pages(navigation)), {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    tables = {page for page in there if page.startswith("benchmarks/gpu/")}  # of benchmarks/gpu.sh, where it was run
    assert pages == there - tables


def _pages(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    inner = entry.values() if isinstance(entry, dict) else entry
    return [page for part in inner for page in _pages(part)]


PLAIN = {"name", "description", "seed", "sources", "left_out"}


@pytest.mark.parametrize("section", sorted(set(Recipe.model_fields) - PLAIN))
def test_every_rule_of_a_recipe_is_documented_with_its_default(docs: Path, section: str) -> None:
    _compare(_table_below(docs, f"### {section}"), type(Recipe.model_fields[section].default))


def test_recipe_and_source_fields_are_documented(docs: Path) -> None:
    _compare(_table_below(docs, "### sources"), RecipeSource)
    assert set(_table_below(docs, "## Recipes")) >= PLAIN
    assert set(_table_below(docs, "### sources")) <= {*RecipeSource.model_fields, *Source.model_fields}


def _table_below(docs: Path, heading: str) -> dict[str, str]:
    text = (docs / "curate.md").read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    return dict(TABLE_ROW.findall(re.split(r"\n##+ ", text)[0]))


def _compare(rows: dict[str, str], model: type[Strict]) -> None:
    assert set(model.model_fields) <= set(rows)
    for name, field in model.model_fields.items():
        assert rows[name].strip("`") == _default_in_words(field.default), name


def _default_in_words(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, tuple):
        return ", ".join(value) or "empty"
    return value if isinstance(value, str) else json.dumps(value)


def test_every_command_and_option_is_documented(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^    ([a-z]+)\b", _help(capsys), re.MULTILINE)
    assert {"run", "verify"} <= set(commands)
    text = (docs / "curate.md").read_text(encoding="utf-8")
    for command in commands:
        part = text.partition(f"\n## rs-curate {command}\n")[2].partition("\n## ")[0]
        options = set(re.findall(r"^\s+(--[a-z-]+)", _help(capsys, command), re.MULTILINE))
        assert part and not {option for option in options if f"`{option}" not in part}, command


def _help(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ what is typed

COMMAND = re.compile(r"^(?: {4,}|)(?:srun )?((?:rs-curate|rs-pretrain|torchrun|dask) .*)$", re.MULTILINE)
ROOT = Path(__file__).parents[1]
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md"])
    if COMMAND.search(path.read_text(encoding="utf-8"))
]
SYNOPSIS = re.compile(r"\[[^\]]*\]|\.\.\.|[A-Z]\|[A-Z]| COMMAND ")
"""What stands for words that are yet to be chosen; such lines cannot be typed."""


def _typed(page: str) -> Iterator[list[str]]:
    """Command lines of a page: indented, in a script, or as the command of a container."""
    code = re.findall(r"^```bash.*?^```|(?:^ {4,}\S.*\n)+", page, re.MULTILINE | re.DOTALL)
    for line in COMMAND.findall("\n".join(code).replace("\\\n", " ")):
        if not SYNOPSIS.search(line):
            yield shlex.split(line.removesuffix(" &"), comments=True)
    for text in re.findall(r"^```yaml.*?\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for found in re.findall(r"command: (\[.*?\])", text):
            yield yaml.safe_load(found)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_understood(page: str) -> None:
    for command in _typed((ROOT / page).read_text(encoding="utf-8")):
        _understood(*command)


def _understood(program: str, *words: str) -> None:
    """Let the program's own parser read a command; it exits where it does not understand."""
    if program == "dask":
        from distributed.cli import dask_scheduler, dask_worker

        name, *words = (word.replace("$SLURM_CPUS_PER_TASK", "32") for word in words)
        {"scheduler": dask_scheduler, "worker": dask_worker}[name].main.make_context(name, list(words))
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(list(words))
        assert options.module and options.training_script == "pretrain"
        assert parse(pretrain._parser(), options.training_script_args).command
    else:
        assert parse({"rs-curate": curate, "rs-pretrain": pretrain}[program]._parser(), words).command


def test_every_benchmark_of_a_page_is_there_with_its_options(repository: Path) -> None:
    typed = {
        line
        for path in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
        for line in re.findall(r"python (benchmarks/\w+\.py[^\n`]*)", path.read_text(encoding="utf-8"))
    }
    assert len(typed) > 10
    for script, *words in (shlex.split(line.partition("  #")[0]) for line in typed):
        code = (repository / script).read_text(encoding="utf-8")
        assert all(f'"{word.partition("=")[0]}"' in code for word in words if word.startswith("--")), (script, words)


def test_messages_are_those_of_the_code(docs: Path, repository: Path) -> None:
    """Between the marks that stand for names and numbers, a message stands in one string of the code."""
    texts = []
    for room in ("curation", "pretrain"):
        for path in (repository / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                texts.append("\0".join(str(part.value) for part in parts if isinstance(part, ast.Constant)))
    page = " ".join((docs / "troubleshooting.md").read_text(encoding="utf-8").split())
    pieces = [piece.strip(" :;,(") for told in re.findall(r"`([^`]*…[^`]*)`", page) for piece in told.split("…")]
    wanted = {piece for piece in pieces if len(piece) > 3}
    code = "\n".join(texts)
    assert len(wanted) > 40
    assert not {piece for piece in wanted if piece not in code}
