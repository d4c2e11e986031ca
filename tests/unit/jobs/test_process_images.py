import io
import json
import struct
import tarfile
import threading
import time
import zipfile
import zlib

import duckdb
import numpy as np
import pytest
from PIL import Image

from ebb_jobs import image, process_images
from ebb_jobs.process_images import choose_geometry
from unit.jobs.pictures import pets, picture
from unit.jobs.stages import run_stage_here
from unit.jobs.test_process import rejection, schema_of

SPLITS = ("train", "validation", "test")


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def process(tmp_path, files, *, spec=None):
    """Run the stage over objects by their keys below the project's data folder."""
    for name, content in files.items():
        file = tmp_path / "data/zoo/data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return run_stage_here(tmp_path / "job", "process", {"data": tmp_path / "data"}, {"spec": spec or {}})


def curated(ended):
    return ended.base / "processing/output/curated"


def labels_of(ended, split):
    return duckdb.sql(f"SELECT path, label FROM '{curated(ended) / split}.parquet/*.parquet'").fetchall()


def pixels_of(ended, split):
    return np.load(curated(ended) / f"{split}.pixels.npy")


def decision(ended, what):
    assert ended.status == 0, ended.failure
    return next(each for each in ended.metrics()["decisions"] if each["what"] == what)


def learned(ended):
    """Return every picture that was kept: its label by the bytes of its pixels, and the split."""
    assert ended.status == 0, ended.failure
    assert ended.metrics()["status"] == "finished", ended.metrics()["rejection"]
    return {
        array.tobytes(): (label, split)
        for split in SPLITS
        for array, (_, label) in zip(pixels_of(ended, split), labels_of(ended, split), strict=True)
    }


def manifest(files, *, header="path,label", row="{path},{label}", end="\n"):
    return header + end + end.join(row.format(path=name, label=name.split("/")[-2]) for name in files) + end


@pytest.mark.parametrize(
    "drop",
    [
        pytest.param(pets(), id="a folder per class"),
        pytest.param({"pets.zip": zipped(pets())}, id="in a zip"),
        pytest.param({"pets.zip": zipped(pets(folder=""))}, id="in a zip without a folder around them"),
        pytest.param({"pets.tar.gz": tarred(pets(folder="a/deep/place/"))}, id="in a tar.gz with folders around them"),
        pytest.param(
            {
                "a.zip": zipped(
                    {**pets(), "__MACOSX/pets/cat/._00.png": b"x", "pets/.DS_Store": b"y", "README.md": b"z"}
                )
            },
            id="beside what is no data",
        ),
        pytest.param({**pets(folder="pets/all/"), "pets/list.csv": manifest(pets(folder="all/"))}, id="a csv of paths"),
    ],
)
def test_the_same_pictures_are_the_same_data_however_they_are_dropped(tmp_path, drop):
    ended = process(tmp_path, drop)
    expected = {
        image.pixels(data, height=10, width=12, channels=1).tobytes(): name.split("/")[-2]
        for name, data in pets().items()
    }
    assert {pixels: label for pixels, (label, _) in learned(ended).items()} == expected
    schema = schema_of(ended)
    assert schema["kind"] == "image"
    assert schema["task"] == "image-classification"
    assert schema["input"] == {"height": 10, "width": 12, "channels": 1}
    assert schema["target"] == {"name": "label", "classes": ["cat", "dog"]}
    metrics = ended.metrics()
    assert metrics["task"] == "image-classification"
    assert metrics["rows"]["kept"] == 40
    assert sum(metrics["rows"][split] for split in SPLITS) == 40
    assert min(metrics["rows"][split] for split in SPLITS) >= 3


