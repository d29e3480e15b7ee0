"""``rs-curate audit`` on what other tools make: a folder with faults, one archive, WebDataset shards."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from textures import texture

from curation.catalogue import read_table
from curation.cli import main


def encoded(picture: np.ndarray, quality: int = 90) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def scene(seed: int, side: int = 192) -> np.ndarray:
    noise = np.random.default_rng([seed, 1]).normal(0, 2, (side, side, 3))
    return np.clip(np.asarray(texture(seed, side)) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def members() -> dict[str, bytes]:
    """Ten scenes: one is there twice, one cut short, one an evaluation image; and the classes of a mask."""
    files = {f"{n:03d}.jpg": encoded(scene(n)) for n in range(10)}
    files["again.jpg"] = encoded(np.rot90(scene(3)), 60)
    files["cut.jpg"] = files["004.jpg"][:1500]
    classes = np.kron(np.random.default_rng(0).integers(0, 3, (6, 6)), np.ones((32, 32), np.int64))
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)[classes]).save(file, "PNG")
    files["labels.png"] = file.getvalue()
    return files


@pytest.fixture
def prints(tmp_path: Path) -> Path:
    (tmp_path / "raw/evaluation").mkdir(parents=True)
    for n in (5, 70):
        (tmp_path / f"raw/evaluation/{n}.jpg").write_bytes(encoded(np.fliplr(scene(n))))
    (tmp_path / "evaluation.yaml").write_text("id: evaluation\n")
    arguments = ["--benchmark", str(tmp_path / "evaluation.yaml"), "--data", str(tmp_path / "raw"), "--workers", "1"]
    assert main(["fingerprint", *arguments, "--out", str(tmp_path / "prints")]) == 0
    return tmp_path / "prints"


def corpus_of(kind: str, members: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir()
    if kind == "folder":
        for name, data in members.items():
            (folder / name).write_bytes(data)
        return folder
    if kind == "archive":
        with zipfile.ZipFile(folder / "all.zip", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return folder / "all.zip"
    with tarfile.open(folder / "shard-000000.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
        for name, data in members.items():
            for member, content in ((name, data), (f"{Path(name).stem}.json", b"{}")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
    return folder


@pytest.mark.parametrize("kind", ["folder", "archive", "webdataset"])
def test_everything_wrong_with_a_corpus_is_found(tmp_path, members, prints, capsys, kind):
    corpus = corpus_of(kind, members, tmp_path / "corpus")
    capsys.readouterr()
    arguments = [str(corpus), "--out", str(tmp_path / "audit"), "--fingerprints", str(prints), "--workers", "1"]
    assert main(["audit", *arguments, "--pictures", "20"]) == 0
    told = capsys.readouterr().out
    rows = read_table(tmp_path / "audit/trial/catalogue.parquet", "catalogue").to_pylist()
    verdicts = {Path(row["image"]).name: row["verdict"] for row in rows if row["verdict"] not in ("kept", "sliced")}
    assert verdicts.pop("labels.png") == "not_optical"
    assert verdicts.pop("again.jpg", None) or verdicts.pop("003.jpg", None)  # whichever is kept
    assert verdicts == {"cut.jpg": "unreadable", "005.jpg": "leak"}
    assert "13 images, 12 tiles; nothing speaks against 9 of them" in told
    assert "evaluation 1" in told and str(tmp_path / "audit/trial/report.html") in told
    assert (tmp_path / "audit/trial/report.html").stat().st_size > 10_000
    assert not (tmp_path / "audit/shards").exists()


def test_a_file_that_is_no_archive_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("nothing")
    assert main(["audit", str(tmp_path / "notes.txt"), "--out", str(tmp_path / "audit")]) == 2
    assert "neither a folder nor an archive" in capsys.readouterr().err


def test_a_benchmark_without_fingerprints_is_named(tmp_path, members, capsys):
    corpus = corpus_of("folder", members, tmp_path / "corpus")
    assert main(["audit", str(corpus), "--out", str(tmp_path / "audit"), "--guard", "aid", "--workers", "1"]) == 2
    assert "rs-curate fingerprint --benchmark aid" in capsys.readouterr().err


def test_a_folder_without_fingerprints_is_refused(tmp_path, members, capsys):
    corpus = corpus_of("folder", members, tmp_path / "corpus")
    assert main(["audit", str(corpus), "--out", str(tmp_path / "audit"), "--fingerprints", str(corpus)]) == 2
    assert "holds no fingerprints" in capsys.readouterr().err


def test_an_evaluation_set_may_be_audited_and_demands_a_guard_before_it_becomes_shards(tmp_path, capsys):
    folder = tmp_path / "uc_merced"
    (folder / "Images/beach").mkdir(parents=True)
    for n in range(3):
        Image.fromarray(scene(n)).save(folder / f"Images/beach/beach{n:02d}.tif")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"name: mine\nsources: [{{id: uc_merced, path: {folder}}}]\n")
    assert main(["run", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
    assert "guard.benchmarks=[uc_merced] keeps them out, --unguarded uc_merced takes" in capsys.readouterr().err
    assert not (tmp_path / "out/.stages").exists()
    assert main(["audit", str(folder), "--out", str(tmp_path / "audit"), "--workers", "1", "--pictures", "0"]) == 0
    assert "3 images, 3 tiles; nothing speaks against 3 of them" in capsys.readouterr().out
    taken = ["run", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1", "--unguarded", "uc_merced"]
    assert main(taken) == 0
    assert "Not guarded against leaks, as asked for: uc_merced" in (tmp_path / "out/report.html").read_text()
