"""Request bodies of Spark on AWS Glue: CreateJob, UpdateJob and StartJobRun, for `process` on more than one machine.

Each project has a job of its own with a role of its own, as its jobs in SageMaker do: no run reads another project's
data. The state machine writes it before each run, so that it follows the Ebb version that uses it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ebb import names
from ebb.requests import roles
from ebb.settings import StackSettings

GLUE_VERSION = "5.1"  # Spark 3.5.6, Python 3.11 (https://docs.aws.amazon.com/glue/latest/dg/release-notes.html)
EXECUTION_CLASS = "FLEX"  # spare capacity, about a third cheaper; may start later
# As the tests have them; Glue installs them from PyPI when a run starts
# (https://docs.aws.amazon.com/glue/latest/dg/aws-glue-programming-python-libraries.html).
MODULES = ("duckdb==2.0.0", "sqlglot==30.30.0")
MAX_CONCURRENT_RUNS = 20
ARGUMENTS_MAX_CHARS = 10_240  # assumed: Glue passes arguments on a command line and publishes no limit


class Worker(NamedTuple):
    """A worker type. One DPU: 4 vCPUs, 16 GB (https://docs.aws.amazon.com/glue/latest/dg/worker-types.html)."""

    name: str
    dpu: int


WORKERS = (Worker("G.1X", 1), Worker("G.2X", 2))
"""The two that FLEX runs on (https://docs.aws.amazon.com/glue/latest/dg/add-job.html)."""


def create_job(stack: StackSettings, project: str) -> dict[str, Any]:
    """Return the body of CreateJob: a project's job, whose script is `jobs/ebb_jobs/process_spark.py`.

    A run is not tried again by Glue: the state machine decides that, and counts it.
    """
    return {
        "Name": names.spark_job(stack.stack, project),
        "Tags": {each["Key"]: each["Value"] for each in names.tags(stack.stack, project)},
        **_definition(stack, project),
    }


def update_job(stack: StackSettings, project: str) -> dict[str, Any]:
    """Return the body of UpdateJob, which writes the same job over an older one."""
    return {"JobName": names.spark_job(stack.stack, project), "JobUpdate": _definition(stack, project)}


def _definition(stack: StackSettings, project: str) -> dict[str, Any]:
    return {
        "Role": roles.role_arn(stack, project, names.SPARK),
        "GlueVersion": GLUE_VERSION,
        "ExecutionClass": EXECUTION_CLASS,
        "Command": {
            "Name": "glueetl",
            "PythonVersion": "3",
            "ScriptLocation": f"{stack.jobs_uri}/ebb_jobs/process_spark.py",
        },
        "DefaultArguments": {
            "--extra-py-files": f"{stack.jobs_uri}.zip",
            "--additional-python-modules": ",".join(MODULES),
            "--job-bookmark-option": "job-bookmark-disable",  # a run reads all that its manifest names
            "--enable-metrics": "true",
            "--enable-observability-metrics": "true",
            # groups of the stack, which keeps them encrypted and for its own time
            "--custom-logGroup-prefix": names.spark_logs(stack.stack),
        },
        "SecurityConfiguration": stack.glue_security_configuration,
        "ExecutionProperty": {"MaxConcurrentRuns": MAX_CONCURRENT_RUNS},
        "MaxRetries": 0,
        "WorkerType": WORKERS[0].name,
        "NumberOfWorkers": 2,
    }


def start_job_run(
    *,
    job_name: str,
    stream: str,
    worker_type: str,
    workers: int,
    max_runtime_s: int,
    manifest_uri: str,
    sources_uri: str,
    curated_uri: str,
    report_uri: str,
    work_uri: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the body of StartJobRun for one run. `max_runtime_s` counts from when the run has its workers.

    `stream` begins the names of its log streams: https://docs.aws.amazon.com/glue/latest/dg/monitor-continuous-logging.html
    Raises: ValueError when the settings are longer than a run takes.
    """
    text = json.dumps(settings, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    if len(text) > ARGUMENTS_MAX_CHARS:
        raise ValueError(f"{len(text)} characters of settings: a run takes {ARGUMENTS_MAX_CHARS}")
    return {
        "JobName": job_name,
        "Arguments": {
            "--manifest": manifest_uri,
            "--sources": sources_uri,
            "--curated": curated_uri,
            "--report": report_uri,
            "--work": work_uri,
            "--settings": text,
            "--custom-logStream-prefix": stream,
        },
        "ExecutionClass": EXECUTION_CLASS,
        "WorkerType": worker_type,
        "NumberOfWorkers": workers,
        "Timeout": math.ceil(max_runtime_s / 60),  # minutes
    }


def catalog_table(
    *,
    database: str,
    name: str,
    place: str,
    description: str,
    columns: Sequence[Mapping[str, str]],
    partition_key: str,
    parameters: Mapping[str, str],
) -> dict[str, Any]:
    """Return the body of CreateTable for folders of Parquet, one folder a partition; UpdateTable takes the same."""
    return {
        "DatabaseName": database,
        "TableInput": {
            "Name": name,
            "Description": description,
            "TableType": "EXTERNAL_TABLE",
            "PartitionKeys": [{"Name": partition_key, "Type": "string"}],
            "StorageDescriptor": {**_PARQUET, "Columns": [dict(each) for each in columns], "Location": place},
            "Parameters": {"EXTERNAL": "TRUE", "classification": "parquet", **parameters},
        },
    }


def catalog_partitions(
    *, database: str, table: str, columns: Sequence[Mapping[str, str]], places: Mapping[str, str]
) -> dict[str, Any]:
    """Return the body of BatchCreatePartition for `places`, {value: folder}.

    It leaves alone what is there and says so; the state machine then writes all of them by BatchUpdatePartition, whose
    body holds the same: a state carries 256 KiB, and each partition names every column.
    """
    inputs = [
        {
            "Values": [value],
            "StorageDescriptor": {**_PARQUET, "Columns": [dict(each) for each in columns], "Location": place},
        }
        for value, place in places.items()
    ]
    return {"DatabaseName": database, "TableName": table, "PartitionInputList": inputs}


_HIVE = "org.apache.hadoop.hive.ql.io.parquet"
# https://docs.aws.amazon.com/athena/latest/ug/parquet-serde.html
_PARQUET = {
    "InputFormat": f"{_HIVE}.MapredParquetInputFormat",
    "OutputFormat": f"{_HIVE}.MapredParquetOutputFormat",
    "SerdeInfo": {"SerializationLibrary": f"{_HIVE}.serde.ParquetHiveSerDe"},
}
