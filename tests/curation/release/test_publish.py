"""Publishing to a folder and to S3 (moto's server): what arrives, what is refused, how a broken upload goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hub_server
import mlcroissant
import numpy as np
import pytest
import webdataset
import yaml
from moto.server import ThreadedMotoServer

from curation.base.errors import WorkError
from curation.base.remote import open_store
from curation.cli import main
from curation.release.publish import assemble, publish


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_arrives_in_a_folder_is_whole_loads_and_rebuilds(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "to"
    assert main(["publish", str(out), to.as_uri()]) == 0
    assert files(to) == {
        "README.md", "ATTRIBUTION.md", "croissant.json", "SHA256SUMS", "footprints.parquet", "map.png", "sheet.jpg",
        "lock/lock.json", "lock/catalogue.parquet", "lock/index.parquet", "lock/checksums.json", "shards/index.parquet",
        "shards/checksums.json", *(f"shards/shared-{n:06d}.tar" for n in range(3)),
    }  # fmt: skip
    told = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=to, capture_output=True, text=True, check=True)
    assert told.stdout.count(": OK") == len(files(to)) - 1
    assert main(["verify", str(to / "shards"), "--workers", "1", "--decode"]) == 0
    tars = [str(path) for path in sorted((to / "shards").glob("*.tar"))]
    assert len(list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))) == 9
    line = ["rebuild", str(to / "lock"), "--data", str(out.parent), "--out", str(tmp_path / "again"), "--workers", "1"]
    assert main(line) == 0
    capsys.readouterr()
    assert main(["publish", str(out), to.as_uri()]) == 0
    assert f"{to.as_uri()}: 0 files uploaded, 15 were there; all have their checksums" in capsys.readouterr().out


def test_the_card_has_the_front_matter_of_the_hub_and_names_every_source(out: Path, tmp_path: Path) -> None:
    assert main(["publish", str(out), tmp_path.as_uri()]) == 0
    _, front, body = (tmp_path / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(front)
    assert (told["license"], told["size_categories"]) == ("other", ["n<1K"])
    assert told["configs"] == [{"config_name": "default", "data_files": "shards/*.tar"}]
    for words in ("| photos (`photos`) | 8 | CC-BY-4.0 |", "| scenes (`scenes`) | 1 | CC0-1.0 | https://example.org |"):
        assert words in body
    assert "\n\n- photos: Somebody (2024)\n\n## Statistics" in body
    assert "![Where the tiles lie on the Earth](map.png)" in body
    assert "Somebody (2024)" in (tmp_path / "ATTRIBUTION.md").read_text()


def test_croissant_is_valid_and_its_records_are_the_samples(out: Path, tmp_path: Path) -> None:
    assert main(["publish", str(out), tmp_path.as_uri()]) == 0
    dataset = mlcroissant.Dataset(jsonld=tmp_path / "croissant.json")
    assert not dataset.metadata.issues.errors
    records = list(dataset.records("samples"))
    assert len(records) == 9
    assert {record["samples/source"].decode() for record in records} == {"photos", "scenes"}
    assert sorted(np.unique([record["samples/width"] for record in records])) == [192, 256]


def test_pixels_go_out_only_where_every_source_allows_it(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(out, tmp_path / "out")
    made = tmp_path / "out/.stages/made.json"
    record = json.loads(made.read_text())
    record["sources"]["photos"]["redistributable"] = "unknown"
    made.write_text(json.dumps(record))
    to = tmp_path / "to"
    assert main(["publish", str(tmp_path / "out"), to.as_uri()]) == 2
    assert "which these do not: photos (unknown); leave them out" in capsys.readouterr().err
    assert not to.exists()
    assert main(["publish", str(tmp_path / "out"), to.as_uri(), "--lock-only"]) == 0
    assert not [name for name in files(to) if name.endswith(".tar")]
    assert "No pixel is published here" in (to / "README.md").read_text()
    record["sources"]["photos"] |= {"redistributable": "yes", "licence": "unknown"}
    made.write_text(json.dumps(record))
    assert main(["publish", str(tmp_path / "out"), to.as_uri()]) == 2
    assert "name the licence of photos" in capsys.readouterr().err


def test_a_new_release_removes_what_the_old_one_left_and_nothing_else(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "to"
    assert main(["publish", str(out), to.as_uri()]) == 0
    (to / "shards/somebody's.tar").write_bytes(b"not ours")
    assert main(["publish", str(out), to.as_uri(), "--lock-only"]) == 0
    assert "7 files of earlier releases removed" in capsys.readouterr().out  # tars, two files beside, croissant, sheet
    assert [name for name in files(to) if name.startswith("shards/")] == ["shards/somebody's.tar"]


def test_a_damaged_tar_does_not_get_out(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(out, tmp_path / "out")
    tar = tmp_path / "out/shards/shared-000001.tar"
    data = bytearray(tar.read_bytes())
    data[4_000] ^= 1
    tar.write_bytes(data)
    to = tmp_path / "to"
    assert main(["publish", str(tmp_path / "out"), to.as_uri()]) == 1
    assert f"{tar}: its SHA-256 is not" in capsys.readouterr().err
    assert not (to / "SHA256SUMS").exists() and not (to / "shards/shared-000001.tar").exists()


def test_wrong_urls_and_folders_are_one_clear_line(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").touch()
    for url, told in (
        ("ftp://somewhere/x", "give file:///a/folder, s3://bucket/prefix or hf://datasets/owner/name"),
        ((tmp_path / "a file/x").as_uri(), "Not a directory"),
    ):
        assert main(["publish", str(out), url]) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("rs-curate: ") and told in message


# ------------------------------------------------------------------------------------------------ S3


def test_s3_gets_the_same_files_and_tells_their_checksums(
    out: Path, tmp_path: Path, s3: tuple[ThreadedMotoServer, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    _, client = s3
    assert main(["publish", str(out), "s3://bucket/a/corpus"]) == 0
    assert main(["publish", str(out), tmp_path.as_uri()]) == 0
    listed = client.list_objects_v2(Bucket="bucket")["Contents"]
    assert {item["Key"].removeprefix("a/corpus/") for item in listed} == files(tmp_path)
    for name in files(tmp_path) - {"croissant.json", "SHA256SUMS"}:  # these hold the URL
        data = client.get_object(Bucket="bucket", Key=f"a/corpus/{name}")["Body"].read()
        assert data == (tmp_path / name).read_bytes()
    capsys.readouterr()
    assert main(["publish", str(out), "s3://bucket/a/corpus"]) == 0
    assert "0 files uploaded" in capsys.readouterr().out
    client.put_object(Bucket="bucket", Key="a/corpus/shards/shared-000000.tar", Body=b"overwritten")
    assert main(["publish", str(out), "s3://bucket/a/corpus"]) == 0
    assert "1 file uploaded" in capsys.readouterr().out


def test_an_upload_goes_on_where_the_service_broke_down(
    out: Path, tmp_path: Path, s3: tuple[ThreadedMotoServer, Any]
) -> None:
    server, client = s3
    items = assemble(out, "s3://bucket/c", lock_only=False)
    done = []

    def breaks(size: int) -> None:
        done.append(size)
        if len(done) == 5:
            server.stop()

    with pytest.raises(WorkError, match="the same command goes on"):
        publish(items, open_store("s3://bucket/c"), tmp_path, breaks)
    host, port = server.get_host_and_port()
    again = ThreadedMotoServer(ip_address=host, port=port, verbose=False)
    again.start()
    try:
        assert "c/SHA256SUMS" not in {item["Key"] for item in client.list_objects_v2(Bucket="bucket")["Contents"]}
        published = publish(items, open_store("s3://bucket/c"), tmp_path, lambda _: None)
        assert (published.present, published.uploaded) == (5, len(items) - 5)
        names = {item["Key"] for item in client.list_objects_v2(Bucket="bucket", Prefix="c/")["Contents"]}
        assert names == {f"c/{name}" for name in (*(item.name for item in items), "SHA256SUMS")}
    finally:
        again.stop()


# ------------------------------------------------------------------------------------------------ the Hub


def test_the_hub_gets_the_same_files_in_few_commits_and_a_tag(
    out: Path, tmp_path: Path, hub: hub_server.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(out), "hf://datasets/me/corpus"]) == 0
    assert main(["publish", str(out), tmp_path.as_uri()]) == 0
    assert hub.private is True
    assert hub.files.keys() == files(tmp_path)
    for name in files(tmp_path) - {"croissant.json", "SHA256SUMS"}:  # these hold the URL
        assert hub.files[name] == (tmp_path / name).read_bytes()
    assert hub.commits == [1, 15, 1, 1]  # the list of what comes, all files, their checksums, the list again
    sums = hashlib.sha256(hub.files["SHA256SUMS"]).hexdigest()
    assert hub.tags == [f"release-{sums[:12]}"]
    capsys.readouterr()
    assert main(["publish", str(out), "hf://datasets/me/corpus"]) == 0
    assert "0 files uploaded, 15 were there" in capsys.readouterr().out
    hub.files["README.md"] = hub.files["README.md"].replace(b"pretty", b"pettry")  # of equal size
    assert main(["publish", str(out), "hf://datasets/me/corpus", "--lock-only"]) == 0
    assert not [name for name in hub.files if name.startswith("shards/")]
