"""Rows, pictures and texts to the model, and its answers back."""

import io
import json

import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber

from ebb import ledger, names
from ebb.client import StillWaiting, Ticket
from ebb_cli import serving

PNG = b"\x89PNG\r\n\x1a\n and pixels"
LABELS = {"predictions": [{"label": "yes", "probabilities": {"yes": 0.9, "no": 0.1}}]}


@pytest.fixture
def endpoint(target):
    with Stubber(target.client("sagemaker-runtime")) as stubbed:
        yield stubbed


def answering(document: dict) -> dict:
    body = json.dumps(document).encode()
    return {"Body": StreamingBody(io.BytesIO(body), len(body)), "ContentType": "application/json"}


def expect(content_type: str, body: object = ANY) -> dict:
    return {"EndpointName": "ebb-churn", "Body": body, "ContentType": content_type, "Accept": "application/json"}


def test_invoke_sends_stdin_and_prints_the_answer(ebb, endpoint):
    endpoint.add_response("invoke_endpoint", answering(LABELS), expect("application/json"))
    assert json.loads(ebb("invoke", "churn", "-", "--json", stdin='[{"a": 1}]').stdout) == LABELS


def test_a_files_name_tells_its_type(ebb, endpoint, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"a": 1}\n')
    endpoint.add_response("invoke_endpoint", answering(LABELS), expect("application/jsonlines"))
    told = ebb("invoke", "churn", rows).stdout
    assert "yes 0.900, no 0.100" in told


def test_a_picture_is_sent_as_it_lies_on_the_disk(ebb, endpoint, tmp_path):
    (tmp_path / "cat.PNG").write_bytes(PNG)
    endpoint.add_response("invoke_endpoint", answering(LABELS), expect("image/png", PNG))
    assert json.loads(ebb("invoke", "churn", tmp_path / "cat.PNG", "--json").stdout) == LABELS


