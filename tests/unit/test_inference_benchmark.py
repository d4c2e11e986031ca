"""The inference benchmark: what it reads out of packages, and how its ratios come about."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import inference
import inference_data
import inference_stages


def workspace(rows: list[tuple[int, float]], levels: list[bytes]) -> bytes:
    """Return an R workspace that holds a data frame of a factor and of reals, as R writes it."""
    name = b"Letters"
    factor = struct.pack(">ii", 0x30D, len(rows)) + b"".join(struct.pack(">i", code) for code, _ in rows)
    attribute = b"".join(struct.pack(">ii", 0x40009, len(each)) + each for each in levels)
    reals = struct.pack(">ii", 0xE, len(rows)) + b"".join(struct.pack(">d", value) for _, value in rows)
    head = b"RDX2\nX\n" + struct.pack(">iii", 2, 0x20A00, 0x20300)
    pair = struct.pack(">ii", 0x402, 1) + struct.pack(">ii", 0x40009, len(name)) + name
    return head + pair + struct.pack(">ii", 0x313, 2) + factor + attribute + reals


def test_a_data_frame_of_an_r_workspace_is_read():
    rows = [(2, 0.5), (1, -1.0), (2, 3.0)]
    letter, measure = inference_data._columns(workspace(rows, [b"A", b"B"]))
    assert letter.tolist() == [2, 1, 2]
    assert measure.tolist() == [0.5, -1.0, 3.0]


def test_what_is_no_r_workspace_is_refused():
    with pytest.raises(inference_data.MissingDataError, match="no R workspace"):
        list(inference_data._columns(b"PK"))


def test_a_mail_keeps_its_subject_and_words_and_loses_its_headers_and_tags():
    raw = b"From: a@b\nReceived: from c\nSubject: Hello\nContent-Type: text/html\n\n<p>Buy <b>now</b></p>\n"
    assert inference_data._readable(raw) == "Hello Buy now"


def rounds(p50, rows):
    return {"rounds": {"p50_ms": p50, "rows_per_s": rows}}


def test_ratios_are_taken_round_by_round():
    """A round in which the machine was half as fast for both changes no ratio."""
    before = rounds([1.0, 2.0, 1.2], [1000, 500, 900])
    after = rounds([0.1, 0.2, 0.1], [20_000, 10_000, 27_000])
    times = inference._ratios(before, after)
    assert times["batch_1"] == pytest.approx({"ratio": 10.0, "low": 10.0, "high": 12.0})
    assert times["batch_32"] == pytest.approx({"ratio": 20.0, "low": 20.0, "high": 30.0})


def test_the_baseline_takes_the_best_thread_count_for_each_figure():
    def figures(p50, throughput):
        return {
            "latency_ms": {"p50": p50, "p99": p50},
            "throughput_rows_per_s": throughput,
            **rounds([p50], [throughput]),
        }

    race = {
        "figures": {"eager/1": figures(1.0, 800.0), "eager/2": figures(1.1, 1200.0), "small eager/1": figures(9, 9)}
    }
    best = inference._best_eager(race, "eager")
    assert (best["latency_threads"], best["latency_ms"]["p50"]) == (1, 1.0)
    assert (best["throughput_threads"], best["throughput_rows_per_s"]) == (2, 1200.0)
    assert best["rounds"] == {"p50_ms": [1.0], "rows_per_s": [1200.0]}


def test_tasks_and_seeds_that_were_not_asked_for_stay_as_the_file_holds_them(tmp_path):
    def run(task, seed, note):
        return {"task": task, "seed": seed, "note": note}

    file = tmp_path / "inference.json"
    assert inference._with_others([run("text", 7, "new")], file) == [run("text", 7, "new")]
    file.write_text(json.dumps({"runs": [run("image", 7, "old"), run("text", 8, "old"), run("text", 7, "old")]}))
    assert inference._with_others([run("text", 7, "new")], file) == [
        run("image", 7, "old"), run("text", 7, "new"), run("text", 8, "old"),
    ]  # fmt: skip


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """A function that asks for a stage's outcome as a new process would, with a counter of stages that ran."""
    ran = []
    jobs = tmp_path / "jobs/ebb_jobs"
    jobs.mkdir(parents=True)
    for module in ("compress", "train"):
        (jobs / f"{module}.py").write_text("first")
    (tmp_path / "drop").mkdir()

    def run(self, stage, inputs, base):
        ran.append(stage)
        base.mkdir(parents=True)

    monkeypatch.setattr(inference_stages, "JOBS", tmp_path / "jobs")
    monkeypatch.setattr(inference_stages.Runs, "_run", run)

    def ask(stage, fresh=()):
        inference_stages.code.cache_clear()
        task = inference_stages.Task("text", "title", {}, {})
        runs = inference_stages.Runs(task, tmp_path / "drop", tmp_path, 7, tmp_path, frozenset(fresh))
        runs._kept(stage, {}, {})
        runs._kept(stage, {}, {})
        return list(ran), runs.made_by[stage]

    return ask, jobs


