"""Names and places: one function for each, so that every part of Ebb spells them alike."""

import hashlib
import re
from datetime import UTC, datetime

PROJECT_PATTERN = r"^[a-z0-9](-?[a-z0-9]){0,19}$"
PROJECT_MAX_CHARS = 20  # run and job names are built on it and must stay within SageMaker's 63 characters
STAGES = ("process", "train", "compress", "compile")
# what a run is charged for: images are built when they are missing, and a run that scores has this one stage only
FEATURES = "features"  # the stage, and its role, that put rows into Feature Store, where the spec asks for it
FEATURE_DATABASE = "sagemaker_featurestore"  # in which Feature Store makes its tables, unless it is told otherwise
NEO = "neo"  # the stage in which SageMaker Neo compiles, where the spec asks for it
RECORDED_STAGES = ("images", *STAGES, "score", FEATURES, NEO)
ROLE_KINDS = (*STAGES, "model")
RECOMMEND = "recommend"  # the role of a load test, where the spec asks for one
SPARK = "spark"  # the role of `process` on Glue, where the data outgrows one machine
# Some of what a load test makes is called so, whatever its job is called:
# https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-troubleshooting.html
LOAD_TEST_OF_AWS = "sm-epc-"

TUNING_ENDS = "-t"
# Stands in a plan for the training job that a search finds to be the best; `run_pipeline` puts its name there.
BEST_TRIAL = "best-trial-of-the-search"

# Ten digits; six in the first records.
_RUN_ID = re.compile(r"^(?P<project>.+)-(?P<stamp>\d{14})-(?P<digest>[0-9a-f]{6,10})$")
_EXECUTION = re.compile(r"^(?P<run_id>.+)-a(?P<attempt>\d+)$")
_JOB = re.compile(r"^(?P<run_id>.+)-a(?P<attempt>\d+)-[a-z]+(-\d+)?$")


def is_project(name: str) -> bool:
    """Return whether `name` may be a project: lower-case letters, digits, single hyphens, at most 20 characters.

    Not `sm-epc`: its models would be called as what a load test makes and deletes.
    """
    reserved = f"{name}-".startswith(LOAD_TEST_OF_AWS)
    return len(name) <= PROJECT_MAX_CHARS and re.match(PROJECT_PATTERN, name) is not None and not reserved


def run_id(project: str, bucket: str, key: str, sequencer: str, uploaded_at: datetime) -> str:
    """Return the run's name: the same event always gives the same name, so a repeat is harmless."""
    stamp = uploaded_at.astimezone(UTC).strftime("%Y%m%d%H%M%S")
    digest = hashlib.sha256(f"{bucket}/{key}/{sequencer}".encode()).hexdigest()[:10]
    return f"{project}-{stamp}-{digest}"


