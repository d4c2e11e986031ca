"""Scoring: what is dropped below score/ gets its predictions from the project's model, by a batch transform.

Tables and texts come back whole, a prediction beside each row (`jobs/ebb_jobs/scored.py`); of pictures each gets an
answer of its own. A model is made for the transform and deleted after it, so that nothing is left that could run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebb import catalog, deployment, names, requests
from ebb.errors import DropRejectedError, Rejection
from ebb.requests import roles
from ebb.settings import StackSettings

MIB = 2**20
# dg/batch-transform: concurrent transforms times payload are at most 100 MB.
LARGEST_PAYLOAD_MIB = 100
LINES_PAYLOAD_MIB = 6
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
# suffix: content type
TABLES = {".csv": "text/csv", ".jsonl": "application/jsonlines", ".ndjson": "application/jsonlines"}
SUPPORTED = ".csv, .jsonl, or pictures (.png, .jpg)"


@dataclass(frozen=True)
class ToScore:
    """One object that is to be scored."""

    key: str
    size_bytes: int

    @property
    def suffix(self) -> str:
        """The suffix of its name in lower case, with the dot."""
        return "." + self.key.rpartition(".")[2].lower()


@dataclass(frozen=True)
class Form:
    """How a transform sends what is dropped, and how it asks for the answer."""

    content_type: str
    accept: str
    split: str
    assemble: str
    payload_mib: int


def form_of(found: Sequence[ToScore], *, folder: str) -> Form:
    """Return how these objects are sent. Raises: DropRejectedError when they cannot be scored together."""
    if not found:
        raise _rejected("nothing-to-score", f"{folder} holds no file to score", f"Put files into it: {SUPPORTED}.")
    kinds = {TABLES.get(each.suffix) or ("image" if each.suffix in IMAGE_SUFFIXES else None) for each in found}
    unknown = next((each.key for each in found if not _is_known(each)), None)
    if unknown:
        raise _rejected("score-format", "this file cannot be scored", f"Drop {SUPPORTED}.", file=unknown)
    suffixes = {each.suffix for each in found}
    if len(kinds) > 1 or (kinds == {"image"} and ".png" in suffixes and len(suffixes) > 1):
        remedy = "Drop each kind of file in a folder of its own."
        raise _rejected("score-mixed", "one transform reads files of one kind", remedy, file=found[0].key)
    largest = max(found, key=lambda each: each.size_bytes)
    [kind] = kinds
    if kind == "image":
        content_type = "image/png" if ".png" in suffixes else "image/jpeg"
        return Form(content_type, "application/json", "None", "None", LINES_PAYLOAD_MIB)
    if kind == "application/jsonlines":  # each line stands alone, so SageMaker may cut a file of any size between them
        return Form(kind, kind, "Line", "Line", LINES_PAYLOAD_MIB)
    payload_mib = largest.size_bytes // MIB + 1
    if payload_mib > LARGEST_PAYLOAD_MIB:
        message = f"a CSV file is scored at once, and {payload_mib} MiB are more than {LARGEST_PAYLOAD_MIB}"
        remedy = "Write it as JSON Lines, which has no limit, or cut it into files of one folder, each with the header."
        raise _rejected("score-too-large", message, remedy, file=largest.key)
    return Form(str(kind), str(kind), "None", "None", payload_mib)


def require_model(served: Mapping[str, Any] | None, project: str) -> Mapping[str, Any]:
    """Return what the project serves. Raises: DropRejectedError when it has no model yet."""
    if not served:
        remedy = f"Drop data with labels below {project}/data/ first; then drop this again."
        raise _rejected("no-model", f"the project {project} has no model yet", remedy)
    return served


def build(
    stack: StackSettings,
    *,
    run_id: str,
    attempt: int,
    project: str,
    served: Mapping[str, Any],
    candidate: Mapping[str, Any],
    form: Form,
    manifest_uri: str,
    source: str,
) -> dict[str, Any]:
    """Return the requests of one scoring and what is told of it.

    `served` is the ledger's entry of the project's model, `candidate` what was measured of it.
    """
    name, tags = names.execution(run_id, attempt), names.tags(stack.stack, project, run_id)
    scored_uri = f"s3://{stack.artifact_bucket}/{names.run_prefix(run_id)}scored/"
    machine = instance(candidate)
    return {
        "model": requests.create_model(
            name=name,
            role_arn=roles.role_arn(stack, project, "model"),
            image_uri=deployment.image_uri(stack, candidate),
            bundle_uri=served["bundle_uri"],
            environment={
                "EBB_RUN_ID": served["run_id"],
                "EBB_CANDIDATE": served["candidate"],
                "EBB_MAX_BODY_MIB": str(form.payload_mib + 1),
            },
            tags=tags,
        ),
        "transform": requests.create_transform_job(
            name=f"{name}-score",
            model_name=name,
            manifest_uri=manifest_uri,
            output_uri=scored_uri.rstrip("/"),
            content_type=form.content_type,
            accept=form.accept,
            split=form.split,
            assemble=form.assemble,
            payload_mib=form.payload_mib,
            instance_type=machine,
            kms_key=stack.data_key_arn,
            tags=tags,
        ),
        "delete_model": {"ModelName": name},
        "told": {
            "scored_uri": scored_uri,
            "scored_by": served["run_id"],
            "source": source,
        },
    }


def instance(candidate: Mapping[str, Any]) -> str:
    """Return the smallest catalogued machine that holds the model twice over, beside the system and one payload."""
    needed_gib = 2 + 2 * float(candidate.get("memory_mib") or 1024) / 1024
    fitting = [each for each in catalog.instances() if each.accelerator is None and each.memory_gib >= needed_gib]
    transforming = [each for each in fitting if each.name.startswith(("ml.m5.", "ml.c5."))]
    return min(transforming, key=lambda each: each.price_usd_per_hour.value).name


def _is_known(each: ToScore) -> bool:
    return each.suffix in TABLES or each.suffix in IMAGE_SUFFIXES


def _rejected(code: str, message: str, remedy: str, *, file: str | None = None) -> DropRejectedError:
    return DropRejectedError(Rejection(code, message, file=file, remedy=remedy))