def test_samples_are_the_files_as_they_were_dropped(tmp_path):
    ended = process(tmp_path, pets())
    samples = json.loads((curated(ended) / "samples.json").read_text())
    assert set(samples) == {"validation", "test"}
    for split, kept in samples.items():
        assert len(kept) == len(labels_of(ended, split))
        for one in kept:
            path, _ = labels_of(ended, split)[one["row"]]
            data = (curated(ended) / one["file"]).read_bytes()
            assert data == pets()[path.removeprefix("zoo/data/")]
            shown = image.pixels(data, height=10, width=12, channels=1)
            assert np.array_equal(shown, pixels_of(ended, split)[one["row"]])


def test_a_picture_keeps_its_split_when_others_come(tmp_path):
    few = learned(process(tmp_path / "few", pets(40)))
    more = learned(process(tmp_path / "more", pets(60)))
    moved = sum(more[pixels] != found for pixels, found in few.items())
    assert moved == 0


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param([(28, 28, 1)] * 3, (28, 28, 1), id="one size stays as it is"),
        pytest.param([(400, 200, 3)] * 3, (48, 96, 3), id="at most 96 pixels a side, in proportion"),
        pytest.param([(20, 30, 1), (40, 50, 1), (90, 10, 1)], (30, 40, 1), id="the median otherwise"),
        pytest.param([(28, 28, 1), (28, 28, 3)], (28, 28, 3), id="colour when one has colour"),
        pytest.param([(2, 3, 1)] * 2, (8, 8, 1), id="never too small for a network"),
        pytest.param([(1000, 20, 1)] * 2, (8, 96, 1), id="not even on one side"),
    ],
)
def test_geometry(sizes, expected):
    geometry, why = choose_geometry(sizes)
    assert geometry == expected
    assert why.reason
    assert why.value["median"]


def test_mixed_sizes_modes_and_formats_become_one(tmp_path):
    files = {
        **pets(10),
        **{f"pets/cat/{n}.jpg": picture(n, mode="RGB", size=(30, 40), form="JPEG") for n in range(10)},
        **{f"pets/dog/{n}.PNG": picture(n + 50, mode="RGBA", size=(33, 9)) for n in range(10)},
        **{f"pets/dog/{n}.jpeg": picture(n + 90, form="PNG") for n in range(5)},  # told by content: its name is wrong
    }
    ended = process(tmp_path, files)
    assert len(learned(ended)) == len(files)
    assert schema_of(ended)["input"]["channels"] == 3
    numbers = decision(ended, "geometry")["numbers"]
    assert (numbers["grey"], numbers["colour"]) == (25, 20)
    names = {one["file"].rsplit(".")[-1] for one in json.loads((curated(ended) / "samples.json").read_text())["test"]}
    assert names <= {"png", "jpg"}


def test_given_splits_are_kept(tmp_path):
    files = {
        **pets(12, folder="pets/train/"),
        **{f"pets/val/{label}/{n}.png": picture(f"v{label}{n}") for label in ("cat", "dog") for n in range(4)},
        **{f"pets/test/{label}/{n}.png": picture(f"t{label}{n}") for label in ("cat", "dog") for n in range(5)},
    }
    ended = process(tmp_path, {"pets.zip": zipped(files)})
    learned(ended)
    rows = ended.metrics()["rows"]
    assert (rows["train"], rows["validation"], rows["test"]) == (24, 8, 10)
    assert all("/val/" in path for path, _ in labels_of(ended, "validation"))
    assert decision(ended, "split")["chosen"] == "as given"


def test_a_split_that_is_not_given_is_cut_from_train(tmp_path):
    files = {
        **pets(40, folder="train/"),
        **{f"test/{label}/{n}.png": picture(f"t{label}{n}") for label in ("cat", "dog") for n in range(5)},
    }
    ended = process(tmp_path, {"pets.zip": zipped(files)})
    learned(ended)
    rows = ended.metrics()["rows"]
    assert rows["test"] == 10
    assert rows["train"] + rows["validation"] == 80
    assert 3 <= rows["validation"] <= 25
    assert all("/train/" in path for path, _ in labels_of(ended, "validation"))


