"""Pictures, texts and scripts of one's own: dropped with and without a spec, trained, made small, served and asked."""

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from .conftest import ROOT, Cloud, Ebb

DIGITS = set("0123456789")
SCRIPTS = ROOT / "tests/unit/jobs/data"
BOTH = {"onnxruntime", "openvino"}


def measured(run: dict) -> list[dict]:
    return [each for each in run["candidates"] if each["status"] == "measured"]


def is_answer(prediction: dict, labels: set[str]) -> bool:
    sums_to_one = sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    return prediction["label"] in labels and set(prediction["probabilities"]) == labels and sums_to_one


# ---- pictures ----


@pytest.fixture(scope="module")
def digits_run(ebb: Ebb, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("half") / "digits"
    for label in DIGITS:
        (folder / label).mkdir(parents=True)
        for picture in sorted((digits / label).iterdir())[::2]:
            shutil.copyfile(picture, folder / label / picture.name)
    return ebb.drop(folder, "digits")


def test_a_folder_of_pictures_without_a_spec_ends_in_an_endpoint_that_tells_what_one_shows(
    ebb, digits_run, unseen_digits
):
    assert digits_run["status"] == "succeeded", digits_run
    assert digits_run["task"] == "image-classification"
    assert Path(digits_run["drop"]["key"]).name == "digits.zip", "one object instead of 150"
    picture = next(iter(unseen_digits))
    answer = ebb.json("invoke", "digits", picture)
    assert is_answer(answer["predictions"][0], DIGITS)


def test_most_pictures_that_no_stage_has_seen_are_told_rightly(ebb, digits_run, unseen_digits):
    asked = list(unseen_digits)[::5]
    answered = ebb.json("invoke", "digits", *asked)["predictions"]
    assert [each["file"] for each in answered] == [file.name for file in asked]
    right = sum(each["label"] == unseen_digits[file] for each, file in zip(answered, asked, strict=True))
    assert right >= len(asked) / 2, "one in ten is what guessing gives"


def test_a_picture_of_another_kind_and_size_is_taken_and_a_broken_one_refused_with_words(
    ebb, digits_run, unseen_digits, tmp_path
):
    picture = next(iter(unseen_digits))
    with Image.open(picture) as small:
        small.convert("RGB").resize((200, 120)).save(tmp_path / "photo.jpg")
    (tmp_path / "broken.png").write_bytes(picture.read_bytes()[:60])
    assert is_answer(ebb.json("invoke", "digits", tmp_path / "photo.jpg")["predictions"][0], DIGITS)
    refused = ebb("invoke", "digits", tmp_path / "broken.png")
    assert refused.returncode == 1
    assert "damaged" in refused.stderr
    assert "Send a whole PNG or JPEG file" in refused.stderr


def test_candidates_of_both_runtimes_and_of_every_precision_were_measured_or_say_why_not(ebb, digits_run):
    found = digits_run["candidates"]
    assert {each["runtime"] for each in found} == BOTH
    names = {each["name"] for each in found}
    assert {"original", "original-int8", "original-openvino", "original-int8-openvino"} <= names
    assert any("student" in each["name"] for each in found)
    assert any("pruned" in each["name"] for each in found)
    assert len(measured(digits_run)) >= 4
    assert all(each.get("reason") for each in found if each["status"] != "measured")
    chosen = next(each for each in found if each["name"] == digits_run["chosen"])
    assert chosen in measured(digits_run)
    told = ebb("show", digits_run["run_id"]).stdout
    assert [name for name in names if name not in told] == []
    assert "dynamic" in ebb("why", digits_run["run_id"]).stdout, "what was left out is told with its reason"


def test_a_prefix_of_pictures_with_a_table_that_names_them_is_read_as_the_spec_says(
    ebb, digits: Path, unseen_digits, tmp_path
):
    folder = tmp_path / "scans"
    (folder / "files").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["who", "scan", "digit"])
        for number, picture in enumerate(sorted(digits.rglob("*.png"))):
            shutil.copyfile(picture, folder / f"files/{number:03}.png")
            table.writerow([number % 7, f"files/{number:03}.png", picture.parent.name])
    spec = tmp_path / "pipeline.yaml"
    spec.write_text(
        "task: image-classification\ndata: {target: digit, input: scan}\n"
        "train: {epochs: 3}\ncompress: {methods: [quantize], max_metric_drop: 0.05}\n"
    )
    run = ebb.drop(folder, "scans", "--no-zip", "--spec", spec)
    assert run["status"] == "succeeded", run
    assert Path(run["drop"]["key"]).name == "_SUCCESS"
    assert run["target"] == "digit"
    assert not any(each["name"].startswith(("student", "pruned")) for each in run["candidates"]), (
        "only quantize was asked"
    )
    assert is_answer(ebb.json("invoke", "scans", next(iter(unseen_digits)))["predictions"][0], DIGITS)


