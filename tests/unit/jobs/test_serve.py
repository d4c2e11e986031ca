"""The bundle's own server, asked over HTTP as a client asks an endpoint."""

import http.client
import json

import numpy as np
import pytest

from ebb_jobs import bundle, serve

ROW = {
    "island": "Biscoe", "bill_length_mm": 50.0, "bill_depth_mm": 15.0, "flipper_length_mm": 220, "body_mass_g": 5500,
    "sex": "male", "year": 2008,
}  # fmt: skip
CELLS = "Biscoe,50.0,15.0,220,5500,male,2008"
NAMES = ",".join(ROW)


@pytest.fixture(scope="module")
def server(penguins):
    with bundle.served(penguins.bundles / "student/model.tar.gz") as running:
        yield running


def ask(server, body, kind, path="/invocations", method="POST"):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, body.encode() if isinstance(body, str) else body, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def answer(server, body, kind):
    status, document = ask(server, body, kind)
    assert status == 200, document
    return document["predictions"]


def test_ping(server):
    status, document = ask(server, "", "text/plain", "/ping", "GET")
    assert status == 200
    assert document["model"] == {"candidate": "student", "run_id": "demo-20261123000000-abcdef"}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param(CELLS, "text/csv", id="csv without a header"),
        pytest.param(f"{NAMES}\n{CELLS}\n", "text/csv; charset=utf-8", id="csv with a header"),
        pytest.param(f"\ufeff{NAMES}\r\n{CELLS}\r\n", "text/csv", id="csv from a spreadsheet"),
        pytest.param(f"species,{NAMES}\nAdelie,{CELLS}\n", "text/csv", id="csv with the target in it"),
        pytest.param(json.dumps(ROW), "application/json", id="an object"),
        pytest.param(json.dumps([ROW]), "application/json", id="a list"),
        pytest.param(json.dumps({"instances": [ROW]}), "application/json", id="instances"),
        pytest.param(json.dumps({"instances": [list(ROW.values())]}), "application/json", id="a list of lists"),
        pytest.param(json.dumps(ROW) + "\n", "application/jsonlines", id="json lines"),
        pytest.param(json.dumps({**ROW, "more": 1}), "application/json", id="columns that were not asked for"),
    ],
)
def test_every_way_to_send_a_row_gives_the_same_answer(server, body, kind):
    assert answer(server, body, kind) == answer(server, json.dumps(ROW), "application/json")


def test_an_answer_is_a_label_with_probabilities(server):
    [prediction] = answer(server, CELLS, "text/csv")
    assert prediction["label"] == "Gentoo"
    assert set(prediction["probabilities"]) == {"Adelie", "Chinstrap", "Gentoo"}
    assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_a_regression_answers_with_a_value(housing):
    row = {"city": "Austin", "year": 2010, "month": 6, "sales": 2200, "volume": 5.5e8, "listings": 11000,
           "inventory": 6.7, "date": 2010.41666666667}  # fmt: skip
    with bundle.served(housing.bundles / "original/model.tar.gz") as running:
        [prediction] = answer(running, json.dumps(row), "application/json")
        assert set(prediction) == {"value"}
        assert 100_000 < prediction["value"] < 300_000
        assert answer(running, json.dumps({**row, "inventory": None, "city": "Paris"}), "application/json")


def test_many_rows_are_answered_in_their_order(server):
    bodies = [{**ROW, "bill_length_mm": 30 + n} for n in range(30)]
    together = answer(server, json.dumps(bodies), "application/json")
    assert together == [answer(server, json.dumps(body), "application/json")[0] for body in bodies]


def test_unknown_and_missing_values_are_answered(server):
    assert answer(server, "Atlantis,,NA,220,,,2008", "text/csv")


@pytest.mark.parametrize(
    ("body", "kind", "field", "words"),
    [
        pytest.param(CELLS.replace("50.0", "long"), "text/csv", "bill_length_mm", "expected a number", id="a word"),
        pytest.param(
            json.dumps({**ROW, "year": True}), "application/json", "year", "expected a number", id="a boolean"
        ),
        pytest.param(
            json.dumps({"island": "Biscoe"}), "application/json", "bill_length_mm", "lacks", id="a field left out"
        ),
        pytest.param(
            "island,year\nBiscoe,2008\n", "text/csv", "bill_length_mm", "header lacks", id="a column left out"
        ),
        pytest.param("1,2,3", "text/csv", None, "3 cells, expected 7", id="too few cells"),
        pytest.param(f"{CELLS}\n1,2\n", "text/csv", None, "row 2 has 2 cells", id="a ragged row"),
        pytest.param('"Biscoe,1', "text/csv", None, "not CSV", id="an open quote"),
        pytest.param(NAMES, "text/csv", None, "no row", id="a header only"),
        pytest.param("{", "application/json", None, "not JSON", id="broken JSON"),
        pytest.param("[" * 100_000, "application/json", None, "not JSON", id="JSON nested without end"),
        pytest.param("[]", "application/json", None, "no rows", id="no rows"),
        pytest.param("[1]", "application/json", None, "row 1 is not an object", id="a number for a row"),
        pytest.param(
            json.dumps(ROW) + "\n{\n", "application/jsonlines", None, "line 2 is not JSON", id="a broken line"
        ),
        pytest.param("", "text/csv", None, "empty", id="nothing"),
        pytest.param(b"\xff\xfe", "text/csv", None, "not UTF-8", id="not UTF-8"),
        pytest.param("<row/>", "application/xml", None, "not supported", id="another content type"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_field_and_remedy(server, body, kind, field, words):
    status, document = ask(server, body, kind)
    assert status == 400
    assert document["field"] == field
    assert words in document["error"]
    assert document["remedy"]


def test_other_paths_and_oversized_bodies_are_refused(server):
    assert ask(server, "x", "text/csv", "/other")[0] == 404
    assert ask(server, "", "text/csv", "/", "GET")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("POST", "/invocations", headers={"Content-Type": "text/csv", "Content-Length": str(7 * 2**20)})
    assert connection.getresponse().status == 413
    connection.close()


def test_it_ends_on_sigterm_without_an_error(penguins):
    with bundle.served(penguins.bundles / "student/model.tar.gz") as running:
        process = running.process
    assert process.returncode == 0


class Doubling:
    """A network that notes the sizes of what it is given."""

    def __init__(self):
        self.given = []

    def run(self, inputs):
        self.given.append(len(inputs))
        return inputs * 2.0


@pytest.mark.parametrize(
    ("lanes", "rows", "parts"),
    [
        pytest.param(1, 40, [40], id="one CPU answers a batch at once"),
        pytest.param(2, 40, [20, 20], id="two share it"),
        pytest.param(2, 41, [20, 21], id="an odd batch too"),
        pytest.param(2, 15, [15], id="a few rows are not worth sharing"),
        pytest.param(2, 1, [1], id="one row cannot be shared"),
    ],
)
def test_a_batch_is_shared_among_cpus_and_stays_in_order(lanes, rows, parts):
    model = serve.Model.__new__(serve.Model)
    model.lanes, model._pool, model._network = lanes, None, Doubling()
    encoded = np.arange(rows, dtype=np.float32)[:, None]
    assert np.array_equal(model.run(encoded), encoded * 2)
    assert sorted(model._network.given) == parts