@pytest.mark.parametrize(
    ("table", "spec"),
    [
        pytest.param(manifest(pets(), header="where,what"), {"data": {"input": "where", "target": "what"}}, id="spec"),
        pytest.param(manifest(pets(), header="class,image", row="{label},{path}"), {}, id="by the usual names"),
        pytest.param(manifest(pets(), header="what,where", row="{label},{path}"), {}, id="paths by what they name"),
        pytest.param(manifest(pets(folder="C:/me/drop/")), {}, id="paths of another machine"),
        pytest.param(manifest(pets(), header="class;path", row="{label};{path}", end="\r\n"), {}, id="semicolons"),
    ],
)
def test_the_columns_of_a_manifest(tmp_path, table, spec):
    hidden = {f"{name.split('/')[-1]}": name for name in pets()}
    assert len(hidden) == 20
    ended = process(tmp_path, {"drop/" + name: data for name, data in {**pets(), "m.csv": table}.items()}, spec=spec)
    assert {label for label, _ in learned(ended).values()} == {"cat", "dog"}
    assert len(learned(ended)) == 40


def test_a_jsonl_manifest_with_splits_and_pictures_that_it_does_not_name(tmp_path):
    files = pets(20, folder="all/")
    lines = [
        json.dumps({"file": name, "label": name.split("/")[-2], "split": ("train", "train", "val", "test")[n % 4]})
        for n, name in enumerate(files)
    ]
    ended = process(tmp_path, {"a.zip": zipped({**files, "list.jsonl": "\n".join(lines[:-2]).encode()})})
    learned(ended)
    rows = ended.metrics()["rows"]
    assert (rows["train"], rows["validation"], rows["test"]) == (20, 9, 9)
    assert ended.metrics()["unlisted"] == 2


def test_copies_are_kept_once(tmp_path):
    files = pets()
    files |= {f"pets/cat/copy{n}.png": files["pets/cat/00.png"] for n in range(3)}
    reencoded = io.BytesIO()
    Image.open(io.BytesIO(files["pets/dog/00.png"])).save(reencoded, "PNG", compress_level=0)
    files["pets/dog/other-bytes.png"] = reencoded.getvalue()
    ended = process(tmp_path, files)
    assert len(learned(ended)) == 40
    assert ended.metrics()["rows"]["duplicates"] == 4
    assert decision(ended, "duplicates")["chosen"] == 4


def test_few_contradictions_are_left_out_and_told(tmp_path):
    files = pets(110)
    files["pets/dog/same.png"] = files["pets/cat/00.png"]
    ended = process(tmp_path, files)
    found = learned(ended)
    assert len(found) == 219
    assert image.pixels(files["pets/cat/00.png"], height=10, width=12, channels=1).tobytes() not in found
    assert decision(ended, "contradictions")["chosen"] == 2


def test_drops_that_are_appended_have_their_classes_in_common(tmp_path):
    one = pets(folder="monday/")
    two = {f"tuesday/{label}/{n}.png": picture(f"more{label}{n}") for label in ("cat", "dog") for n in range(9)}
    ended = process(tmp_path, one | two, spec={"data": {"mode": "append"}})
    assert {label for label, _ in learned(ended).values()} == {"cat", "dog"}


def test_archives_that_are_appended_have_their_classes_in_common(tmp_path):
    only_cats = {f"x/cat/{n}.png": picture(f"more{n}") for n in range(9)}
    drops = {"monday.zip": zipped(pets()), "tuesday.tar.gz": tarred(only_cats)}
    ended = process(tmp_path, drops, spec={"data": {"mode": "append"}})
    assert sorted(label for label, _ in learned(ended).values()) == ["cat"] * 29 + ["dog"] * 20


