"""What the services answer about what the tests made, written down so that two clouds can be compared.

`make conformance` reads it (tools/conformance.py); in a plain run it shows that every answer is one that AWS's own
service model knows.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from .conftest import Cloud, Ebb

_spec = importlib.util.spec_from_file_location("conformance", Path(__file__).parents[2] / "tools/conformance.py")
conformance = importlib.util.module_from_spec(_spec)
sys.modules["conformance"] = conformance
_spec.loader.exec_module(conformance)
shape = conformance.shape


@pytest.fixture(scope="module")
def run(ebb: Ebb, tables: Path) -> dict[str, Any]:
    """A run that ended in an endpoint."""
    done = ebb.drop(tables / "few.csv", "alice")
    return ebb.json("show", done.get("reuses") or done["run_id"])


def answers(cloud: Cloud, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return one real answer per operation, under `service.Operation`."""
    name = f"{run['run_id']}-a{run['attempt']}"
    job = {stage: f"{name}-{stage}" for stage in ("process", "train", "compress", "compile")}
    endpoint = run["endpoint_name"]
    asked = [
        ("sagemaker", "DescribeProcessingJob", {"ProcessingJobName": job["process"]}),
        ("sagemaker", "DescribeTrainingJob", {"TrainingJobName": job["train"]}),
        ("sagemaker", "DescribeModel", {"ModelName": name}),
        ("sagemaker", "DescribeEndpointConfig", {"EndpointConfigName": name}),
        ("sagemaker", "DescribeEndpoint", {"EndpointName": endpoint}),
        ("sagemaker", "ListModelPackages", {"ModelPackageGroupName": endpoint}),
        ("cloudwatch", "DescribeAlarms", {"AlarmNamePrefix": endpoint}),
        ("stepfunctions", "DescribeExecution", {"executionArn": run["execution_arn"]}),
        ("stepfunctions", "GetExecutionHistory", {"executionArn": run["execution_arn"], "maxResults": 1000}),
        ("s3", "HeadObject", {"Bucket": run["drop"]["bucket"], "Key": run["drop"]["key"]}),
        ("iam", "GetRole", {"RoleName": f"{cloud.stack}-alice-train"}),
    ]
    found = {}
    for service, operation, arguments in asked:
        client = cloud.client(service)
        method = botocore.xform_name(operation)
        found[f"{service}.{operation}"] = getattr(client, method)(**arguments)
    return found


def test_what_the_services_answer_is_written_down_and_known_to_their_models(ebb: Ebb, cloud: Cloud, run):
    found = answers(cloud, run)
    seen = {name: {k: v for k, v in answer.items() if k != "ResponseMetadata"} for name, answer in found.items()}
    session = botocore.session.get_session()
    for name, answer in seen.items():
        service, operation = name.split(".")
        known = session.get_service_model(service).operation_model(operation).output_shape.members
        assert answer, f"{name} answered nothing"
        assert set(answer) <= set(known), f"{name} answered what AWS's model does not know"
    shapes = {name: shape(answer) for name, answer in seen.items()} | {"ebb show": shape(run)}
    types = sorted({event["type"] for event in seen["stepfunctions.GetExecutionHistory"]["events"]})
    shapes["stepfunctions.GetExecutionHistory"] = {kind: "event" for kind in types}
    costs = [
        each["footprint"]["cost_usd"]["value"] for each in ebb.json("runs", "--limit", "1000") if each.get("footprint")
    ]
    assert costs, "the ledger counted what the runs cost"
    if target := os.environ.get("EBB_CONFORMANCE_OBSERVED"):
        Path(target).write_text(json.dumps({"shapes": shapes, "cost_usd": sum(costs)}))
