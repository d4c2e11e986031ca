"""Runs last in the folder: what the whole suite was allowed to do, and what is left when everything is destroyed."""

import os
from pathlib import Path

import pytest

from infrastructure.project import statements

from .conftest import CURIOUS, Cloud, Ebb, connect_without_stack

ROOT = Path(__file__).parents[2]


@pytest.mark.embedded_only
def test_every_call_was_allowed_by_the_role_that_made_it(ebb: Ebb, cloud: Cloud):
    denied = [
        call
        for call in cloud.calls()
        if call["decision"] != "Allow" and not call["principal"].endswith(f"/{CURIOUS}")  # denied on purpose
    ]
    assert denied == []


@pytest.mark.embedded_only
def test_every_permission_of_a_role_is_used_by_it_or_names_the_page_that_requires_it(ebb: Ebb, cloud: Cloud):
    used = {(call["principal"], call["action"].lower()) for call in cloud.calls() if call["decision"] == "Allow"}
    granted = [each for each in statements() if each.where.endswith("Role") and "Principal" not in each.body]
    assert len(granted) > 20, "the template's roles are found"
    unexplained = [
        f"{statement.where}: {action}"
        for statement in granted
        for action in statement.actions
        if "https://docs.aws.amazon.com" not in statement.comment
        and not any(f"/ebb-{statement.where}-" in who and action.lower() == what for who, what in used)
    ]
    assert unexplained == [], "\n".join(unexplained)


def test_after_destroy_the_account_holds_what_it_held_before(ebb: Ebb, cloud: Cloud):
    runs = tuple(run["run_id"] for run in ebb.json("runs", "--limit", "1000"))
    done = ebb("destroy", "--with-stack", "--delete-data", "--yes", *ebb.named, stdin=f"{cloud.stack}\n")
    assert done.returncode == 0, done.stdout + done.stderr
    cloud = connect_without_stack(ebb)
    left = [name for name in names_in(cloud) if cloud.stack in name or name.startswith(runs)]
    assert [name for name in left if "aws-sam-cli-managed" not in name] == [], "only SAM keeps its own bucket"


def names_in(cloud: Cloud) -> list[str]:
    """Everything in the account of the kinds that a stack or its runs make, by name."""
    listed = [
        ("sagemaker", "list_endpoints", "Endpoints", "EndpointName"),
        ("sagemaker", "list_endpoint_configs", "EndpointConfigs", "EndpointConfigName"),
        ("sagemaker", "list_models", "Models", "ModelName"),
        ("sagemaker", "list_model_package_groups", "ModelPackageGroupSummaryList", "ModelPackageGroupName"),
        ("sagemaker", "list_feature_groups", "FeatureGroupSummaries", "FeatureGroupName"),
        ("glue", "get_jobs", "Jobs", "Name"),
        ("glue", "get_databases", "DatabaseList", "Name"),
        ("glue", "get_security_configurations", "SecurityConfigurations", "Name"),
        ("cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName"),
        ("iam", "list_roles", "Roles", "Arn"),
        ("s3", "list_buckets", "Buckets", "Name"),
        ("logs", "describe_log_groups", "logGroups", "logGroupName"),
    ]
    names = list(cloud.client("dynamodb").list_tables()["TableNames"])
    for service, operation, key, name in listed:
        for page in cloud.client(service).get_paginator(operation).paginate():
            names += [item[name] for item in page.get(key, [])]
    return names


@pytest.mark.embedded_only
def test_down_leaves_no_process(ebb: Ebb):
    assert ebb("down").returncode == 0
    left = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if str(ebb.home).encode() in command and int(folder.name) != os.getpid():
            left.append(command.replace(b"\0", b" ")[:200])
    assert left == []