def huge_png():
    """A PNG of some bytes that claims a hundred million pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def changed(name, content, **kind):
    return pets(**kind) | {name: content}


BAD = "pets/cat/bad.png"


@pytest.mark.parametrize("packed", [pytest.param(False, id="prefix"), pytest.param(True, id="zip")])
@pytest.mark.parametrize(
    ("files", "code", "file"),
    [
        pytest.param(changed(BAD, picture(1)[:90]), "broken-image", BAD, id="cut PNG"),
        pytest.param(
            changed("pets/dog/bad.jpg", picture(1, form="JPEG", size=(64, 64))[:300]),
            "broken-image",
            "pets/dog/bad.jpg",
            id="cut JPEG",
        ),
        pytest.param(changed(BAD, b"GIF89a" + b"x" * 50), "not-an-image", BAD, id="GIF called PNG"),
        pytest.param(changed(BAD, b"a,b\n1,2\n"), "not-an-image", BAD, id="text called PNG"),
        pytest.param(changed(BAD, b""), "empty-file", BAD, id="no byte"),
        pytest.param(changed(BAD, huge_png()), "image-too-large", BAD, id="a bomb of pixels"),
        pytest.param(
            changed("pets/cat/notes.docx", b"x"), "unsupported-format", "pets/cat/notes.docx", id="a document"
        ),
        pytest.param(changed("pets/loose.png", picture(1)), "no-class", "pets/loose.png", id="a picture in no folder"),
        pytest.param({f"pets/cat/{n}.png": picture(n) for n in range(40)}, "one-class", None, id="one class"),
        pytest.param(pets(10), "too-few-images", None, id="too few pictures"),
        pytest.param(
            pets() | {f"pets/owl/{n}.png": picture(n) for n in range(4)}, "too-few-images", None, id="a rare class"
        ),
        pytest.param(
            pets() | {f"pets/owl/{n}.png": picture(1) for n in range(9)}, "too-few-images", None, id="a rare picture"
        ),
        pytest.param(
            {f"pets/{n}/{k}.png": picture(n * 2 + k) for n in range(40) for k in range(1)},
            "too-many-classes",
            None,
            id="a folder per picture",
        ),
        pytest.param(
            pets(folder="pets/train/") | pets(folder="pets/test/"),
            "duplicates-across-splits",
            "pets/train/cat/00.png",
            id="the same pictures in train and test",
        ),
        pytest.param(
            pets() | {f"pets/dog/x{n}.png": picture(f"cat{n}") for n in range(3)},
            "contradicting-labels",
            "pets/cat/00.png",
            id="pictures under two labels",
        ),
        pytest.param(
            pets(folder="pets/val/")
            | {f"pets/test/{c}/{n}.png": picture(f"t{c}{n}") for c in ("cat", "dog") for n in range(5)},
            "no-train-split",
            None,
            id="nothing to learn from",
        ),
        pytest.param(
            pets(folder="pets/train/") | {f"pets/test/owl/{n}.png": picture(n) for n in range(9)},
            "class-not-in-train",
            None,
            id="a class that is only tested",
        ),
        pytest.param(
            pets(folder="pets/train/") | {"pets/test/a/1.png": picture(1), "pets/other.png": picture(2)},
            "split-unclear",
            "pets/other.png",
            id="outside the splits",
        ),
        pytest.param(
            pets() | {"pets/a.csv": manifest(pets()), "pets/b.csv": manifest(pets())},
            "mixed-formats",
            "pets/b.csv",
            id="two manifests",
        ),
        pytest.param(
            pets() | {"pets/m.csv": manifest([*pets(), "cat/none.png"])}, "manifest-no-file", "pets/m.csv", id="no file"
        ),
        pytest.param(
            pets() | {"pets/m.csv": manifest([*pets(), "../../x/none.png"])},
            "manifest-no-file",
            "pets/m.csv",
            id="a path to elsewhere",
        ),
        pytest.param(
            pets() | {"pets/m.csv": "a,b\n" + "1,x\n2,y\n" * 20}, "manifest-no-path", "pets/m.csv", id="no paths"
        ),
        pytest.param(
            pets() | {"pets/m.csv": manifest(pets()) + "cat/00.png,\n"}, "target-empty", "pets/m.csv", id="no label"
        ),
        pytest.param(pets() | {"pets/m.csv": ""}, "empty-file", "pets/m.csv", id="an empty manifest"),
        pytest.param(
            pets() | {"pets/m.csv": manifest(pets()) + "x\n"}, "ragged-row", "pets/m.csv", id="a row cut short"
        ),
        pytest.param(
            pets() | {"pets/m.csv": manifest(pets(), header="path,label,split", row="{path},{label},sometimes")},
            "split-unclear",
            "pets/m.csv",
            id="a split of another name",
        ),
        pytest.param(pets() | {"pets/more.zip": zipped({"a": b"b"})}, None, "pets/more.zip", id="an archive inside"),
    ],
)
def test_rejections(tmp_path, files, code, file, packed):
    drop = {"set.zip": zipped(files)} if packed else files
    found = rejection(process(tmp_path, drop))
    code = code or ("nested-archive" if packed else "mixed-formats")
    assert found["code"] == code
    assert found["message"]
    assert found["remedy"]
    if file and code not in ("unsupported-format", "mixed-formats", "nested-archive"):
        assert found["file"] == ("zoo/data/set.zip/" if packed else "zoo/data/") + file


def test_both_files_of_a_pair_across_splits_are_named(tmp_path):
    files = pets(folder="train/") | {"test/cat/same.png": picture("cat3"), "test/dog/x.png": picture("x")}
    found = rejection(process(tmp_path, {"a.zip": zipped(files)}))
    assert "a.zip/train/cat/03.png" in found["message"]
    assert "a.zip/test/cat/same.png" in found["message"]


def test_rejections_of_a_manifest_name_the_line_and_no_value(tmp_path):
    table = manifest(pets()) + "secret-name.png,secret-label\n"
    found = rejection(process(tmp_path, {**pets(), "pets/m.csv": table}))
    assert found["line"] == 42
    assert "secret" not in json.dumps(found)


def test_pictures_do_not_fit_a_task_of_tables(tmp_path):
    found = rejection(process(tmp_path, pets(), spec={"task": "tabular-classification"}))
    assert found["code"] == "task-mismatch"


def test_an_archive_of_tables_is_read_as_tables(tmp_path):
    rows = "".join(f"{n},{n % 37},{'yn'[n % 2]}\n" for n in range(100))
    ended = process(tmp_path, {"t.zip": zipped({"t/a.csv": f"a,b,label\n{rows}".encode()})})
    assert schema_of(ended)["kind"] == "tabular"
    broken = process(tmp_path / "2", {"t.zip": zipped({"t/a.csv": f"a,b,label\n{rows}1\n".encode()})})
    found = rejection(broken)
    assert (found["code"], found["line"], found["file"]) == ("ragged-row", 102, "zoo/data/t.zip/t/a.csv")


def test_a_rejected_archive_leaves_nothing_outside(tmp_path):
    (tmp_path / "canary").write_text("alive")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in pets().items():
            archive.writestr(name, data)
        archive.writestr("../../canary", "dead")
    assert rejection(process(tmp_path, {"a.zip": out.getvalue()}))["code"] == "archive-path"
    assert (tmp_path / "canary").read_text() == "alive"


def test_too_little_memory_is_no_damage_of_the_picture(tmp_path, monkeypatch):
    def full(data):
        raise MemoryError

    monkeypatch.setattr(process_images.image, "_flat", full)
    ended = process(tmp_path, pets())
    assert ended.status != 0
    assert "does not fit into the memory" in ended.failure


def test_few_large_pictures_are_decoded_together(tmp_path, monkeypatch):
    together, most, lock, real = 0, 0, threading.Lock(), image.pixels

    def pixels(data, **geometry):
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.01)
        with lock:
            together -= 1
        return real(data, **geometry)

    monkeypatch.setattr(process_images, "cpu_count", lambda: 8)
    monkeypatch.setattr(process_images, "LARGE_PIXELS", 100)
    monkeypatch.setattr(process_images.image, "pixels", pixels)
    assert process(tmp_path, pets()).status == 0
    assert most == 2