def test_a_folder_of_pictures_is_asked_one_by_one_and_each_answer_names_its_file(ebb, endpoint, tmp_path):
    for name in ("b/2.jpg", "a/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "notes.md").write_text("no picture")
    endpoint.add_response("invoke_endpoint", answering(LABELS), expect("image/png", b"a/1.png"))
    endpoint.add_response("invoke_endpoint", answering(LABELS), expect("image/jpeg", b"b/2.jpg"))
    done = ebb("invoke", "churn", tmp_path, "--json")
    assert [each["file"] for each in json.loads(done.stdout)["predictions"]] == ["1.png", "2.jpg"]
    endpoint.assert_no_pending_responses()


def test_of_several_files_the_one_that_is_refused_is_named(ebb, endpoint, tmp_path):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(PNG)
    endpoint.add_response("invoke_endpoint", answering(LABELS), expect("image/png"))
    refusal = json.dumps({"error": "the image file is damaged", "remedy": "Send a whole PNG or JPEG file."})
    endpoint.add_client_error("invoke_endpoint", "ModelError", "400", modeled_fields={"OriginalMessage": refusal})
    done = ebb("invoke", "churn", tmp_path / "1.png", tmp_path / "2.png")
    assert done.exit_code == 1
    assert "2.png: The model refused this request: the image file is damaged" in done.stderr
    assert "Send a whole PNG" in done.stderr


def test_texts_go_in_one_request_whatever_they_hold(ebb, endpoint):
    texts = {"instances": [{"text": "one\nand a half"}, {"text": "zwei"}]}
    endpoint.add_response("invoke_endpoint", answering(LABELS), expect("application/json", json.dumps(texts).encode()))
    assert ebb("invoke", "churn", "--text", "one\nand a half", "--text", "zwei").exit_code == 0


@pytest.fixture
def serves(target, put):
    """Let the project serve the model of a run with this task."""

    def write(task):
        book = target.session.resource("dynamodb").Table("ledger")
        book.put_item(Item={**ledger.project_key("churn"), "served": {"run_id": put(task=task)}})

    return write


@pytest.mark.parametrize(
    ("task", "stdin", "content_type"),
    [
        pytest.param("text-classification", "a text, with a comma\n", "text/plain", id="a text"),
        pytest.param("text-classification", "[sic] it said\n", "text/plain", id="a text that begins with a bracket"),
        pytest.param("text-classification", '{"text": "a"}\n{"text": "b"}\n', "application/jsonlines", id="JSON Lines"),
        pytest.param("text-classification", '["a text"]', "application/json", id="JSON"),
        pytest.param("tabular-classification", "a,b\n1,2\n", "text/csv", id="rows"),
    ],
)
def test_what_stands_on_stdin_is_what_the_served_model_takes(ebb, endpoint, serves, task, stdin, content_type):
    serves(task)
    endpoint.add_response("invoke_endpoint", answering(LABELS), expect(content_type, stdin.encode()))
    assert ebb("invoke", "churn", "-", stdin=stdin).exit_code == 0


def test_where_nothing_tells_what_is_served_cells_are_rows(ebb, target, endpoint):
    target.__dict__["outputs"] = {}
    endpoint.add_response("invoke_endpoint", answering(LABELS), expect("text/csv"))
    assert ebb("invoke", "churn", "-", stdin="a text\n").exit_code == 0


def test_a_content_type_that_is_named_is_sent_whatever_a_name_or_the_model_says(ebb, endpoint, serves, tmp_path):
    serves("text-classification")
    (tmp_path / "rows.csv").write_text("a,b\n")
    for _ in range(2):
        endpoint.add_response("invoke_endpoint", answering(LABELS), expect("application/x-own"))
    named = ("--content-type", "application/x-own")
    assert ebb("invoke", "churn", "-", tmp_path / "rows.csv", *named, stdin="a,b\n").exit_code == 0
    endpoint.assert_no_pending_responses()


def test_what_a_script_answers_in_its_own_words_is_passed_on(ebb, endpoint):
    own = StreamingBody(io.BytesIO(b"a cat, I believe"), 16)
    endpoint.add_response("invoke_endpoint", {"Body": own, "ContentType": "text/plain"}, expect("text/csv"))
    assert json.loads(ebb("invoke", "churn", "-", stdin="1\n").stdout) == "a cat, I believe"


def test_outputs_without_labels_are_shown_as_they_are(ebb, endpoint):
    outputs = {"predictions": [{"outputs": [0.5, 0.25]}]}
    endpoint.add_response("invoke_endpoint", answering(outputs), expect("text/csv"))
    assert '{"outputs": [0.5, 0.25]}' in ebb("invoke", "churn", "-", stdin="1\n").stdout


def test_the_containers_own_words_say_what_is_wrong_with_the_rows(ebb, endpoint):
    error = {"error": {"message": "field `age`: not a number", "remedy": "Send a number."}}
    extra = {"OriginalStatusCode": 400, "OriginalMessage": json.dumps(error)}
    endpoint.add_client_error("invoke_endpoint", "ModelError", "Received client error (400)", modeled_fields=extra)
    done = ebb("invoke", "churn", "-", stdin="x\n")
    assert done.exit_code == 1
    assert "field `age`: not a number" in done.stderr
    assert "Send a number." in done.stderr


def test_a_project_without_an_endpoint_is_told(ebb, endpoint):
    endpoint.add_client_error("invoke_endpoint", "ValidationError", "Endpoint ebb-churn of account 1 not found.")
    done = ebb("invoke", "churn", "-", stdin="1\n")
    assert done.exit_code == 1
    assert "ebb endpoints" in done.stderr


def test_a_name_that_no_project_can_have_is_wrong_usage(ebb, endpoint):
    done = ebb("invoke", "Churn/1", "-", stdin="1\n")
    assert done.exit_code == 2
    assert "cannot name a project" in done.stderr


def test_more_than_a_serverless_endpoint_takes_is_refused_before_it_is_sent(ebb, endpoint):
    done = ebb("invoke", "churn", "-", stdin="1" * (4 * 1024 * 1024 + 1))
    assert done.exit_code == 1
    assert "fewer rows" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["none.csv"], "none.csv is no file", id="a missing file"),
        pytest.param(["."], "holds no picture", id="a folder without pictures"),
        pytest.param([], "nothing to ask", id="nothing at all"),
    ],
)
def test_what_cannot_be_sent_is_wrong_usage(ebb, target, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    done = ebb("invoke", "churn", *arguments)
    assert done.exit_code == 2
    assert told in done.stderr


def registered(target, stack: str, project: str) -> None:
    sagemaker, name = target.client("sagemaker"), f"{stack}-{project}"
    tags = names.tags(stack, project)
    sagemaker.create_model_package_group(ModelPackageGroupName=name, Tags=tags)
    sagemaker.create_model_package(
        ModelPackageGroupName=name, ModelPackageDescription=project,
        InferenceSpecification={"Containers": [{"Image": "i"}], "SupportedContentTypes": [],
                                "SupportedResponseMIMETypes": []},
    )  # fmt: skip


def test_an_empty_cloud_is_told_in_a_sentence(ebb, target):
    told = ebb("models").stdout
    assert told.startswith("No models yet")
    assert "ebb drop" in told
    assert json.loads(ebb("models", "--json").stdout) == []


def test_only_what_carries_this_stacks_tag_is_listed(ebb, target):
    registered(target, "ebb", "churn")
    registered(target, "ebb-prod", "churn")
    listed = json.loads(ebb("models", "--json").stdout)
    assert [item["project"] for item in listed] == ["churn"]


class Sleeper:
    """A client whose endpoint sleeps: `looks` says what a ticket tells at each look, then the answer comes."""

    def __init__(self, looks: int = 1, kind: str = "realtime") -> None:
        self.looks, self.kind, self.left = looks, kind, []
        told = {"state": "waking", "endpoint_state": "waking", "address": "ebb-churn"}
        self.told = {**told, "reason": "no call in 15 min", "deadline": "2026-11-23T13:00:00Z"}

    def address(self, name):
        return {"address": name, "kind": self.kind}

    def invoke_endpoint(self, *, wait_s, **asked):
        assert wait_s == 0
        raise StillWaiting(self.invoke_endpoint_later(**asked))

    def invoke_endpoint_later(self, **asked):
        self.left.append(asked)
        return self.ticket(f"ebb-churn/t{len(self.left)}")

    def ticket(self, name):
        found = Ticket(self, name, {"ticket": name, **self.told})
        found.answer = lambda timeout=None, on_wait=None: self._answer(found, timeout, on_wait)
        return found

    def _answer(self, found, timeout, on_wait):
        for _ in range(self.looks):
            on_wait(self.told)
        if timeout == 0 and self.looks:
            raise StillWaiting(found)
        return answering(LABELS)


@pytest.fixture
def sleeper(target, monkeypatch):
    found = Sleeper()
    monkeypatch.setattr(serving, "runtime", lambda _: found)
    return found


def test_who_asks_what_sleeps_is_told_why_and_gets_the_answer(ebb, sleeper):
    done = ebb("invoke", "churn", "-", "--json", stdin="1\n")
    assert json.loads(done.stdout) == LABELS
    assert "ebb-churn is waking; it slept: no call in 15 min" in done.stderr


def test_who_waits_no_longer_has_a_ticket_and_an_exit_status_of_its_own(ebb, sleeper):
    done = ebb("invoke", "churn", "-", "--wait-s", "0", stdin="1\n")
    assert done.exit_code == 5
    assert "ticket ebb-churn/t1" in done.stderr


def test_who_does_not_wait_gets_tickets(ebb, sleeper, tmp_path):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(PNG)
    done = ebb("invoke", "churn", tmp_path, "--no-wait")
    assert (done.exit_code, done.stdout.split()) == (0, ["ebb-churn/t1", "ebb-churn/t2"])
    assert [each["ContentType"] for each in sleeper.left] == ["image/png"] * 2
    listed = ebb("invoke", "churn", tmp_path / "1.png", "--no-wait", "--json")
    assert json.loads(listed.stdout) == {"tickets": ["ebb-churn/t3"]}


def test_a_ticket_has_the_answer_later(ebb, sleeper):
    assert ebb("ticket", "ebb-churn/t1").exit_code == 5
    sleeper.looks = 0
    assert json.loads(ebb("ticket", "ebb-churn/t1", "--json").stdout) == LABELS
    assert ebb("ticket", "t1").exit_code == 2


@pytest.mark.parametrize(("kind", "taken"), [("serverless", False), ("realtime", True), ("async", True)])
def test_each_kind_takes_what_it_takes(ebb, sleeper, kind, taken):
    sleeper.kind = kind
    done = ebb("invoke", "churn", "-", stdin="1" * (5 * 1024 * 1024))
    assert done.exit_code == (0 if taken else 1)
    assert taken or "5.0 MiB is more than a serverless endpoint takes, 4.0 MiB" in done.stderr


def test_what_the_front_door_refuses_is_told_in_its_words(ebb, target, monkeypatch):
    told = {"Error": {"Code": "batch-only", "Message": "files are scored. Drop a file."}, "Remedy": "Drop a file."}
    problem = ClientError(told, "InvokeEndpoint")

    class Refusing(Sleeper):
        def invoke_endpoint(self, **_):
            raise problem

    monkeypatch.setattr(serving, "runtime", lambda _: Refusing())
    done = ebb("invoke", "churn", "-", stdin="1\n")
    assert done.exit_code == 1
    assert done.stderr.endswith("error: files are scored.\n       Drop a file.\n")


@pytest.mark.parametrize(
    "text", [pytest.param("not json", id="plain text"), pytest.param("[]", id="json of another shape")]
)
def test_words_that_are_not_ours_are_passed_on(text):
    problem = ClientError({"Error": {"Code": "ModelError", "Message": "x"}, "OriginalMessage": text}, "InvokeEndpoint")
    assert text in serving._refused(problem).message
