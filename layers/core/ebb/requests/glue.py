"""Request bodies of Spark on AWS Glue: CreateJob and StartJobRun, for `process` of data that outgrows one machine.

One job of the stack runs for every project. What a run may touch is narrowed by the session policy that it is started
with, so that no run reads another project's data.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

GLUE_VERSION = "5.1"  # Spark 3.5.6, Python 3.11 (https://docs.aws.amazon.com/glue/latest/dg/release-notes.html)
EXECUTION_CLASS = "FLEX"  # spare capacity, about a third cheaper; may start later
# As the tests have them; Glue installs them from PyPI when a run starts
# (https://docs.aws.amazon.com/glue/latest/dg/aws-glue-programming-python-libraries.html).
MODULES = ("duckdb==2.0.0", "sqlglot==30.30.0")
MAX_CONCURRENT_RUNS = 20
SESSION_POLICY_MAX_CHARS = 2_048


class Worker(NamedTuple):
    """A worker type. One DPU: 4 vCPUs, 16 GB (https://docs.aws.amazon.com/glue/latest/dg/worker-types.html)."""

    name: str
    dpu: int


WORKERS = (Worker("G.1X", 1), Worker("G.2X", 2))
"""The two that FLEX runs on (https://docs.aws.amazon.com/glue/latest/dg/add-job.html)."""


def create_job(
    *,
    name: str,
    role_arn: str,
    script_uri: str,
    code_zip_uri: str,
    security_configuration: str,
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """Return the body of CreateJob for the script `jobs/ebb_jobs/process_spark.py`.

    A run is not tried again by Glue: the state machine decides that, and counts it.
    """
    return {
        "Name": name,
        "Role": role_arn,
        "GlueVersion": GLUE_VERSION,
        "ExecutionClass": EXECUTION_CLASS,
        "Command": {"Name": "glueetl", "PythonVersion": "3", "ScriptLocation": script_uri},
        "DefaultArguments": {
            "--extra-py-files": code_zip_uri,
            "--additional-python-modules": ",".join(MODULES),
            "--job-bookmark-option": "job-bookmark-disable",  # a run reads all that its manifest names
            "--enable-metrics": "true",
            "--enable-observability-metrics": "true",
            "--enable-continuous-cloudwatch-log": "true",
        },
        "SecurityConfiguration": security_configuration,
        "ExecutionProperty": {"MaxConcurrentRuns": MAX_CONCURRENT_RUNS},
        "MaxRetries": 0,
        "WorkerType": WORKERS[0].name,
        "NumberOfWorkers": 2,
        "Tags": dict(tags),
    }


def start_job_run(
    *,
    job_name: str,
    security_configuration: str,
    worker_type: str,
    workers: int,
    max_runtime_s: int,
    manifest_uri: str,
    curated_uri: str,
    report_uri: str,
    work_uri: str,
    settings: Mapping[str, Any],
    session_policy: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the body of StartJobRun for one run. `max_runtime_s` counts from when the run has its workers.

    Raises: ValueError when the session policy is longer than Glue takes.
    """
    request = {
        "JobName": job_name,
        "Arguments": {
            "--manifest": manifest_uri,
            "--curated": curated_uri,
            "--report": report_uri,
            "--work": work_uri,
            "--settings": json.dumps(settings, separators=(",", ":"), sort_keys=True, ensure_ascii=False),
        },
        "ExecutionClass": EXECUTION_CLASS,
        "WorkerType": worker_type,
        "NumberOfWorkers": workers,
        "Timeout": math.ceil(max_runtime_s / 60),  # minutes
        "SecurityConfiguration": security_configuration,
    }
    if session_policy is not None:
        text = json.dumps(session_policy, separators=(",", ":"))
        if len(text) > SESSION_POLICY_MAX_CHARS:
            raise ValueError(f"a session policy of {len(text)} characters: Glue takes {SESSION_POLICY_MAX_CHARS}")
        request["ExecutionRoleSessionPolicy"] = text
    return request


def session_policy(*, read: Sequence[str], write: Sequence[str]) -> dict[str, Any]:
    """Return what one run may touch of what the job's role may: objects to read, and prefixes to write and to clear.

    `read` and `write` are ARNs of objects, with a `*` at the end of a prefix. Keys, logs and metrics stay as the role
    has them. Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies.html#policies_session
    """
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "s3:GetObject", "Resource": [*read, *write]},
            {"Effect": "Allow", "Action": ["s3:PutObject", "s3:DeleteObject"], "Resource": list(write)},
            {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "*"},
            {
                "Effect": "Allow",
                "Action": [
                    "kms:Decrypt",
                    "kms:GenerateDataKey",
                    "logs:CreateLogGroup",
                    "logs:CreateLogStream",
                    "logs:PutLogEvents",
                    "cloudwatch:PutMetricData",
                    "glue:GetJob",
                ],
                "Resource": "*",
            },
        ],
    }
