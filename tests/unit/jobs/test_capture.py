"""What a serving container notes of its calls, from the functions to the lines of a real server."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from ebb_jobs import bundle, capture, reference, serve, tabular
from unit.jobs.test_serve import CELLS, NAMES, ROW

REFERENCE = {
    "version": 1,
    "rows": 1000,
    "features": {"x": {"kind": "number", "edges": [0.5], "shares": [0.5, 0.5], "missing": 0.0}},
    "prediction": {"kind": "category", "categories": {"a": 0.5, "b": 0.5}, "other": 0.0, "missing": 0.0},
}
ABOUT = {"run_id": "demo-20261123000000-abcdef", "candidate": "student"}


class Codec:
    """Of a table with one number and two classes."""

    def __init__(self, classes=("a", "b")):
        self.state = {"target": {"name": "y", "classes": list(classes)}}
        self._reader = tabular.Preprocessor(
            {"task": "tabular-classification", "features": [], "numeric": [], "categorical": [], **self.state}
        )
        self.features = [{"name": "x", "kind": "numeric"}]
        self.read_numbers, self.predictions = self._reader.read_numbers, self._reader.predictions


class Taken:
    """A capture whose lines are kept and whose clock stands."""

    def __init__(self, share=1.0, known=REFERENCE, draws=(0.0,)):
        self.lines, self.moment, self._draws = [], 1_795_511_700.123, list(draws)
        self.capture = capture.Capture(
            ABOUT, share, "ebb-demo", known, write=self.lines.append, draw=self._draw, now=lambda: self.moment
        )

    def _draw(self):
        self._draws.append(self._draws[0])
        return self._draws.pop(0)

    def ask(self, *values, codec=None):
        rows = len(values)
        outputs = np.tile(np.array([[0.75, 0.25]], dtype=np.float32), (rows, 1))
        self.capture.note(codec or Codec(), {"x": list(values)}, np.zeros((rows, 1), np.float32), outputs)

    @property
    def documents(self):
        return [json.loads(line) for line in self.lines]


def test_a_sample_says_what_was_asked_what_was_answered_and_by_which_model():
    taken = Taken()
    taken.ask("41")
    [document] = taken.documents
    sample = document["ebb_sample"]
    assert len(sample.pop("id")) == 16
    assert sample == {
        "at": "2026-11-24T09:15:00.123Z",
        "endpoint": "ebb-demo",
        **ABOUT,
        "features": {"x": 41.0},
        "prediction": {"label": "a", "probability": 0.75, "probabilities": {"a": 0.75, "b": 0.25}},
    }


def test_the_share_is_drawn_for_each_example():
    kept = Taken(share=0.3, draws=[0.29])
    kept.ask("1")
    left = Taken(share=0.3, draws=[0.31])
    left.ask("1")
    assert (len(kept.lines), len(left.lines)) == (1, 0)


def test_a_large_request_gives_few_samples_evenly_spread():
    taken = Taken(share=0.5, known=None, draws=[0.5])
    taken.ask(*map(str, range(1000)))
    noted = [each["ebb_sample"]["features"]["x"] for each in taken.documents]
    assert len(noted) == capture.MOST_OF_A_REQUEST
    assert set(np.diff(noted)) <= {62, 63}


def test_of_many_classes_the_likeliest_are_noted():
    classes = [f"c{number}" for number in range(30)]
    taken = Taken(known=None)
    outputs = np.arange(30, dtype=np.float32)[None] / 435
    taken.capture.note(Codec(classes), {"x": ["1"]}, np.zeros((1, 1), np.float32), outputs)
    prediction = taken.documents[0]["ebb_sample"]["prediction"]
    assert prediction["label"] == "c29"
    assert list(prediction["probabilities"]) == ["c29", "c28", "c27", "c26", "c25"]


def test_a_value_that_is_missing_or_no_number_is_null():
    taken = Taken(known=None)
    taken.ask(None, "NA")
    assert [each["ebb_sample"]["features"] for each in taken.documents] == [{"x": None}, {"x": None}]


class Texts:
    predictions = Codec().predictions


def texts(taken, text):
    taken.capture.note(Texts(), [text], np.zeros((1, 4), np.int32), np.array([[0.75, 0.25]], np.float32))
    return taken.documents[-1]["ebb_sample"]


def test_a_text_is_noted_with_its_length():
    sample = texts(Taken(known=None), "Grüße aus Ulm")
    assert sample["features"] == {"characters": 13, "words": 3}
    assert sample["input"] == {"text": "Grüße aus Ulm"}


def test_no_line_is_longer_than_what_a_container_runtime_leaves_whole():
    taken = Taken(known=None)
    sample = texts(taken, "ä" * 9000)
    assert sample["left_out"] == ["input"]
    assert "input" not in sample
    assert sample["features"]["characters"] == 9000
    assert all(len(line) <= capture.MOST_LINE_BYTES for line in taken.lines)


def test_a_row_that_is_too_wide_is_left_out_and_its_answer_stays():
    codec, taken = Codec(), Taken(known=None)
    codec.features = [{"name": "n" * 100 + str(number), "kind": "numeric"} for number in range(200)]
    columns = {each["name"]: ["1"] for each in codec.features}
    taken.capture.note(codec, columns, np.zeros((1, 1), np.float32), np.array([[0.75, 0.25]], np.float32))
    sample = taken.documents[0]["ebb_sample"]
    assert sample["left_out"] == ["features"]
    assert sample["prediction"]["label"] == "a"


def test_halves_of_surrogate_pairs_are_noted_as_question_marks():
    assert texts(Taken(known=None), "a\ud800b")["input"] == {"text": "a?b"}


def test_a_picture_is_noted_as_it_was_sent_and_as_bright_as_the_network_sees_it():
    taken = Taken(known=None)
    pixels = np.full((1, 2, 2, 1), 51, np.uint8)
    taken.capture.note(Texts(), [b"\x89PNG"], pixels, np.array([[0.75, 0.25]], np.float32))
    sample = taken.documents[0]["ebb_sample"]
    assert sample["features"] == {"brightness": pytest.approx(0.2), "contrast": 0.0}
    assert sample["input"] == {"base64": "iVBORw=="}


@pytest.mark.parametrize(
    ("size", "names"),
    [
        pytest.param(3, {"0", "1", "2"}, id="few numbers by their place"),
        pytest.param(40, {"mean", "deviation", "least", "most"}, id="many numbers summed up"),
    ],
)
def test_tensors_are_noted_by_their_numbers(size, names):
    taken, rows = Taken(known=None), np.ones((1, size), np.float32)
    taken.capture.note(Texts(), rows, rows, np.array([[0.75, 0.25]], np.float32))
    sample = taken.documents[0]["ebb_sample"]
    assert set(sample["features"]) == names
    assert sample["input"] == {"values": [1.0] * size}


def test_the_users_own_code_is_noted_by_its_bodies():
    taken = Taken(known=None)
    taken.capture.note_bodies(b"[1, 2]", "application/json", b"\xff\x00")
    sample = taken.documents[0]["ebb_sample"]
    assert sample["input"] == {"text": "[1, 2]", "content_type": "application/json"}
    assert sample["prediction"] == {"base64": "/wA="}
    assert sample["features"] == {}


def test_what_goes_wrong_is_said_once_without_values_and_fails_no_request(capsys):
    taken, broken = Taken(), Codec()
    broken.predictions = lambda outputs: {}["secret value"]
    taken.ask("1", codec=broken)
    taken.ask("2", codec=broken)
    assert not taken.lines
    assert capsys.readouterr().err == "KeyError while a sample was noted\n"


def test_drift_is_told_from_200_samples_on_and_at_most_once_a_minute():
    taken = Taken()

    def drifts():
        return [each for each in taken.documents if "_aws" in each]

    for number in range(199):
        taken.ask(str(number % 2))
    assert not drifts()
    taken.ask("1")
    assert len(drifts()) == 1
    for _ in range(120):
        taken.ask("1")
    assert len(drifts()) == 1
    taken.moment += 61
    taken.ask("1")
    assert len(drifts()) == 2


def test_the_line_of_drift_is_the_embedded_metric_format():
    taken = Taken()
    for _ in range(200):
        taken.ask("1")
    document = taken.documents[-1]
    [directive] = document["_aws"]["CloudWatchMetrics"]
    assert document["_aws"]["Timestamp"] == 1795511700123
    assert directive == {"Namespace": "Ebb/Drift", "Dimensions": [["EndpointName"]], "Metrics": [{"Name": "Psi"}]}
    assert document["EndpointName"] == "ebb-demo"
    assert document["ebb_drift"]["of"] in ("x", "prediction")  # the answer is the same each time too
    found = document["ebb_drift"]
    assert document["Psi"] == max(found["features"]["x"], found["prediction"]) > 0.25
    assert document["ebb_drift"]["samples"] == 200
    assert len(taken.lines[-1]) < capture.MOST_LINE_BYTES


def test_without_a_reference_there_are_samples_and_no_drift():
    taken = Taken(known=None)
    for _ in range(300):
        taken.ask("1")
    assert len(taken.documents) == 300


def test_the_serving_process_and_the_capture_agree_on_what_asks_for_it():
    assert serve.CAPTURE_SHARE == capture.SHARE


# ---- A real bundle ----


@contextlib.contextmanager
def serving(archive, tmp_path, **environment):
    model = bundle.unpack(archive, tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    bound = {"SAGEMAKER_BASE_DIR": str(tmp_path), "SAGEMAKER_BIND_TO_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, str(model / "code/serve.py")],
        env={**own, **bound, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.02)
        yield process, port
    finally:
        process.terminate()
        process.communicate(timeout=10)


def ask(port, body, kind, accept=""):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/invocations", body.encode(), {"Content-Type": kind, "Accept": accept})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    assert response.status == 200, answer
    return answer


def lines_of(archive, tmp_path, asked, **environment):
    with serving(archive, tmp_path, **environment) as (process, port):
        for each in asked:
            ask(port, *each)
        process.terminate()
        return process.communicate(timeout=10)[0].splitlines()


def test_a_server_that_is_not_asked_to_notes_nothing(penguins, tmp_path):
    lines = lines_of(penguins.bundles / "student/model.tar.gz", tmp_path, [(CELLS, "text/csv")])
    assert not [line for line in lines if "ebb_" in line]


def test_a_server_notes_each_way_to_ask_alike(penguins, tmp_path):
    asked = [
        (CELLS, "text/csv"),
        (json.dumps(ROW), "application/json"),
        (f"{NAMES}\n{CELLS}\n", "text/csv", "text/csv"),  # comes back as a scored file
    ]
    lines = lines_of(
        penguins.bundles / "student/model.tar.gz", tmp_path, asked,
        EBB_CAPTURE_SHARE="1.0", EBB_CAPTURE_ENDPOINT="ebb-demo",
    )  # fmt: skip
    samples = [json.loads(line)["ebb_sample"] for line in lines if line.startswith('{"ebb_sample"')]
    assert len(samples) == 3
    assert all(each["features"] == samples[0]["features"] for each in samples)
    assert samples[0]["features"]["island"] == "Biscoe"
    assert samples[0]["features"]["bill_length_mm"] == 50.0
    assert samples[0]["prediction"]["label"] == "Gentoo"
    assert samples[0]["run_id"] == "demo-20261123000000-abcdef"
    assert len({each["id"] for each in samples}) == 3


def test_a_bundle_carries_what_its_training_data_looked_like(penguins, tmp_path):
    model = bundle.unpack(penguins.bundles / "student/model.tar.gz", tmp_path)
    known = json.loads((model / capture.REFERENCE).read_text())
    assert known["rows"] > 200
    assert set(known["features"]) == set(ROW)
    assert set(known["features"]["island"]["categories"]) == {"Biscoe", "Dream", "Torgersen"}
    assert known["features"]["bill_length_mm"]["kind"] == "number"
    assert set(known["prediction"]["categories"]) <= {"Adelie", "Chinstrap", "Gentoo"}
    for each in (*known["features"].values(), known["prediction"], known["confidence"]):
        present = each.get("shares") or [*each["categories"].values(), each["other"]]
        assert sum(present) == pytest.approx(1, abs=1e-5)


def test_rows_as_trained_show_no_drift_and_shifted_ones_do(penguins, tmp_path):
    model = serve.Model(bundle.unpack(penguins.bundles / "student/model.tar.gz", tmp_path))
    known = json.loads((tmp_path / "model" / capture.REFERENCE).read_text())
    columns = reference.sampled(penguins.curated, "train", model.codec.columns)
    told = {}
    for name, shift in (("same", 0), ("heavier", 1500)):
        lines = []
        model.capture = capture.Capture(ABOUT, 1.0, "ebb-demo", known, write=lines.append)
        rows = len(columns["island"])
        for row in [*range(rows)] * 2:
            one = {column: [values[row]] for column, values in columns.items()}
            model.predict({**one, "body_mass_g": [columns["body_mass_g"][row] + shift]})
        told[name] = model.capture.sketch.told(50)
    assert max(told["same"]["features"].values()) < 0.05
    assert told["same"]["prediction"] < 0.05
    assert told["heavier"]["of"] == "body_mass_g"
    assert told["heavier"]["psi"] > 1