# ---- texts ----

LANGUAGES = {"english", "italian", "spanish", "ukrainian"}
ITALIAN = "Come si chiama il tuo autore preferito?"


def test_a_table_of_texts_without_a_spec_ends_in_an_endpoint_that_tells_the_language(ebb, lines, tmp_path):
    with (tmp_path / "talk.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "language"), *lines])
    run = ebb.drop(tmp_path / "talk.csv", "talk")
    assert run["status"] == "succeeded", run
    assert (run["task"], run["target"]) == ("text-classification", "language")
    assert {each["runtime"] for each in run["candidates"]} == BOTH
    assert {each["name"] for each in run["candidates"]} >= {"original", "original-openvino"}
    first, second = ebb.json("invoke", "talk", "--text", ITALIAN, "--text", "Скільки тобі років?")["predictions"]
    assert is_answer(first, LANGUAGES)
    assert (first["label"], second["label"]) == ("italian", "ukrainian")


def test_json_lines_with_a_spec_are_learnt_from_the_named_field(ebb, lines, tmp_path):
    with (tmp_path / "talk.jsonl").open("w", encoding="utf-8") as file:
        for number, (line, language) in enumerate(lines):
            row = {"said": line, "id": number, "tongue": language}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    spec = tmp_path / "pipeline.yaml"
    spec.write_text(
        "task: text-classification\ndata: {target: tongue, input: said}\ntrain: {epochs: 4, metric: f1_macro}\n"
        "compress: {max_metric_drop: 0.1}\n"
    )
    run = ebb.drop(tmp_path / "talk.jsonl", "tongues", "--spec", spec)
    assert run["status"] == "succeeded", run
    assert (run["metric"], run["target"]) == ("f1_macro", "tongue")
    (tmp_path / "line.txt").write_text(ITALIAN + "\n", encoding="utf-8")
    assert is_answer(ebb.json("invoke", "tongues", tmp_path / "line.txt")["predictions"][0], LANGUAGES)
    refused = ebb("invoke", "tongues", "--text", "")
    assert refused.returncode == 1
    assert "empty" in refused.stderr


# ---- scripts of one's own ----


@pytest.fixture
def penguins(tmp_path: Path) -> Path:
    """A training script that exports its model, with its data beside it."""
    folder = tmp_path / "penguins"
    shutil.copytree(SCRIPTS / "custom_export", folder)
    shutil.copyfile(SCRIPTS / "penguins.csv", folder / "penguins.csv")
    return folder


def test_a_script_that_exports_its_model_is_compressed_compiled_and_served_without_a_spec(ebb, penguins):
    run = ebb.drop(penguins, "penguins")
    assert run["status"] == "succeeded", run
    assert (run["task"], run["metric"]) == ("custom", "accuracy")
    assert {each["runtime"] for each in run["candidates"]} == BOTH
    assert len(measured(run)) >= 2
    rows = {"instances": [[39.1, 18.7, 181.0, 3750.0], [47.5, 15.0, 218.0, 4950.0]]}
    answer = ebb.json("invoke", "penguins", "-", stdin=json.dumps(rows))
    assert [each["label"] for each in answer["predictions"]] == ["Adelie", "Gentoo"]
    told = ebb("why", run["run_id"]).stdout
    assert "distill" in told, "what the methods of compression could not do to a finished model is told"


def test_a_script_from_the_bucket_that_exports_nothing_is_served_as_it_is(ebb, cloud: Cloud, tmp_path):
    cloud.put("prices/scripts/prices.zip", zipped(SCRIPTS / "custom_as_is"))
    spec = tmp_path / "pipeline.yaml"
    spec.write_text(
        f"task: custom\ntrain:\n  source: s3://{cloud.outputs['LandingBucketName']}/prices/scripts/prices.zip\n"
        "  hyperparameters: {epochs: 20}\n"
    )
    run = ebb.drop(SCRIPTS / "housing.csv", "prices", "--spec", spec)
    assert run["status"] == "succeeded", run
    assert run["chosen"] == "as-is"
    house = {"year": 2010, "month": 6, "sales": 250, "volume": 40e6, "listings": 1500, "inventory": 7.5}
    answer = ebb.json("invoke", "prices", "-", stdin=json.dumps({"instances": [house]}))
    assert 20_000 < answer["predictions"][0]["value"] < 500_000
    told = ebb("why", run["run_id"]).stdout
    assert "compress" in told
    assert "model.onnx" in told, "what the script would have had to export"


def zipped(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.write(file, file.relative_to(folder).as_posix())
    return packed.getvalue()
