"""Rows to the model and its answers back."""

import io
import json

import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber

from ebb import names
from ebb_cli import serving

LABELS = {"predictions": [{"label": "yes", "probabilities": {"yes": 0.9, "no": 0.1}}]}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(b"1,2,3\n", "text/csv", id="cells"),
        pytest.param(b"", "text/csv", id="nothing"),
        pytest.param(b' {"a": 1}\n', "application/json", id="one object"),
        pytest.param(b'[{"a": 1}]', "application/json", id="a list"),
        pytest.param(b'{"a": 1}\n{"a": 2}\n', "application/jsonlines", id="an object per line"),
        pytest.param(b'{\n "a": 1\n}\n', "application/json", id="one object over several lines"),
    ],
)
def test_rows_without_a_file_name_are_recognised(body, content_type):
    assert serving.sniff(body) == content_type


@pytest.fixture
def endpoint(target):
    with Stubber(target.client("sagemaker-runtime")) as stubbed:
        yield stubbed


def answering(document: dict) -> dict:
    body = json.dumps(document).encode()
    return {"Body": StreamingBody(io.BytesIO(body), len(body)), "ContentType": "application/json"}


def expect(content_type: str) -> dict:
    return {"EndpointName": "ebb-churn", "Body": ANY, "ContentType": content_type, "Accept": "application/json"}


def test_invoke_sends_stdin_and_prints_the_answer(ebb, endpoint):
    endpoint.add_response("invoke_endpoint", answering(LABELS), expect("application/json"))
    assert json.loads(ebb("invoke", "churn", "-", "--json", stdin='[{"a": 1}]').stdout) == LABELS


def test_a_files_name_tells_its_type(ebb, endpoint, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"a": 1}\n')
    endpoint.add_response("invoke_endpoint", answering(LABELS), expect("application/jsonlines"))
    told = ebb("invoke", "churn", rows).stdout
    assert "yes 0.900, no 0.100" in told


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
    assert "Send fewer rows" in done.stderr


def test_a_missing_file_is_wrong_usage(ebb, target, tmp_path):
    assert ebb("invoke", "churn", tmp_path / "none.csv").exit_code == 2


def registered(target, stack: str, project: str) -> None:
    sagemaker, name = target.client("sagemaker"), f"{stack}-{project}"
    tags = names.tags(stack, project)
    role = "arn:aws:iam::123456789012:role/ebb/model"
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=role, PrimaryContainer={"Image": "i"})
    variant = {"ModelName": name, "VariantName": "v", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name, Tags=tags)
    sagemaker.create_model_package_group(ModelPackageGroupName=name, Tags=tags)
    sagemaker.create_model_package(
        ModelPackageGroupName=name, ModelPackageDescription=project,
        InferenceSpecification={"Containers": [{"Image": "i"}], "SupportedContentTypes": [],
                                "SupportedResponseMIMETypes": []},
    )  # fmt: skip


@pytest.mark.parametrize("command", ["models", "endpoints"])
def test_an_empty_cloud_is_told_in_a_sentence(ebb, target, command):
    told = ebb(command).stdout
    assert told.startswith(f"No {command} yet")
    assert "ebb drop" in told
    assert json.loads(ebb(command, "--json").stdout) == []


@pytest.mark.parametrize("command", ["models", "endpoints"])
def test_only_what_carries_this_stacks_tag_is_listed(ebb, target, command):
    registered(target, "ebb", "churn")
    registered(target, "ebb-prod", "churn")
    listed = json.loads(ebb(command, "--json").stdout)
    assert [item["project"] for item in listed] == ["churn"]


@pytest.mark.parametrize(
    "text", [pytest.param("not json", id="plain text"), pytest.param("[]", id="json of another shape")]
)
def test_words_that_are_not_ours_are_passed_on(text):
    problem = ClientError({"Error": {"Code": "ModelError", "Message": "x"}, "OriginalMessage": text}, "InvokeEndpoint")
    assert text in serving._refused(problem).message
