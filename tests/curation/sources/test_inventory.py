"""The listing of raw images: order, archives in place, bands in files, and what is worth a warning."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import unicodedata
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.base.errors import InputError, UnreadableImage
from curation.catalogue import read_table
from curation.containers import read_member
from curation.sources.inventory import SourceListing, list_images, write_inventory
from curation.sources.recipe import ExcludeRules, Recipe, ResolvedSource, SliceRules, resolve
from curation.sources.source import IMAGE_SUFFIXES, Source


def grow(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def paths_of(source: Source, root: Path) -> list[str]:
    return [row["image"] for row in list_images(source, root)]


def test_rows_of_a_plain_folder(tmp_path: Path) -> None:
    grow(tmp_path, "b/2.JPG", "a/1.png", "a.tif", "a/note.txt", ".hidden/x.png", "__MACOSX/a/1.png", "a/._1.png")
    source = Source(id="mine", label_from="parent", splits={"train": ("a/**",)})
    rows = list(list_images(source, tmp_path))
    assert [(row["image"], row["split"], row["label"]) for row in rows] == [
        ("a.tif", None, None),
        ("a/1.png", "train", "a"),
        ("b/2.JPG", None, "b"),
    ]
    assert rows[1]["file"] == "a/1.png" and rows[1]["member"] is None
    assert rows[1]["bytes"] == 7 and rows[1]["mtime_ns"] == (tmp_path / "a/1.png").stat().st_mtime_ns


names = st.text("ab.-_0é", min_size=1, max_size=3).filter(lambda name: not name.startswith("."))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a loaded machine is no fault of the order
@given(st.sets(st.lists(names, min_size=1, max_size=3).map("/".join), max_size=12))
def test_order_is_that_of_whole_paths(tmp_path_factory: pytest.TempPathFactory, tree: set[str]) -> None:
    root = grow(tmp_path_factory.mktemp("tree"), *(f"{path}.jpg" for path in tree), "z.jpg")
    found = paths_of(Source(id="s"), root)
    assert found == sorted(f"{path}.jpg" for path in tree | {"z"})


def test_globs_take_and_leave(tmp_path: Path) -> None:
    grow(tmp_path, "train/images/1.png", "train/masks/1.png", "val/images/2.png", "extra/3.png")
    source = Source(id="s", images=("{train,val}/**/*.png", "none/*.png"), leave=("**/masks/**",), expected_images=2)
    listing = SourceListing("s")
    assert [row["image"] for row in list_images(source, tmp_path, listing)] == [
        "train/images/1.png",
        "val/images/2.png",
    ]
    assert listing.globs == {"{train,val}/**/*.png": 2, "none/*.png": 0}
    assert listing.warnings == ["no file matches none/*.png"]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "does not exist; rs-curate fetch RECIPE --data DATA"),
        (lambda root: root.mkdir(), "is empty; rs-curate fetch RECIPE --data DATA"),
        (lambda root: root.write_bytes(b""), "is a file; give the folder"),
        (lambda root: grow(root, "a.heic"), r"looked for files that end in jpg, jpeg, .*1 file ends in \.heic"),
    ],
)
def test_a_wrong_folder_says_what_to_type(tmp_path: Path, prepare, message: str) -> None:
    prepare(tmp_path / "s")
    source = Source.model_validate({"id": "s", "files": [{"name": "x.zip", "url": "http://host/x.zip"}]})
    with pytest.raises(InputError, match=message) as caught:
        paths_of(source, tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_an_archive_reads_the_same_in_place_and_unpacked(tmp_path: Path) -> None:
    tree = ("data/a/1.jpg", "data/b.jpg", "data/é/2.jpg")
    grow(tmp_path / "unpacked", *(f"top/{path}" for path in tree), "other.jpg")
    grow(tmp_path / "packed", "other.jpg")
    with zipfile.ZipFile(tmp_path / "packed/x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in tree:
            archive.writestr(unicodedata.normalize("NFD", path), f"top/{path}")
    source = Source.model_validate({"id": "s", "files": [{"name": "x.zip", "into": "top"}]})
    packed, unpacked = (list(list_images(source, tmp_path / name)) for name in ("packed", "unpacked"))
    assert [row["image"] for row in packed] == [row["image"] for row in unpacked]
    assert [row["bytes"] for row in packed] == [row["bytes"] for row in unpacked]
    assert {row["file"] for row in packed} == {"x.zip", "other.jpg"}
    for row in packed:
        if row["member"]:
            assert read_member(tmp_path / "packed", row["file"], row["member"], 99) == row["image"].encode()
    (tmp_path / "unpacked/x.zip").write_bytes((tmp_path / "packed/x.zip").read_bytes())
    assert [row["file"] for row in list_images(source, tmp_path / "unpacked")] == [row["file"] for row in unpacked]


def test_an_archive_no_manifest_lists_is_a_folder_of_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with zipfile.ZipFile(tmp_path / "sub/x.zip", "w") as archive:
        for name in ("1.jpg", "../evil.jpg", "/abs.jpg"):
            archive.writestr(name, b"1")
    grow(tmp_path, "sub/x.zip.jpg", "sub/w.jpg")
    listing = SourceListing("s")
    found = [row["image"] for row in list_images(Source(id="s", container="zip"), tmp_path, listing)]
    assert found == ["sub/w.jpg", "sub/x.zip.jpg", "sub/x.zip/1.jpg"]
    assert len(listing.warnings) == 1 and "2 names lead outside" in listing.warnings[0]


def test_links(tmp_path: Path) -> None:
    grow(tmp_path / "outside", "x.jpg")
    root = grow(tmp_path / "root", "real/1.jpg")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "out.jpg").symlink_to(tmp_path / "outside/x.jpg")
    (root / "circle").symlink_to(root)
    (root / "real/up").symlink_to(root / "real")
    (root / "named").symlink_to(root / "real/1.jpg")
    (root / "alias.jpg").symlink_to("real/1.jpg")
    (root / "dangling.jpg").symlink_to("nowhere.jpg")
    (root / "unmounted").symlink_to("/nowhere/at/all")
    listing = SourceListing("s")
    assert [row["image"] for row in list_images(Source(id="s"), root, listing)] == ["alias.jpg", "real/1.jpg"]
    (warning,) = listing.warnings
    assert warning.startswith("6 symbolic links") and "circle, dangling.jpg, out.jpg and 3 more" in warning
    (tmp_path / "link").symlink_to(root)
    assert paths_of(Source(id="s"), tmp_path / "link") == ["alias.jpg", "real/1.jpg"]


def test_links_are_followed_into_the_folder_that_is_named(tmp_path: Path) -> None:
    """As a snapshot of the Hugging Face Hub lies in its cache: every file is a link to a blob."""
    blobs = grow(tmp_path / "blobs", "1f", "2e", "set/3.jpg")
    root = tmp_path / "snapshots/main"
    (root / "train").mkdir(parents=True)
    (root / "train/a.jpg").symlink_to("../../../blobs/1f")
    (root / "b.png").symlink_to("../../blobs/2e")
    (root / "set").symlink_to("../../blobs/set")
    with pytest.raises(InputError, match=rf"no image in .*set, under the source, follow_links: {blobs}"):
        paths_of(Source(id="s"), root)
    for told in ("../../blobs", str(blobs)):
        listing = SourceListing("s")
        found = [row["image"] for row in list_images(Source(id="s", follow_links=told), root, listing)]
        assert found == ["b.png", "set/3.jpg", "train/a.jpg"] and not listing.warnings
    (root / "other.jpg").symlink_to(grow(tmp_path / "elsewhere", "x.jpg") / "x.jpg")
    listing = SourceListing("s")
    assert len(list(list_images(Source(id="s", follow_links="../../blobs"), root, listing))) == 3
    assert listing.warnings[0].endswith(f"follow_links: {tmp_path / 'elsewhere'}")


def test_images_in_an_archive_that_is_not_read_are_told(tmp_path: Path) -> None:
    grow(tmp_path, "x.jpg")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("1.jpg", "sub/2.TIF", "labels.txt"):
            archive.writestr(name, b"1")
    listing = SourceListing("s")
    list(list_images(Source(id="s"), tmp_path, listing))
    (warning,) = listing.warnings
    assert warning.endswith("2 images in a.zip are not read: add container: zip under the source")
    listing = SourceListing("s")
    assert len(list(list_images(Source(id="s", container="zip"), tmp_path, listing))) == 3
    assert not listing.warnings and str(listing) == "s: 3 images listed; taken by no rule: 1 .txt"


def test_what_another_source_of_the_folder_takes_is_not_told_as_taken_by_none(tmp_path: Path) -> None:
    grow(tmp_path, "all/x.jpg", "all/y.heic", "all/deep/z.xyz", "all/deep/q.xyz", "all/w.heic")
    with zipfile.ZipFile(tmp_path / "all/a.zip", "w") as archive:
        archive.writestr("1.jpg", b"1")
    chosen = {
        "loose": {"path": "all"},
        "packed": {"path": "all", "container": "zip", "images": ("**/*.zip/**",)},
        "deep": {"path": "all/deep", "images": ("*.xyz",), "leave": ("q.xyz",)},
        "phone": {"path": "all", "images": ("y.heic",)},
    }
    entries = [{"id": name, **fields} for name, fields in chosen.items()]
    sources = resolve(Recipe.model_validate({"name": "r", "sources": entries}), tmp_path)
    told = {listing.id: listing for listing in write_inventory(sources, tmp_path / "images.parquet")}
    assert {name: listing.found for name, listing in told.items()} == {"loose": 1, "packed": 1, "deep": 1, "phone": 1}
    assert dict(told["loose"].unlisted) == {".heic": 1, ".xyz": 1}  # w.heic, and what the third source leaves
    assert str(told["deep"]) == "deep: 1 images listed; 1 files match leave"
    alone = write_inventory(sources[:1], tmp_path / "images.parquet")[0]
    assert dict(alone.unlisted) == {".heic": 2, ".xyz": 2, ".zip": 1}


def test_globs_that_leave_nothing_are_told(tmp_path: Path) -> None:
    grow(tmp_path, "1.jpg", "masks/1.png", "masks/2.png")
    listing = SourceListing("s")
    list(list_images(Source(id="s", leave=("masks/**", "labels/**", "**/2.png")), tmp_path, listing))
    assert listing.warnings == ["no file matches leave: labels/**"]
    assert str(listing) == "s: 1 images listed; 2 files match leave"


def test_links_in_circles_and_mazes_end(tmp_path: Path) -> None:
    grow(tmp_path, *(f"{room}/1.jpg" for room in "abcd"))
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    for room in "abcd":
        for other in "abcd":
            (tmp_path / room / f"to_{other}").symlink_to(tmp_path / other)
    listing = SourceListing("s")
    found = [row["image"] for row in list_images(Source(id="s", images=("?/1.jpg", "?/to_?/1.jpg")), tmp_path, listing)]
    assert [path for path in found if path.count("/") == 1] == [f"{room}/1.jpg" for room in "abcd"]
    assert len(found) == 4 + 4 * 3 and "self.jpg" not in found
    listing = SourceListing("s")
    list(list_images(Source(id="s"), tmp_path, listing))
    (warning,) = listing.warnings
    assert "nowhere or in a circle and are left out: a/to_a" in warning


def test_names_that_are_equal_after_normalisation_are_told(tmp_path: Path) -> None:
    nfc, nfd = "\u00e9", "e\u0301"
    grow(tmp_path, f"{nfc}.jpg", f"{nfd}.jpg", f"{nfc}/1.jpg", f"{nfc}/3.jpg", f"{nfd}/1.jpg", f"{nfd}/2.jpg")
    listing = SourceListing("s")
    rows = list(list_images(Source(id="s"), tmp_path, listing))
    assert [row["image"] for row in rows] == [f"{nfc}.jpg", f"{nfc}/1.jpg", f"{nfc}/2.jpg", f"{nfc}/3.jpg"]
    (warning,) = listing.warnings
    assert warning.startswith("2 files have the name of another one") and f"{nfc}.jpg" in warning


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_of_two_members_of_one_name_the_later_is_taken_and_told(tmp_path: Path, kind: str) -> None:
    members = [("a.jpg", b"old"), ("b.jpg", b"b"), ("a.jpg", b"newer")]
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive, warnings.catch_warnings(action="ignore"):
            for name, data in members:
                archive.writestr(name, data)
    else:
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    listing = SourceListing("s")
    rows = list(list_images(Source(id="s", container=kind), tmp_path, listing))
    assert [read_member(tmp_path, row["file"], row["member"], 9) for row in rows] == [b"newer", b"b"]
    (warning,) = listing.warnings
    assert warning.startswith("1 files have the name of another") and f"x.{kind}/a.jpg in x.{kind}" in warning


def test_a_broken_archive_is_one_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr("1.jpg", b"1" * 500)
    (tmp_path / "b.zip").write_bytes((tmp_path / "b.zip").read_bytes()[:300])
    grow(tmp_path, "b.zip.jpg")
    listing = SourceListing("s")
    rows = list(list_images(Source(id="s", container="zip"), tmp_path, listing))
    assert [row["image"] for row in rows] == ["a.zip/1.jpg", "b.zip.jpg", "b.zip/*", "c.zip/1.jpg"]
    assert listing.found == 3 and listing.unread == listing.warnings
    (warning,) = listing.warnings
    assert warning.startswith("b.zip: not a whole archive") and "fetch it again, or leave it (b.zip/*)" in warning
    with pytest.raises(UnreadableImage, match=r"b\.zip: not a whole archive"):
        read_member(tmp_path, rows[2]["file"], rows[2]["member"], 1_000)
    for leave in ("b.zip", "b.zip/**", "**/b.zip/*"):
        listing = SourceListing("s")
        left = Source(id="s", container="zip", leave=(leave,))
        assert len(list(list_images(left, tmp_path, listing))) == 3 and not listing.warnings
    for name in ("a.zip", "c.zip", "b.zip.jpg"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"no image in .*b\.zip: not a whole archive"):
        paths_of(Source(id="s", container="zip"), tmp_path)


def test_a_broken_archive_is_one_unreadable_image_of_the_scan(tmp_path: Path) -> None:
    from curation.imagery.image import open_image
    from curation.imagery.location import Location

    (tmp_path / "x.tar").write_bytes(b"no tar" * 999)
    grow(tmp_path, "1.jpg")
    rows = list(list_images(Source(id="s", container="tar"), tmp_path))
    row = rows[1]
    with (
        pytest.raises(UnreadableImage, match=r"x\.tar: not a whole archive \(.+\); fetch it again"),
        open_image(Location(tmp_path, row["file"], row["member"]), Source(id="s"), ExcludeRules()),
    ):
        pass


def test_suffixes_that_no_rule_takes_are_counted(tmp_path: Path) -> None:
    grow(tmp_path, *(f"{n}.HEIC" for n in range(43)), "1.jpg", "x.nc", "notes.txt", "README", "masks/1.ecw", "2.gif")
    listing = SourceListing("s")
    found = [row["image"] for row in list_images(Source(id="s", leave=("masks/**",)), tmp_path, listing)]
    assert found == ["1.jpg", "2.gif"]
    assert listing.unlisted == {".heic": 43, ".nc": 1, ".txt": 1, "": 1}
    assert [warning.partition(",")[0] for warning in listing.warnings] == [
        "43 files end in .heic",
        "1 file ends in .nc",
    ]
    listing = SourceListing("s")
    assert len(list(list_images(Source(id="s", images=("**/*.jpg",)), tmp_path, listing))) == 1
    assert not listing.warnings  # a manifest that chooses its files knows what it leaves


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_that_is_listed_is_decoded(tmp_path: Path, suffix: str) -> None:
    import numpy as np
    import rasterio
    from PIL import Image

    from curation.catalogue import Window
    from curation.imagery.image import open_image
    from curation.imagery.location import Location

    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = (200, 100, 50)
    drivers = {"img": "HFA", "ntf": "NITF", "nitf": "NITF"}
    codes = {"jpe": "JPEG", "jfif": "JPEG", "jp2": "JPEG2000", "j2c": "JPEG2000", "jpc": "JPEG2000", "jpx": "JPEG2000"}
    path = tmp_path / f"x.{suffix}"
    if suffix in drivers:
        with rasterio.open(path, "w", driver=drivers[suffix], width=64, height=64, count=3, dtype="uint8") as raster:
            raster.write(pixels.transpose(2, 0, 1))
    else:
        options = {"quality": 95} if suffix in ("avif", "jpg", "jpeg", "jpe", "jfif", "webp") else {}
        picture = Image.fromarray(pixels).convert("L" if suffix == "pgm" else "RGB")
        picture.save(path, format=codes.get(suffix), **options)
    (row,) = list_images(Source(id="s"), tmp_path)
    with open_image(Location(tmp_path, row["file"]), Source(id="s"), ExcludeRules()) as image:
        rgb, _ = image.read(Window(0, 0, 64, 64))
    expected = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB")) if suffix == "pgm" else pixels
    assert np.abs(rgb.astype(int) - expected)[:, [5, 60]].max() <= 5


def test_a_folder_that_cannot_be_listed_is_told_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg", "d/1.jpg")
    scandir = os.scandir

    def failing(path: str) -> object:
        if str(path) == str(tmp_path / "b"):
            raise PermissionError(errno.EACCES, "Permission denied")
        if str(path) == str(tmp_path / "c"):
            raise OSError(errno.EIO, "Input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    listing = SourceListing("s")
    assert [row["image"] for row in list_images(Source(id="s"), tmp_path, listing)] == ["a/1.jpg", "d/1.jpg"]
    first, second = listing.warnings
    assert first.startswith("b: no permission") and f"chmod u+rx '{tmp_path}/b'" in first
    assert second.startswith("c: cannot be listed (Input/output error)")


BANDS = {"r": "**/*_B04.tif", "g": "**/*_B03.tif", "b": "**/*_B02.tif", "key": r"([^/]+)_B\d\d\.tif$"}


def test_bands_in_files_are_one_image(tmp_path: Path) -> None:
    grow(tmp_path, *(f"{patch}/{patch}_B{band:02d}.tif" for patch in ("p1", "p2", "p3") for band in (1, 2, 3, 4, 8)))
    (tmp_path / "p2/p2_B03.tif").unlink()
    listing = SourceListing("s")
    source = Source.model_validate({"id": "s", "bands_in_files": BANDS})
    rows = list(list_images(source, tmp_path, listing))
    assert [row["image"] for row in rows] == ["p1/p1_B04.tif", "p3/p3_B04.tif"]
    assert rows[0]["band_files"] == ["p1/p1_B04.tif", "p1/p1_B03.tif", "p1/p1_B02.tif"]
    assert rows[0]["bytes"] == 3 * len("p1/p1_B04.tif")
    assert listing.warnings == ["1 images lack a band and are left out; p2/p2_B04.tif is of one"]


def test_bands_in_an_archive_wait_for_it_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with zipfile.ZipFile(tmp_path / "s/x.zip", "w") as archive:
        for band in ("B02", "B03", "B04"):
            archive.writestr(f"p/p_{band}.tif", b"1")
    source = Source.model_validate({"id": "s", "bands_in_files": BANDS, "files": [{"name": "x.zip"}]})
    with pytest.raises(InputError, match=r"x\.zip is not unpacked; rs-curate fetch s --data"):
        paths_of(source, tmp_path / "s")


def test_bands_in_folders_of_their_own_keep_the_order_of_the_red(tmp_path: Path) -> None:
    grow(tmp_path, *(f"train_{band}/{band}_{n}.TIF" for band in ("red", "green", "blue", "nir") for n in (1, 2, 3)))
    bands = {band[0]: f"**/{band}_*.tif" for band in ("red", "green", "blue")} | {"key": r"_(\d+)\.TIF$"}
    rows = list(list_images(Source.model_validate({"id": "s", "bands_in_files": bands}), tmp_path))
    assert [row["image"] for row in rows] == [f"train_red/red_{n}.TIF" for n in (1, 2, 3)]
    assert rows[2]["band_files"] == [f"train_{band}/{band}_3.TIF" for band in ("red", "green", "blue")]


def resolved(root: Path, **fields: object) -> ResolvedSource:
    return ResolvedSource(Source.model_validate({"id": root.name, **fields}), root, SliceRules(), 0, None)


def test_the_table(tmp_path: Path) -> None:
    first, second = grow(tmp_path / "zz", "1.jpg", "2.jpg"), grow(tmp_path / "aa", "3.jpg")
    listings = write_inventory([resolved(first, expected_images=4), resolved(second)], tmp_path / "images.parquet")
    table = read_table(tmp_path / "images.parquet", "images")
    assert table["source"].to_pylist() == ["zz", "zz", "aa"] and table["image"].to_pylist() == [
        "1.jpg",
        "2.jpg",
        "3.jpg",
    ]
    assert [(one.id, one.found, one.expected) for one in listings] == [("zz", 2, 4), ("aa", 1, None)]
    assert listings[0].warnings == ["2 images found, 4 expected"]


def test_strict_makes_a_warning_an_error_and_leaves_no_table(tmp_path: Path) -> None:
    root = grow(tmp_path / "zz", "1.jpg")
    with pytest.raises(InputError, match=r"zz: 1 images found, 4 expected .*--strict"):
        write_inventory([resolved(root, expected_images=4)], tmp_path / "images.parquet", strict=True)
    assert not (tmp_path / "images.parquet").exists()


def test_real_chips(shared: Path) -> None:
    root = shared / "data/classification/RSSCN7_256"
    rows = list(list_images(Source(id="rsscn7", label_from="parent"), root))
    assert len(rows) == 2_800 and rows[0]["image"] == "aGrass/a001.jpg"
    assert {row["label"] for row in rows} == {path.name for path in root.iterdir()}


def test_a_world_file_or_another_band_file_changes_the_time_of_an_image(tmp_path: Path) -> None:
    def times(source: Source) -> dict[str, int]:
        return {row["image"]: row["mtime_ns"] for row in list_images(source, tmp_path)}

    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    before = times(Source(id="s"))
    assert before["a.jpg"] == (tmp_path / "a.jpg").stat().st_mtime_ns
    (tmp_path / "a.jgw").write_text("1\n0\n0\n-1\n0\n0\n")
    os.utime(tmp_path / "a.jgw", ns=(5, 5))
    after = times(Source(id="s"))
    assert after["a.jpg"] != before["a.jpg"] and after["b.jpg"] == before["b.jpg"]
    os.utime(tmp_path / "a.jgw", ns=(6, 6))
    assert times(Source(id="s"))["a.jpg"] not in (before["a.jpg"], after["a.jpg"])
    (tmp_path / "b.jpg.aux.xml").touch()
    assert times(Source(id="s"))["b.jpg"] != before["b.jpg"]

    bands = {band: f"*_{band}.tif" for band in "rgb"}
    for number, name in enumerate(("x_r.tif", "x_g.tif", "x_b.tif")):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, ns=(number, 100 * number))
    source = Source(id="s", bands_in_files={**bands, "key": "(.*)_"})
    first = times(source)["x_r.tif"]
    os.utime(tmp_path / "x_r.tif", ns=(1, 1))  # still older than the others
    assert times(source)["x_r.tif"] != first
