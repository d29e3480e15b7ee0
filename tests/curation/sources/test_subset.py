"""Some of a source instead of all: archives that are not taken are neither fetched nor listed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from textures import texture

from curation.catalogue import read_table
from curation.cli import main
from curation.sources import key_fields
from curation.sources.fetch import FetchOptions, fetch
from curation.sources.hosts import Endpoints
from curation.sources.inventory import how_to_get, write_inventory
from curation.sources.plan import make_plan
from curation.sources.recipe import Recipe, ResolvedSource, SliceRules, resolve
from curation.sources.say import format_plan
from curation.sources.source import RemoteFile, Source
from curation.sources.subset import ALL, Subset, choose_files, lot, narrow


def named(*names: str) -> tuple[RemoteFile, ...]:
    return tuple(RemoteFile(name=name, url=f"https://host/{name}", size=100) for name in names)


YEARS = named(*(f"{year}.tar" for year in range(2011, 2021)))


def test_a_lot_is_blake2b() -> None:
    """printf '7\\0naip\\0a.tar' | b2sum -l 64"""
    assert f"{lot(7, 'naip', 'a.tar'):016x}" == "90164f8726ac4e5b"


def test_files_are_drawn_by_their_names_alone() -> None:
    def chosen(files: Sequence[RemoteFile], count: int, seed: int = 0) -> set[str]:
        return {file.name for file in choose_files(files, Subset(count, None, seed), "s")}

    assert len(chosen(YEARS, 3)) == 3
    assert chosen(YEARS[::-1], 3) == chosen(YEARS, 3) < chosen(YEARS, 4)
    assert chosen([file for file in YEARS if file.name in chosen(YEARS, 5)], 3) == chosen(YEARS, 3)
    assert len({frozenset(chosen(YEARS, 3, seed)) for seed in range(20)}) > 10
    assert choose_files(YEARS, ALL, "s") == list(YEARS)


def test_parts_of_an_archive_stay_together() -> None:
    files = named("a.zip", "a.z01", "b.tar.gzaa", "b.tar.gzab", "c.tar")
    for seed in range(8):
        names = {file.name for file in choose_files(files, Subset(1, None, seed), "s")}
        assert names in ({"a.zip", "a.z01"}, {"b.tar.gzaa", "b.tar.gzab"}, {"c.tar"})


def test_a_number_of_images_takes_as_many_archives_as_hold_them() -> None:
    """1,000 images in ten archives: 250 and a tenth more are in three of them."""
    source = Source(id="s", files=YEARS, container="tar", expected_images=1_000, listed_megabytes=50)
    taken, left = narrow(source, Subset(None, 250))
    assert len(taken.files) == 3 and taken.expected_images is None and taken.listed_megabytes == 15
    assert left == Subset(None, 250)
    assert narrow(source, Subset(None, 950)) == (source, Subset(None, 950))
    unknown = source.model_copy(update={"expected_images": None})
    assert narrow(unknown, Subset(None, 250)) == (unknown, Subset(None, 250))


def test_a_plan_sums_what_is_taken(tmp_path: Path) -> None:
    entry = {"id": "mine", "path": "mine", "files": [file.model_dump() for file in YEARS], "obtain": {"via": "direct"}}
    hub = {"via": "huggingface", "repository": "o/n"}
    other = {"id": "hub", "path": "hub", "listed_megabytes": 400, "listed_files": 8, "obtain": hub, "sample": 2}
    recipe = Recipe.model_validate({"name": "r", "sources": [entry | {"sample": 4, "max_images": 9}, other]})
    plan = make_plan(recipe, tmp_path)
    assert [row.megabytes for row in plan.rows] == [400e-6, 100]
    text = format_plan(plan)
    assert "drawn by the seed: mine 4 of 10 files, 9 images; hub 2 files" in text


def tar_of(*names: str) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            picture = io.BytesIO()
            texture(len(name), 64).save(picture, "png")
            member = tarfile.TarInfo(name)
            member.size = len(picture.getvalue())
            archive.addfile(member, io.BytesIO(picture.getvalue()))
    return held.getvalue()


def listed(resolved: ResolvedSource, out: Path) -> list[str]:
    write_inventory([resolved], out)
    return [row["image"] for row in read_table(out, "images").to_pylist()]


def test_of_a_bucket_only_what_is_drawn_is_fetched_and_listed(s3: tuple[Any, Endpoints], tmp_path: Path) -> None:
    client, ends = s3
    for letter in "abcde":
        names = [f"{letter}{number}.png" for number in range(4)]
        client.put_object(Bucket="open", Key=f"set/{letter}.tar", Body=tar_of(*names))
    entry = {
        "id": "mine", "container": "tar", "images": ["**/*.png"], "sample": 2,
        "obtain": {"via": "s3", "repository": "s3://open/set/"},
    }  # fmt: skip

    def resolved(data: str, **fields: Any) -> ResolvedSource:
        recipe = Recipe.model_validate({"name": "r", "sources": [{"path": "mine", **entry, **fields}]})
        return resolve(recipe, tmp_path / data)[0]

    (result,) = fetch([resolved("some")], FetchOptions(ends=ends))
    assert (result.downloaded, result.error) == (2, "")
    some = listed(resolved("some"), tmp_path / "some.parquet")
    assert len(some) == 8 and len({path.partition("/")[0] for path in some}) == 2
    three = listed(resolved("some", max_images=3), tmp_path / "three.parquet")
    assert len(three) == 3 and set(three) < set(some)
    fetch([resolved("all", sample=5)], FetchOptions(ends=ends))
    assert listed(resolved("all"), tmp_path / "all.parquet") == some, "what lies there beside makes no difference"
    assert listed(resolved("all", max_images=3), tmp_path / "again.parquet") == three


def test_archives_that_a_manifest_names_and_nobody_asked_for_are_left(tmp_path: Path) -> None:
    for letter in "abc":
        (tmp_path / f"{letter}.tar").write_bytes(tar_of(f"{letter}.png"))
    source = Source(id="s", files=named("a.tar", "b.tar", "c.tar"), container="tar", images=("*.png", "*/*.png"))
    taken, left = narrow(source, Subset(1))
    rows = listed(ResolvedSource(taken, tmp_path, SliceRules(), 0, None, subset=left), tmp_path / "out.parquet")
    assert rows == [taken.files[0].name.replace("tar", "png")]


def test_a_broken_archive_keeps_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of("1.png", "2.png")[:700])
    (tmp_path / "b.tar").write_bytes(tar_of("1.png", "2.png"))
    source = Source(id="s", container="tar")
    resolved = ResolvedSource(source, tmp_path, SliceRules(), 0, None, subset=Subset(None, 1))
    rows = listed(resolved, tmp_path / "out.parquet")
    assert len(rows) == 2 and "a.tar/*" in rows


def test_the_seed_is_in_the_key_of_a_listing_that_is_drawn_and_in_no_other() -> None:
    source = Source(id="s")
    keys = [key_fields.listing(source, Subset(2, None, seed)) for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]
    assert key_fields.listing(source, Subset(None, None, 1)) == key_fields.listing(source)


@pytest.mark.parametrize("field", ["sample", "max_images"])
def test_nothing_of_a_source_is_no_number(field: str) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Recipe.model_validate({"name": "r", "sources": [{"id": "s", "path": "/x", field: 0}]})


def test_archives_of_a_split_that_is_left_out_are_not_fetched(tmp_path: Path) -> None:
    files = [*(file.model_dump() for file in named("a.tar", "b.tar")), {"name": "t.tar", "split": "test"}]
    told = {
        "id": "s",
        "path": "s",
        "container": "tar",
        "files": files,
        "splits": {"test": ["t*"]},
        "expected_images": 9,
    }
    for rules, names in (({}, ["a.tar", "b.tar"]), ({"splits": []}, ["a.tar", "b.tar", "t.tar"])):
        recipe = Recipe.model_validate({"name": "r", "sources": [told], "exclude": rules})
        (resolved,) = resolve(recipe, tmp_path)
        assert [file.name for file in resolved.source.files] == names
        assert resolved.source.leave == (("t.tar",) if len(names) == 2 else ())
        assert resolved.source.expected_images == (None if len(names) == 2 else 9)
        assert "drawn" not in format_plan(make_plan(recipe, tmp_path))
    (spacenet,) = resolve(Recipe.model_validate({"name": "r", "sources": ["spacenet2"]}), tmp_path)
    assert [file.name.split("_")[2] for file in spacenet.source.files] == ["train"] * 4


def test_what_to_type_for_a_part_of_a_source_does_not_fetch_all_of_it(tmp_path: Path) -> None:
    def advice(**fields: Any) -> str:
        recipe = Recipe.model_validate({"name": "r", "sources": [{"id": "satlaspretrain", **fields}]})
        (resolved,) = resolve(recipe, tmp_path)
        return how_to_get(resolved.source, resolved.root)

    assert advice() == f"rs-curate fetch satlaspretrain --data {tmp_path}"
    assert advice(sample=3) == "rs-curate fetch RECIPE --data DATA"


@pytest.mark.slow
def test_a_drawn_part_is_locked_and_rebuilt_from_the_part_alone(tmp_path: Path) -> None:
    data = tmp_path / "data/mine"
    data.mkdir(parents=True)
    for letter in "abc":
        (data / f"{letter}.tar").write_bytes(tar_of(*(f"{letter}{number}{'x' * number}.png" for number in range(4))))
    files = [{"name": f"{letter}.tar"} for letter in "abc"]
    told = {"id": "mine", "path": "mine", "container": "tar", "files": files, "sample": 2, "max_images": 5}
    recipe = {"name": "r", "sources": [told], "deduplicate": "off", "exclude": {"min_std": 0}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    line = ["run", str(tmp_path / "r.yaml"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main([*line, "--workers", "1", "--pictures", "0"]) == 0
    assert main(["lock", str(tmp_path / "out")]) == 0
    taken = {row["image"][0] for row in read_table(tmp_path / "out/catalogue.parquet", "catalogue").to_pylist()}
    assert len(taken) == 2
    (data / f"{({*'abc'} - taken).pop()}.tar").unlink()
    again = ["rebuild", str(tmp_path / "out/lock"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "again")]
    assert main([*again, "--workers", "1"]) == 0
    tars = [(tmp_path / out / "shards/r-000000.tar").read_bytes() for out in ("out", "again")]
    assert tars[0] == tars[1]
