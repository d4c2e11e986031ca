"""One model as every kind of endpoint, at one address, with the same answers; and a deployment that is taken back."""

import io
import json
import tarfile
from typing import Any

import pytest

from .conftest import Cloud, Served, wait_until

KINDS = ("serverless", "async", "realtime", "shared", "batch", "serverless")
ENDPOINTS = {
    "serverless": {"-birds"},
    "async": {"-birds--async"},
    "realtime": {"-birds--realtime"},
    "shared": {"--shared-"},
    "batch": set(),
}


def _endpoints(cloud: Cloud) -> list[str]:
    """Return the endpoints that may be this project's: its own and the shared ones."""
    listed = cloud.client("sagemaker").list_endpoints(MaxResults=100)["Endpoints"]
    found = [each["EndpointName"] for each in listed if each["EndpointStatus"] != "Deleting"]
    return [name for name in found if "-birds" in name or "--shared-" in name]


def _alarms(cloud: Cloud) -> set[str]:
    found = cloud.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{cloud.stack}-birds-")["MetricAlarms"]
    return {each["AlarmName"].rsplit("-", 1)[1] for each in found}


def test_the_size_came_from_a_load_test_of_the_registered_model(served_project: Served, cloud: Cloud):
    run_id = served_project.run["run_id"]
    (job,) = cloud.client("sagemaker").list_inference_recommendations_jobs(NameContains="birds--lt-")[
        "InferenceRecommendationsJobs"
    ]
    assert job["JobName"] == run_id.replace("birds-", "birds--lt-") + "-a1"
    assert job["Status"] == "COMPLETED", job.get("FailureReason")
    shown = json.loads(served_project.ebb("show", run_id, "--json").stdout)["right_sizing"]
    answered = {name: figure for name, figure in shown["numbers"].items() if "requests a minute" in name}
    assert len(answered) == len(shown["tested"]) == 3
    assert all(figure > 0 for figure in answered.values())
    (chosen,) = [each for each in shown["tested"] if shown["chosen"].startswith(each)]
    endpoint = served_project.move("serverless")["endpoint_name"]  # where it was moved: the note counts
    config = cloud.client("sagemaker").describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    variants = cloud.client("sagemaker").describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    assert f"{variants[0]['ServerlessConfig']['MemorySizeInMB']} MB" == chosen
    why = served_project.ebb("why", run_id).stdout
    assert "right-sizing" in why
    assert "load test" in why


def test_one_model_answers_the_same_at_one_address_as_every_kind(served_project: Served, cloud: Cloud):
    address = served_project.at["address"]
    first: list[dict[str, Any]] | None = None
    for kind in KINDS:
        at = served_project.move(kind)
        assert (at["address"], at["kind"]) == (address, kind)
        (wanted,) = ENDPOINTS[kind] or {None}
        there = _endpoints(cloud)
        assert len(there) == (wanted is not None), there
        assert all(wanted in name for name in there if wanted)
        assert len(_alarms(cloud)) <= 2
        if kind == "batch":
            continue
        answer = served_project.ask()
        assert [each["label"] for each in answer] == list(Served.LABELS)
        first = first or answer
        assert [each["probabilities"] for each in answer] == [
            pytest.approx(each["probabilities"], abs=1e-4) for each in first
        ]


@pytest.fixture
def broken_model(served_project: Served, cloud: Cloud):
    """Let the model load and fail at every request, and have its next deployment watched for ten minutes."""
    s3, dynamodb, table = cloud.client("s3"), cloud.client("dynamodb"), cloud.outputs["LedgerTableName"]
    project = {"pk": {"S": "PROJECT#birds"}, "sk": {"S": "PROJECT"}}
    served = dynamodb.get_item(TableName=table, Key=project)["Item"]["served"]["M"]
    bucket, _, key = served["bundle_uri"]["S"].removeprefix("s3://").partition("/")
    whole = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.put_object(Bucket=bucket, Key=key, Body=_failing(whole))

    def watch(seconds: str) -> None:
        run = {"pk": {"S": f"RUN#{served['run_id']['S']}"}, "sk": {"S": "RUN"}}
        dynamodb.update_item(
            TableName=table,
            Key=run,
            UpdateExpression="SET spec.serve.watch = :watch",
            ExpressionAttributeValues={":watch": {"N": seconds}},
        )

    watch("600")
    yield
    watch("0")
    s3.put_object(Bucket=bucket, Key=key, Body=whole)


def _failing(bundle: bytes) -> bytes:
    """Return a bundle whose server answers every request with an error of its own."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(bundle)) as given, tarfile.open(fileobj=packed, mode="w:gz") as made:
        for member in given:
            body = given.extractfile(member).read()
            if member.name.endswith("serve.py"):
                body = body.replace(b"self.model.respond(", b"self.model.forget(")
                assert b"self.model.forget(" in body
            member.size = len(body)
            made.addfile(member, io.BytesIO(body))
    return packed.getvalue()


@pytest.mark.embedded_only
def test_a_model_that_errors_while_it_is_watched_gives_way_to_the_earlier_one(
    served_project: Served, cloud: Cloud, broken_model
):
    served_project_kind = served_project.at["kind"]
    assert served_project_kind == "serverless", "as the test before leaves it"
    before = _endpoints(cloud)
    execution = served_project.start_move("realtime")
    wait_until(lambda: served_project.at["kind"] == "realtime", "the address is switched")
    refused = served_project.ebb("invoke", "birds", "-", stdin='{"instances": [[39.1, 18.7, 181.0, 3750.0]]}')
    assert refused.returncode == 1, refused.stdout
    done = served_project.ended(execution, advance="2m")
    assert (done["status"], done["error"]) == ("FAILED", "RolledBack"), done
    assert "birds-errors" in done["cause"]
    assert served_project.at["kind"] == "serverless"
    assert _endpoints(cloud) == before
    assert _alarms(cloud) == {"errors", "latency"}
    assert [each["label"] for each in served_project.ask()] == list(Served.LABELS)
