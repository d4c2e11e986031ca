"""The ladder's last rung for texts: a public encoder that the run was given, climbed to only as any other rung.

The texts are what NumPy and the standard library say of themselves; the encoder is tiny and has weights of chance.
"""

from __future__ import annotations

import csv
import hashlib
import inspect
import json
import re
import statistics
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

import encoders
from ebb_jobs import kinds, ladder, networks, pretrained, text, train
from ebb_jobs.ladder import Climb, Climbed, Fitted, Rung
from unit.jobs.stages import run_stage_here

TASK = "text-classification"


def told_of(*modules) -> list[str]:
    """Return the first paragraphs that modules say of what is in them, each once."""
    found = {}
    for module in modules:
        for _, each in inspect.getmembers(module):
            first = re.sub(r"\s+", " ", (inspect.getdoc(each) or "").replace("\n\n", "\0")).partition("\0")[0]
            if len(first) > 30:
                found.setdefault(first[:200], None)
    return sorted(found)


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    shown = {
        "numpy": told_of(np, np.linalg, np.ma),
        "library": told_of(str, bytes, dict, list, set, statistics, csv, json, re, hashlib, inspect),
    }
    return {name: [each for each in some if each not in shown["library"] or name == "library"][:150]
            for name, some in shown.items()}  # fmt: skip