def test_a_stage_is_kept_until_it_is_asked_for_afresh(kept):
    ask, _ = kept
    assert ask("train")[0] == ["train"]
    assert ask("train")[0] == ["train"]
    assert ask("train", fresh=["train"])[0] == ["train"] * 2


def test_another_search_runs_anew_and_an_original_of_other_code_is_told(kept):
    ask, jobs = kept
    ask("compress"), ask("train")
    for module in ("compress", "train"):
        (jobs / f"{module}.py").write_text("second")
    ran, by = ask("compress")
    assert (ran.count("compress"), by["code"]) == (2, by["now"])
    ran, by = ask("train")
    assert ran.count("train") == 1
    assert by["code"] != by["now"]


def test_seeds_are_told_by_their_median_and_spread_and_each_miss_by_its_seed(capsys):
    def run(seed, times, met):
        target = {"what": "batch 1: times", "found": times, "target": 50.0, "met": met}
        small = {"times": {"batch_1": {"ratio": times / 10}}} if met else None
        return {
            "task": "image", "seed": seed, "chosen": {"name": f"student-{seed}"}, "targets": [target],
            "small_eager": small,
        }  # fmt: skip

    (found,) = inference.over_seeds([run(7, 60.0, True), run(8, 40.0, False), run(9, 52.0, True)])
    assert found["figures"]["batch 1: times"] == {"median": 52.0, "low": 40.0, "high": 60.0}
    assert found["figures"]["against the small net in eager, batch_1: times"]["median"] == pytest.approx(5.6)
    assert [missed["seed"] for missed in found["missed"]] == [8]
    inference.show_seeds([found])
    assert "MISSED with seed 8: batch 1: times 40, not 50" in capsys.readouterr().out


def test_each_part_of_the_chain_is_told_apart():
    def one(name, chain, p50, bundle="x"):
        return {"name": name, "chain": [*chain, "compile"], "latency_ms": {"p50": p50}, "bundle": bundle}

    report = {
        "candidates": [
            one("original", [], 0.5), one("original-openvino", [], 0.4), one("original-int8", ["quantize"], 0.3),
            one("student-int8", ["distill", "quantize"], 0.1), one("original-int8-openvino", ["quantize"], 0.2, None),
        ]
    }  # fmt: skip
    assert inference._roles(report, "student-int8") == {
        "compile only": "original-openvino",
        "compile + int8": "original-int8",
        "full chain": "student-int8",
    }


def test_pictures_of_the_drop_are_what_the_package_holds(monkeypatch, tmp_path):
    """A training picture that is tested too is left out."""
    import gzip
    import zipfile

    pixels = np.arange(3 * 784, dtype=np.int64).reshape(3, 784).astype(np.uint8)
    source = tmp_path / "usr/share/datasets/fashion-mnist"
    source.mkdir(parents=True)
    for prefix, chosen in (("train", [0, 1, 2]), ("t10k", [1])):
        images = bytes(16) + pixels[chosen].tobytes()
        (source / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (source / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + bytes(chosen)))
    monkeypatch.setattr(inference_data.Package, "fetch", lambda self, cache: tmp_path / "package.deb")
    monkeypatch.setattr(inference_data, "_unpacked", lambda package: tmp_path)
    inference_data.fashion(tmp_path, tmp_path)
    with zipfile.ZipFile(tmp_path / "fashion.zip") as packed:
        names = sorted(packed.namelist())
    assert names == ["test/class-1/00000.png", "train/class-0/00000.png", "train/class-2/00002.png"]
