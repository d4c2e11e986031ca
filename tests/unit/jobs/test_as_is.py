"""The user's own functions behind the server, with the defaults of SageMaker's toolkit for those that are missing."""

import io
import json
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from ebb_jobs import as_is, tensors
from ebb_jobs.bad_request import BadRequestError
from ebb_jobs.user_code import UserCodeError

ROWS = [[1.0, 2.0], [3.0, 4.0]]
SUMS = "def model_fn(model_dir):\n    return None\ndef predict_fn(data, model):\n    return data.sum(1)\n"


def opened(folder, code="", **files):
    (folder / "code").mkdir()
    (folder / "code/inference.py").write_text(code)
    for name, content in files.items():
        (folder / "code" / f"{name}.py").write_text(content)
    return as_is.open_model(folder, {"candidate": "as-is", "run_id": "demo-1", "codec": "as_is"})


def torchscript(file):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.9))
    torch.jit.save(torch.jit.trace(network.eval(), torch.tensor(ROWS)), str(file))
    return network(torch.tensor(ROWS)).detach().numpy()


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", ["model.pt", "anything.pth"])
def test_torchscript_alone_is_served_without_any_function(tmp_path, name):
    expected = torchscript(tmp_path / name)
    body, kind = opened(tmp_path).respond(json.dumps(ROWS).encode(), "application/json", "")
    assert kind == "application/json"
    assert np.allclose(json.loads(body), expected)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param(json.dumps(ROWS).encode(), "application/json", id="JSON"),
        pytest.param(json.dumps({"instances": ROWS}).encode(), "application/json; charset=utf-8", id="instances"),
        pytest.param(json.dumps(ROWS).encode(), "", id="JSON is meant by nothing"),
        pytest.param(b"1,2\n3,4\n", "text/csv", id="csv"),
        pytest.param(tensors.write_npy(np.array(ROWS)), "application/x-npy", id="npy"),
    ],
)
def test_requests_are_read_by_default(tmp_path, body, kind):
    assert json.loads(opened(tmp_path, SUMS).respond(body, kind, "*/*")[0]) == [3, 7]


@pytest.mark.parametrize(
    ("accept", "kind", "expected"),
    [
        ("text/csv", "text/csv", b"3.0,7.0\n"),
        ("application/json, text/csv", "application/json", b"[3.0, 7.0]"),
        ("*/*", "application/json", b"[3.0, 7.0]"),
    ],
)
def test_answers_are_written_as_the_client_accepts_them(tmp_path, accept, kind, expected):
    assert opened(tmp_path, SUMS).respond(json.dumps(ROWS).encode(), "application/json", accept) == (expected, kind)


def test_answers_may_be_npy(tmp_path):
    body, kind = opened(tmp_path, SUMS).respond(b"1,2\n", "text/csv", "application/x-npy")
    assert kind == "application/x-npy"
    assert np.load(io.BytesIO(body), allow_pickle=False).tolist() == [3]


@pytest.mark.parametrize(
    ("body", "kind", "accept", "words"),
    [
        pytest.param(b"{", "application/json", "", "no array of numbers", id="broken JSON"),
        pytest.param(b'[["Smith"]]', "application/json", "", "no array of numbers", id="text"),
        pytest.param(b"[[1], [1, 2]]", "application/json", "", "no array of numbers", id="ragged rows"),
        pytest.param(b"[]", "application/json", "", "no rows", id="no rows"),
        pytest.param(b"a,Smith\n", "text/csv", "", "no array of numbers", id="words"),
        pytest.param(b"\xff", "text/csv", "", "not UTF-8", id="not UTF-8"),
        pytest.param(b"\x93NUMPY", "application/x-npy", "", "no .npy file", id="npy cut short"),
        pytest.param(b"1", "image/png", "", "content type image/png is not supported", id="another content type"),
        pytest.param(
            b"[[1, 2]]", "application/json", "image/png", "as image/png is not supported", id="another answer"
        ),
    ],
)
def test_what_the_defaults_do_not_take_is_refused_with_a_remedy(tmp_path, body, kind, accept, words):
    with pytest.raises(BadRequestError) as refused:
        opened(tmp_path, SUMS).respond(body, kind, accept)
    assert words in refused.value.body["error"]
    assert "Smith" not in json.dumps(refused.value.body)
    assert refused.value.body["remedy"]


def test_text_arrives_as_text_and_the_rest_as_bytes(tmp_path):
    code = "def model_fn(d): return 1\ndef input_fn(b, k): return type(b).__name__\ndef predict_fn(d, m): return d\n"
    model = opened(tmp_path, code)
    told = [json.loads(model.respond(b"x", kind, "")[0]) for kind in ("application/json", "text/csv", "image/png")]
    assert told == ["str", "str", "bytes"]


def test_transform_fn_takes_the_place_of_three(tmp_path):
    code = "def model_fn(d): return 5\ndef transform_fn(model, body, kind, accept): return f'{model} {body} {accept}'\n"
    assert opened(tmp_path, code).respond(b"x", "text/csv", "text/csv") == (b"5 x text/csv", "text/csv")


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("'text'", (b"text", "text/csv")),
        ("b'bytes'", (b"bytes", "text/csv")),
        ("('text', 'text/plain')", (b"text", "text/plain")),
        ("{'sum': 3}", (b'{"sum": 3}', "application/json")),
    ],
)
def test_output_fn_may_return_what_the_toolkit_takes(tmp_path, returned, expected):
    model = opened(tmp_path, SUMS + f"def output_fn(prediction, accept): return {returned}\n")
    assert model.respond(b"1,2", "text/csv", "text/csv") == expected


@pytest.mark.parametrize("function", ["predict_fn", "output_fn"])
def test_a_failing_function_is_named_without_its_words(tmp_path, capsys, function):
    model = opened(tmp_path, f"{SUMS}def {function}(*_):\n    raise ValueError('Smith')\n")
    with pytest.raises(UserCodeError, match=f"^{function} failed: ValueError$"):
        model.respond(b"1,2", "text/csv", "")
    told = capsys.readouterr().err
    assert "ValueError at " in told
    assert "inference.py:6" in told
    assert "Smith" not in told


def test_it_imports_what_lies_beside_it(tmp_path):
    code = "from beside_of_mine import answer\ndef model_fn(d): return 1\ndef input_fn(b, k): return answer\n"
    model = opened(tmp_path, code + "def predict_fn(d, m): return d\n", beside_of_mine="answer = 42\n")
    assert model.respond(b"", "", "") == (b"42", "application/json")


def test_one_request_at_a_time_reaches_the_users_code(tmp_path):
    code = """
import time
busy = []
def model_fn(d): return 1
def input_fn(b, k):
    busy.append(1)
    time.sleep(0.05)
    return len(busy)
def predict_fn(d, m):
    busy.clear()
    return d
"""
    model = opened(tmp_path, code)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(model.respond(b"", "text/csv", "")[0])) for _ in range(4)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [b"1"] * 4
    assert time.monotonic() - begun >= 0.2


def test_it_says_which_model_it_is(tmp_path):
    assert opened(tmp_path, SUMS).about == {"candidate": "as-is", "run_id": "demo-1"}