@pytest.fixture(scope="module")
def curated(texts, tmp_path_factory):
    base = tmp_path_factory.mktemp("texts")
    (base / "data").mkdir()
    with (base / "data/texts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "from"), *((one, name) for name, some in texts.items() for one in some)])
    settings = {"spec": {"task": TASK, "data": {"input": "text", "target": "from"}}, "seed": 7}
    ended = run_stage_here(base / "process", "process", {"data": base / "data"}, settings)
    assert ended.status == 0, ended.failure
    return base / "process/processing/output/curated"


@pytest.fixture(scope="module")
def encoder(texts, tmp_path_factory):
    words = Counter(word for some in texts.values() for one in some for word in re.findall(r"[a-z]+", one.lower()))
    folder = tmp_path_factory.mktemp("encoder")
    for name, content in encoders.files(word for word, _ in words.most_common(300)).items():
        (folder / name).write_bytes(content)
    return folder


def trained(base, curated, wanted, *, encoder=None, previous=None, digests=None):
    inputs = {"curated": curated} | ({"pretrained": encoder} if encoder else {})
    inputs |= {"previous": previous} if previous else {}
    settings = {"spec": {"task": TASK, "train": wanted}, "seed": 7, "run_id": "demo-20261123000000-abcdef"}
    return run_stage_here(base, "train", inputs, settings | ({"pretrained": digests} if digests else {}))


def told(ended, what):
    return next(each for each in ended.metrics()["decisions"] if each["what"] == what)


@pytest.fixture(scope="module")
def alone(curated, encoder, tmp_path_factory):
    """The encoder as the only rung."""
    ended = trained(tmp_path_factory.mktemp("alone"), curated, {"rungs": ["encoder"]}, encoder=encoder)
    assert ended.status == 0, ended.failure
    return ended


def test_where_the_target_asks_for_more_the_ladder_ends_at_the_encoder_and_still_ships_the_cheaper_one(
    curated, encoder, tmp_path
):
    ended = trained(tmp_path, curated, {"target": 1.0, "rungs": ["linear", "encoder"]}, encoder=encoder)
    assert ended.status == 0, ended.failure
    metrics = ended.metrics()
    assert [rung["name"] for rung in metrics["rungs"]] == ["linear", "encoder"]
    assert metrics["rungs"][1]["described"] == "an encoder of 2 layers, 16 wide"
    assert "target is not reached; there is no higher rung" in metrics["ladder_ended"]
    assert metrics["rung"] == "linear"  # weights of chance are no gain
    stored = text.open_codec(ended.base / "model")
    assert stored.files()[text.TOKENIZER] != (encoder / "tokenizer.json").read_bytes()
    assert not (ended.base / "model/rungs/encoder.safetensors").exists()


def test_where_the_linear_model_is_good_enough_the_encoder_is_not_even_tokenized_for(curated, encoder, tmp_path):
    ended = trained(tmp_path, curated, {"target": 0.7}, encoder=encoder)
    assert ended.status == 0, ended.failure
    assert [rung["name"] for rung in ended.metrics()["rungs"]] == ["linear"]
    assert told(ended, "pretrained encoder")["chosen"] == "given"
    assert "tokens of the encoder" not in [each["what"] for each in ended.metrics()["decisions"]]


def test_without_an_encoder_the_ladder_says_what_it_was_not_given(curated, tmp_path):
    ended = trained(tmp_path, curated, {"target": 0.7})
    assert ended.status == 0, ended.failure
    assert told(ended, "rung encoder")["reason"] == "no pretrained encoder was given (train.pretrained)"


def test_an_encoder_that_is_taken_is_stored_with_its_own_tokens_and_judged_by_them(alone, curated, encoder):
    metrics, model = alone.metrics(), alone.base / "model"
    assert metrics["rung"] == "encoder"
    codec = text.open_codec(model)
    assert codec.length == 48  # no more positions have weights
    assert codec.vocabulary == json.loads((encoder / "config.json").read_text())["vocab_size"] + 1
    rows = kinds.of({"kind": "text"}).read_split(curated, "test", codec)
    network = networks.load(model / "original.safetensors")
    assert train.evaluate(network, rows, codec, metrics["metric"]) == pytest.approx(metrics["quality"]["test"])


def test_data_that_grew_starts_from_the_encoder_that_was_trained_before(alone, curated, encoder, tmp_path):
    ended = trained(tmp_path, curated, {}, encoder=encoder, previous=alone.base / "model")
    assert ended.status == 0, ended.failure
    assert [(rung["name"], rung["warm"]) for rung in ended.metrics()["rungs"]] == [("encoder", True)]


def test_an_encoder_with_other_tokens_does_not_start_from_the_one_before(alone, curated, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name, content in encoders.files(["array"]).items():
        (other / name).write_bytes(content)
    ended = trained(tmp_path / "job", curated, {}, encoder=other, previous=alone.base / "model")
    assert ended.status == 0, ended.failure
    assert ended.metrics()["rungs"][0]["warm"] is False


def test_without_the_encoder_of_before_the_ladder_begins_anew_with_tokens_of_its_own(alone, curated, tmp_path):
    ended = trained(tmp_path, curated, {"target": 0.7}, previous=alone.base / "model")
    assert ended.status == 0, ended.failure
    assert ended.metrics()["rung"] == "linear"
    own = text.open_codec(ended.base / "model").files()[text.TOKENIZER]
    assert own != text.open_codec(alone.base / "model").files()[text.TOKENIZER]


def test_an_encoder_that_was_written_again_meanwhile_is_not_trained_on(curated, encoder, tmp_path):
    ended = trained(tmp_path, curated, {}, encoder=encoder, digests={"config.json": "0" * 64})
    assert ended.status == 1
    assert "pretrained-changed: train.pretrained: config.json was written again" in ended.failure


def test_a_model_that_reads_other_tokens_is_no_candidate_beside_the_encoder(tmp_path):
    saved = []
    fitted = Fitted(SimpleNamespace(save=saved.append), "plan", "", 1, 1, 1, 0.0)

    def one(name, sees=None):
        rung = Rung(name, ladder.NETWORK if sees else ladder.LINEAR, None, None, sees=sees)
        return Climbed(rung, fitted, {"quality": {"validation": 0.9}})

    below, best = one("linear"), one("encoder", sees=lambda lesson: lesson)
    train._keep_others(Climb(best, [below, best], ""), 0.9, "accuracy", {}, tmp_path)
    assert (below.fields["candidate"], saved) == (False, [])
    train._keep_others(Climb(below, [one("small"), below], ""), 0.9, "accuracy", {}, tmp_path)
    assert len(saved) == 1


# ---- What is understood ----


def looked_at(files: dict[str, bytes]):
    sheet, weights, tokenizer = (files[name] for name in pretrained.FILES)
    length = pretrained.header_bytes(weights, len(weights))
    return pretrained.check(sheet, None if length is None else weights[8 : 8 + length], tokenizer)


def test_an_encoder_of_the_known_form_is_understood():
    assert looked_at(encoders.files()) is None


@pytest.mark.parametrize(
    ("changed", "file", "why"),
    [
        pytest.param({"model_type": "roberta"}, "config.json", "only 'bert' is known", id="another family"),
        pytest.param({"hidden_act": "relu"}, "config.json", "hidden_act is 'relu'", id="another activation"),
        pytest.param({"vocab_size": "many"}, "config.json", "vocab_size is no whole number", id="a size in words"),
        pytest.param({"hidden_size": 32}, "model.safetensors", "lets expect floats", id="weights of another width"),
        pytest.param({"num_hidden_layers": 3}, "model.safetensors", "has no encoder.layer.2", id="a layer is missing"),
        pytest.param({"num_attention_heads": 5}, "config.json", "does not divide", id="heads that do not divide it"),
    ],
)
def test_an_encoder_of_another_form_is_refused_by_the_file_and_the_reason(changed, file, why):
    rejection = looked_at(encoders.files(**changed))
    assert (rejection.code, rejection.file, rejection.column) == ("pretrained-unknown", file, "train.pretrained")
    assert why in rejection.message
    assert "all-MiniLM-L6-v2" in rejection.remedy


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        pytest.param("config.json", b"[]", "no JSON object", id="a list as configuration"),
        pytest.param("config.json", b"\xff", "no JSON object", id="no text"),
        pytest.param("model.safetensors", b"", "no safetensors file", id="no weights"),
        pytest.param("model.safetensors", b"PK\x03\x04" * 9, "no safetensors file", id="weights as an archive"),
        pytest.param("tokenizer.json", b"{}", "no vocabulary", id="a tokenizer without tokens"),
        pytest.param(
            "tokenizer.json", b'{"model": {"vocab": {"a": 9999}}}', "knows a token 9999", id="tokens without weights"
        ),
    ],
)
def test_a_file_that_is_something_else_is_refused(name, content, why):
    rejection = looked_at(encoders.files() | {name: content})
    assert rejection.file == name
    assert why in rejection.message
