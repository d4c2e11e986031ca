"""`ebb lineage`: the models made from an object, and the objects behind a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Annotated, Any

import typer
from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError
from rich.markup import escape
from rich.tree import Tree

from ebb import forgetting, names
from ebb import ledger as keys
from ebb import lineage as rules
from ebb.lineage import Descent, Place
from ebb_cli import output
from ebb_cli.ledger import Ledger
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Json, Target

MOST_LINES = 12  # of one branch of the tree; --json has all
FIELDS = (  # of a run; its candidates and comparison are not fetched, which may be many
    "pk", "run_id", "project", "status", "created_at", "started_at", "ended_at", "purpose", "drop", "spec", "identity",
    "sources", "source_count", "reuses", "chosen", "error", "scored_by", "scored_uri", "forgotten", "features",
    "attempt", "pretrained",
)  # fmt: skip
WEIGHTS = ".safetensors"
MISSING = {"404", "NoSuchKey", "NotFound", "ValidationException", "ResourceNotFound", "NoSuchBucket"}


class Known:
    """What the ledger and the buckets know of all runs: read once, and only what is asked for."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.ledger = Ledger(target)
        self.now = self.ledger.now
        """The moment of the ledger's last answer: an embedded cloud's clock may be ahead of this machine's."""
        self.landing, self.artifacts = target.outputs["LandingBucketName"], target.outputs["ArtifactBucketName"]
        self.runs = [self._whole(run) for run in self._listed()]

    @cached_property
    def table(self) -> Any:
        """The ledger's table, with plain values in its writes."""
        resource: Any = self.target.session.resource  # the stubs want literal names
        return resource("dynamodb", endpoint_url=self.target.endpoint_url).Table(self.target.outputs["LedgerTableName"])

    def items(self, pk: str, beginning: str = "") -> list[dict[str, Any]]:
        """Return the items of a partition whose sort key has this beginning."""
        condition = "pk = :pk" + (" AND begins_with(sk, :sk)" if beginning else "")
        values = {":pk": {"S": pk}} | ({":sk": {"S": beginning}} if beginning else {})
        return self._query(KeyConditionExpression=condition, ExpressionAttributeValues=values, ConsistentRead=True)

    def run(self, run_id: str) -> dict[str, Any] | None:
        """Return a run, None when there is none of this id."""
        return next((run for run in self.runs if run["run_id"] == run_id), None)

    def served(self, project: str) -> dict[str, Any] | None:
        """Return what a project's address serves, None when it serves nothing."""
        return self.ledger.project(project).get("served") or None

    def serving(self, runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return, by run id, what is served of these runs' models: {address, endpoint_name}."""
        wanted = {str(run["run_id"]): str(run["project"]) for run in runs}
        found = {}
        for project in sorted(set(wanted.values())):
            served = self.served(project)
            if served and served["run_id"] in wanted:
                found[served["run_id"]] = {name: served.get(name) for name in ("address", "endpoint_name")}
        return found

    def packages(self, project: str) -> list[dict[str, Any]]:
        """Return the registered models of a project: {arn, version, run_id}."""
        sagemaker, group = self.target.client("sagemaker"), names.endpoint(self.target.stack, project)
        found = []
        try:
            pages = list(sagemaker.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group))
        except ClientError as problem:
            if problem.response["Error"]["Code"] in MISSING:
                return []
            raise
        for package in [each for page in pages for each in page["ModelPackageSummaryList"]]:
            arn = package["ModelPackageArn"]
            described = sagemaker.describe_model_package(ModelPackageName=arn)
            run_id = (described.get("CustomerMetadataProperties") or {}).get("ebb-run")
            found.append({"arn": arn, "version": package.get("ModelPackageVersion"), "run_id": run_id})
        return found

    def forgotten(self, where: Place) -> list[dict[str, Any]]:
        """Return the records of what was forgotten at a place, above it or below it, oldest first."""
        found = self.items(keys.project_key(where.project)["pk"], forgetting.FORGOTTEN)
        return [each for each in found if Place(each["bucket"], each["key"]).meets(where)]

    def versions(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        """Return every version that S3 still has below a prefix, delete markers left out."""
        pages = self.target.client("s3").get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix)
        try:
            return [each for page in pages for each in page.get("Versions", [])]
        except ClientError as problem:
            if problem.response["Error"]["Code"] in {*MISSING, "AccessDenied", "403"}:
                return []  # a bucket that is not Ebb's
            raise

    def _listed(self) -> list[dict[str, Any]]:
        return self._query(
            IndexName="runs",
            KeyConditionExpression="gsi_pk = :runs",
            ExpressionAttributeValues={":runs": {"S": "RUNS"}},
            ProjectionExpression=", ".join(f"#{name}" for name in FIELDS),
            ExpressionAttributeNames={f"#{name}": name for name in FIELDS},
        )

    def _whole(self, run: dict[str, Any]) -> dict[str, Any]:
        """Return a run with what its index entry does not hold: many sources, and the run that it started from."""
        if not run.get("sources") and int(run.get("source_count") or 0):
            run["sources"] = self._many((run.get("features") or run)["run_id"])  # those of who made the features
        if rules.is_model(run) and (run.get("spec") or {}).get("data", {}).get("mode") == "append":
            run["started_from"] = self._started_from(run["run_id"])
        return run

    def _many(self, run_id: str) -> list[dict[str, Any]]:
        manifest, digests = (self._document(each(run_id)) for each in (names.manifest_key, names.sources_key))
        if not manifest:
            return []
        bucket = manifest[0]["prefix"].removeprefix("s3://").rstrip("/")
        return [{"bucket": bucket, "key": key, "sha256": (digests or {}).get(key)} for key in manifest[1:]]

    def _document(self, key: str) -> Any:
        try:
            return json.loads(self.target.client("s3").get_object(Bucket=self.artifacts, Key=key)["Body"].read())
        except ClientError as problem:
            if problem.response["Error"]["Code"] in MISSING:
                return None
            raise

    def _started_from(self, run_id: str) -> str | None:
        key = {name: {"S": value} for name, value in keys.stage_key(run_id, "train").items()}
        found = self.target.client("dynamodb").get_item(
            TableName=self.target.outputs["LedgerTableName"],
            Key=key,
            ProjectionExpression="#report.#from",
            ExpressionAttributeNames={"#report": "report", "#from": "started_from"},
        )
        report = plain(found.get("Item", {})).get("report") or {}
        return report.get("started_from")

    def _query(self, **request: Any) -> list[dict[str, Any]]:
        pages = self.target.client("dynamodb").get_paginator("query")
        found = []
        for page in pages.paginate(TableName=self.target.outputs["LedgerTableName"], **request):
            date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
            self.now = parsedate_to_datetime(date) if date else self.now
            found += [plain(item) for item in page["Items"]]
        return found


def plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item of DynamoDB's own API as plain values."""
    deserialise = TypeDeserializer().deserialize
    return {name: keys.from_item(deserialise(value)) for name, value in item.items()}


def lineage(
    target: Target,
    name: Annotated[
        str,
        typer.Argument(
            metavar="OBJECT|MODEL",
            help="An object or a folder (its key in the landing bucket, or s3://...), or a model: a run id, the "
            "beginning of one, `latest`, a project or its address for what it serves, PROJECT/VERSION or the ARN of a "
            "registered model.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """List the models made from an object, or the objects behind a model."""
    known = Known(target)
    run_id = _model_named(known, name)
    told = _behind(known, run_id) if run_id else _made_from(known, _place(known, name))
    if as_json:
        output.emit_json(told)
    else:
        output.out().print(_tree_of_model(told["model"]) if run_id else _tree_of_object(told))


def _place(known: Known, name: str) -> Place:
    try:
        return rules.place(name, known.landing)
    except ValueError as problem:
        raise CommandError(f"{problem}.", "Name a key like churn/data/rows.csv, or a folder.", status=USAGE) from None


def _model_named(known: Known, name: str) -> str | None:
    """Return the run that made the model of this name, None when the name is that of an object or a folder."""
    if name.startswith("s3://"):
        return None
    head, _, version = name.rpartition(":model-package/")[2].partition("/")
    if version.isdigit() and version.isascii():
        project = head.removeprefix(f"{known.target.stack}-") if name.startswith("arn:") else head
        for package in known.packages(project):
            if str(package["version"]) == version and package["run_id"]:
                return str(package["run_id"])
        raise CommandError(f"{project} has no registered model {version}.", "ebb models lists them.", status=USAGE)
    if "/" in name:
        return None
    projects = {str(run["project"]) for run in known.runs}
    at = known.ledger.address(name)
    named = str(at.project) if at else name
    if named in projects:
        served = known.served(named)
        if not served:
            remedy = f"ebb runs --project {named} lists its runs; ebb lineage {named}/ what came from its data."
            raise CommandError(f"{named} serves no model.", remedy)
        return str(served["run_id"])
    return known.ledger.resolve(name)


def _made_from(known: Known, where: Place) -> dict[str, Any]:
    versions = known.versions(where.bucket, where.key)
    runs = rules.descendants(known.runs, where)
    models = [each for each in runs if rules.is_model(each.run)]
    serving = known.serving(each.run for each in models)
    packages = {
        package["run_id"]: package
        for project in sorted({each.run["project"] for each in models})
        for package in known.packages(project)
    }
    scored = [each for each in rules.read_there(known.runs, where) if each.run.get("purpose") == rules.SCORE]
    records = known.forgotten(where)
    if not (runs or scored or versions or records):
        raise CommandError(f"Nothing is known of {where.uri}.", "aws s3 ls or ebb runs shows what was dropped.")
    return {
        "object": where.uri,
        "versions": [_version(each) for each in versions if where.covers(where.bucket, each["Key"])],
        "models": [_model(each, versions, serving, packages) for each in models],
        "other_runs": [_told(each.run) for each in runs if not rules.is_model(each.run)],
        "scored": [_told(each.run) | {"scored_uri": each.run.get("scored_uri")} for each in scored],
        "forgotten": [_record(each) for each in records],
    }


def _behind(known: Known, run_id: str) -> dict[str, Any]:
    chain = rules.ancestors(known.runs, run_id)
    if not chain:
        raise CommandError(f"The ledger holds no run {run_id}.", "ebb runs lists them.")
    if not rules.is_model(chain[0]) and chain[0].get("reuses"):
        raise CommandError(f"{run_id} made no model: it reuses that of {chain[0]['reuses']}.",
                           f"ebb lineage {chain[0]['reuses']}")  # fmt: skip
    serving = known.serving(chain)
    packages = {each["run_id"]: each for each in known.packages(str(chain[0]["project"]))}
    told: dict[str, Any] | None = None
    for run in reversed(chain):
        sources = tuple(run.get("sources") or ())
        versions = [each for prefix in _prefixes(sources) for each in known.versions(*prefix)]
        told = _model(Descent(run, sources), versions, serving, packages) | {"started_from": told}
    scored = [run for run in known.runs if run.get("scored_by") == run_id]
    assert told is not None  # the chain is not empty
    return {"model": told | {"scored": [_told(run) | {"scored_uri": run.get("scored_uri")} for run in scored]}}


def _prefixes(sources: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return where to list versions: each object when they are few, else the folders that they lie in."""
    if len(sources) <= MOST_LINES:
        return [(each["bucket"], each["key"]) for each in sources]
    return sorted({(each["bucket"], each["key"].rpartition("/")[0] + "/") for each in sources})


def _model(
    made: Descent,
    versions: Sequence[Mapping[str, Any]],
    serving: Mapping[str, Mapping[str, Any]],
    packages: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    run = made.run
    run_id = str(run["run_id"])
    until = run.get("started_at") or run.get("created_at")
    return _told(run) | {
        "chosen": run.get("chosen"),
        "package": (packages.get(run_id) or {}).get("arn"),
        "version": (packages.get(run_id) or {}).get("version"),
        "serves": serving.get(run_id),
        "learnt_through": list(made.through),
        "features": run.get("features"),
        "pretrained": list(run.get("pretrained") or ()),
        "objects": [_source(each, versions, until) for each in made.sources],
    }


def _source(source: Mapping[str, Any], versions: Sequence[Mapping[str, Any]], until: str | None) -> dict[str, Any]:
    version_id = rules.version_of(source, versions, until)
    held = next((each for each in versions if each["VersionId"] == version_id and each["Key"] == source["key"]), None)
    return {
        "bucket": source["bucket"],
        "key": source["key"],
        "version_id": version_id,
        "size_bytes": source.get("size_bytes", held["Size"] if held else None),
        "sha256": source.get("sha256"),
        "checksum": source.get("checksum"),
        "etag": source.get("etag"),
    }


def _told(run: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("run_id", "project", "status", "created_at", "ended_at", "forgotten")
    return {name: run.get(name) for name in kept}


def _version(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": found["Key"],
        "version_id": found["VersionId"],
        "size_bytes": found["Size"],
        "etag": found["ETag"].strip('"'),
        "at": found["LastModified"],
        "latest": found["IsLatest"],
    }


def _record(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in ("pk", "sk")}


def _tree_of_object(told: Mapping[str, Any]) -> Tree:
    tree = Tree(f"[bold]{escape(told['object'])}[/]")
    _add(
        tree,
        "versions that S3 holds",
        [_version_line(each) for each in told["versions"]],
        nothing="S3 holds no version of it",
    )
    for each in told["forgotten"]:
        ended = output.moment(each.get("ended_at")) if each["status"] == forgetting.DONE else "not to the end"
        told_of = f"forgotten {ended} by {each['by']}: {each['dataset']}"
        tree.add(f"[yellow]{escape(told_of)}[/]")
    models = tree.add("models made from it" if told["models"] else "no model was made from it")
    for model in told["models"]:
        _add_model(models, model)
    others = [f"{each['run_id']}  {each['status']}" for each in told["other_runs"]]
    _add(tree, "runs that read it and made no model", others)
    _add(tree, "scored", [f"{each['run_id']}  {each['scored_uri'] or each['status']}" for each in told["scored"]])
    return tree


def _tree_of_model(model: Mapping[str, Any]) -> Tree:
    tree = Tree(f"[bold]{escape(_headline(model))}[/]")
    _fill(tree, model)
    earlier = model["started_from"]
    branch = tree
    while earlier:
        branch = branch.add(f"training began with the weights of {escape(_headline(earlier))}")
        _fill(branch, earlier)
        earlier = earlier["started_from"]
    _add(tree, "scored by it", [f"{each['run_id']}  {each['scored_uri'] or '-'}" for each in model["scored"]])
    return tree


def _add_model(tree: Tree, model: Mapping[str, Any]) -> None:
    branch = tree.add(escape(_headline(model)))
    if model["learnt_through"]:
        branch.add(
            escape(f"by its weights, which began as those of {', then '.join(reversed(model['learnt_through']))}")
        )
    _fill(branch, model)


def _fill(branch: Tree, model: Mapping[str, Any]) -> None:
    lent = model.get("features")
    if lent:
        branch.add(escape(f"learnt from the features that {lent['run_id']} made of the objects below"))
    encoder = [each for each in model.get("pretrained") or () if each["key"].endswith(WEIGHTS)]
    for each in encoder:
        where = f"s3://{each['bucket']}/{each['key']}"
        branch.add(escape(f"its ladder could end at the encoder {where}  {output.size(each['size_bytes'])}"))
    if model["forgotten"]:
        gone = model["forgotten"]
        branch.add(f"[yellow]{escape(gone['dataset'])}, which it learnt from, forgotten {output.moment(gone['at'])}[/]")
    _add(branch, "objects", [_source_line(each) for each in model["objects"]])


def _headline(model: Mapping[str, Any]) -> str:
    serves = model["serves"]
    parts = [
        str(model["run_id"]),
        str(model["chosen"] or model["status"]),
        f"registered as {model['project']}/{model['version']}" if model["version"] else "",
        f"serves at {serves.get('address') or serves.get('endpoint_name')}" if serves else "",
    ]
    return "  ".join(filter(None, parts))


def _version_line(each: Mapping[str, Any]) -> str:
    latest = "" if each["latest"] else "  overwritten"
    return f"{each['key']}  {each['version_id']}  {output.size(each['size_bytes'])}{latest}"


def _source_line(each: Mapping[str, Any]) -> str:
    digest = f"sha256 {each['sha256'][:16]}..." if each["sha256"] else str(each["checksum"] or "no digest")
    version = each["version_id"] or "S3 holds this version no more"
    return f"s3://{each['bucket']}/{each['key']}  {version}  {output.size(each['size_bytes'])}  {digest}"


def _add(tree: Tree, title: str, lines: Sequence[str], nothing: str = "") -> None:
    """Add a branch with its leaves, cut where they are many; without leaves what `nothing` says, or no branch."""
    if not lines:
        if nothing:
            tree.add(nothing)
        return
    branch = tree.add(f"{title} ({len(lines):,})")
    for line in lines[:MOST_LINES]:
        branch.add(escape(line))
    if len(lines) > MOST_LINES:
        branch.add(f"... {len(lines) - MOST_LINES:,} more: --json has all")