def created_at(run: str) -> datetime:
    """Return the moment that a run id carries.

    Raises: ValueError when the text is no run id.
    """
    found = _RUN_ID.match(run)
    if found is None:
        raise ValueError(f"{run!r} is not a run id")
    return datetime.strptime(found["stamp"], "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def project_of(run: str) -> str:
    """Return the project that a run id carries.

    Raises: ValueError when the text is no run id.
    """
    found = _RUN_ID.match(run)
    if found is None:
        raise ValueError(f"{run!r} is not a run id")
    return found["project"]


def execution(run: str, attempt: int) -> str:
    """Return the name of the execution (and of the model) of one attempt."""
    return f"{run}-a{attempt}"


def parse_execution(name: str) -> tuple[str, int]:
    """Return the run id and the attempt that an execution's name carries.

    Raises: ValueError when the name was not made by `execution`.
    """
    found = _EXECUTION.match(name)
    if found is None:
        raise ValueError(f"{name!r} is not the name of a run's execution")
    return found["run_id"], int(found["attempt"])


def region_of(execution_arn: str | None) -> str | None:
    """Return the Region that the ARN of an execution carries, None when there is none."""
    parts = str(execution_arn or "").split(":")
    return parts[3] if len(parts) > 3 and parts[3] else None


def job(run: str, attempt: int, stage: str) -> str:
    """Return the name of one stage's job."""
    return f"{execution(run, attempt)}-{stage}"


def parse_job(name: str) -> tuple[str, int]:
    """Return the run id and the attempt that the name of a stage's job carries, one that was moved included.

    Raises: ValueError when the name was not made by `job`.
    """
    found = _JOB.match(name)
    if found is None:
        raise ValueError(f"{name!r} is not the name of a run's job")
    return found["run_id"], int(found["attempt"])


def is_job(name: str) -> bool:
    """Tell whether a name is that of a stage's job."""
    return _JOB.match(name) is not None


def spark_job(stack: str, project: str) -> str:
    """Return the name of a project's job on Glue, which processes what outgrows one machine."""
    return f"{stack}-{project}-process"


def spark_logs(stack: str) -> str:
    """Return what the names of the two log groups of the stack's jobs on Glue begin with; they end in the stream."""
    return f"/aws-glue/{stack}"


def catalog_database(stack: str) -> str:
    """Return the name of the stack's database in the Data Catalog, as template.yaml makes it."""
    return stack.replace("-", "_")


def catalog_table(project: str) -> str:
    """Return the name of a project's table in the stack's database; hyphens would have to be quoted in each query."""
    return project.replace("-", "_")


def tuning_job(run: str, attempt: int) -> str:
    """Return the name of the tuning job that searches in place of one attempt's `train`.

    At most 32 characters, as SageMaker asks, so that the run stands in it as a digest; its training jobs are called
    after it, with a number and a digest of SageMaker's own.
    """
    digest = hashlib.sha256(execution(run, attempt).encode()).hexdigest()[:9]
    return f"{project_of(run)}-{digest}{TUNING_ENDS}"


def load_tests(project: str) -> str:
    """Return what the name of each load test of a project begins with, and of what it makes, cut at 40 characters.

    Two hyphens, which no project's name holds: nothing that serves is called so, whatever the projects are called.
    """
    return f"{project}--lt-"


def load_test(run: str, attempt: int) -> str:
    """Return the name of the load test that the deployment of one attempt starts."""
    project = project_of(run)
    return load_tests(project) + execution(run, attempt).removeprefix(f"{project}-")


def endpoint(stack: str, project: str) -> str:
    """Return the address of the project's model, which is the name of its model package group too."""
    return f"{stack}-{project}"


def endpoint_of_kind(stack: str, project: str, kind: str) -> str:
    """Return the name of the SageMaker endpoint behind an address: a serverless one has the address's own name.

    Two hyphens, which no project's name holds: `a--async` is no project's endpoint but that of the project `a`.
    """
    return endpoint(stack, project) if kind == "serverless" else f"{endpoint(stack, project)}--{kind}"


def shared_endpoint(stack: str, instance_type: str) -> str:
    """Return the name of the endpoint on which small models of several projects live together."""
    return f"{stack}--shared-{instance_type.removeprefix('ml.').replace('.', '-')}"


def component(stack: str, project: str, generation: int) -> str:
    """Return the name of the inference component of one of a project's generations."""
    return f"{endpoint(stack, project)}--g{generation}"


def alarm(stack: str, project: str, what: str) -> str:
    """Return the name of one of the endpoint's alarms."""
    return f"{stack}-{project}-{what}"


def role(stack: str, project: str, kind: str) -> str:
    """Return the name of the role for one kind of job in one project."""
    return f"{stack}-{project}-{kind}"


def role_path(stack: str) -> str:
    """Return the IAM path of all roles born at run time, so that a policy can name exactly them."""
    return f"/{stack}/"


def run_prefix(run: str) -> str:
    """Return the key prefix that holds everything of one run in the artifact bucket."""
    return f"projects/{project_of(run)}/runs/{run}/"


def curated_prefix(run: str) -> str:
    """Return the key prefix that holds the curated data of a run, one folder for each attempt.

    Apart from what is kept of a run: S3's lifecycle rules know prefixes only, and rows may not stay as long as models.
    """
    return f"curated/{project_of(run)}/{run}/"


def feature_groups(stack: str, project: str) -> str:
    """Return what the names of a project's feature groups begin with.

    Two hyphens, which no project's name holds: the groups and tables of `a` are not those of `a-b`.
    """
    return f"{stack}-{project}--"


def feature_group(stack: str, project: str, digest: str) -> str:
    """Return the name of the feature group for one set of features of a project."""
    return feature_groups(stack, project) + digest


def features_prefix(project: str) -> str:
    """Return the key prefix below which the tables of a project's feature groups lie."""
    return f"features/{project}/"


def manifest_key(run: str) -> str:
    """Return the key of the manifest that lists the run's source objects."""
    return run_prefix(run) + "manifest.json"


def sources_key(run: str) -> str:
    """Return the key of the list of the run's source objects with the digest of each."""
    return run_prefix(run) + "sources.json"


def record_key(run: str) -> str:
    """Return the key of the run's record."""
    return run_prefix(run) + "run.json"


def report_key(run: str) -> str:
    """Return the key of the run's report, the page that people read."""
    return run_prefix(run) + "report.html"


def tags(stack: str, project: str, run: str | None = None) -> list[dict[str, str]]:
    """Return the tags of a resource that is born at run time."""
    pairs = {"ebb:stack": stack, "ebb:project": project} | ({"ebb:run": run} if run else {})
    return [{"Key": key, "Value": value} for key, value in pairs.items()]
