"""Request bodies of the roles that jobs and models run under: CreateRole and PutRolePolicy.

One role per project and kind of job: a job reads and writes its own project's prefixes, so that nothing it runs can
reach another project's data. A permissions boundary, part of the stack, caps whatever is written here.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ebb import names
from ebb.images import EcrImage
from ebb.settings import StackSettings

Statement = dict[str, Any]

_RECOMMENDER = "https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-prerequisites.html"
_FEATURE_STORE = "https://docs.aws.amazon.com/sagemaker/latest/dg/feature-store-adding-policies.html"
_EXECUTION_ROLE = "https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html"
# Where AWS asks for each permission. The embedded cloud starts no container and meters no host, so it never uses
# those for images, metrics, log groups and volumes.
PERMISSION_SOURCES = {
    "s3:GetObject": _EXECUTION_ROLE,
    "s3:PutObject": _EXECUTION_ROLE,
    "s3:ListBucket": _EXECUTION_ROLE,
    "logs:CreateLogGroup": _EXECUTION_ROLE,
    "logs:CreateLogStream": _EXECUTION_ROLE,
    "logs:DescribeLogStreams": _EXECUTION_ROLE,
    "logs:PutLogEvents": _EXECUTION_ROLE,
    "cloudwatch:PutMetricData": _EXECUTION_ROLE,
    "ecr:GetAuthorizationToken": _EXECUTION_ROLE,
    "ecr:BatchCheckLayerAvailability": _EXECUTION_ROLE,
    "ecr:GetDownloadUrlForLayer": _EXECUTION_ROLE,
    "ecr:BatchGetImage": _EXECUTION_ROLE,
    # For VolumeKmsKeyId of jobs and KmsKeyId of endpoint configurations: SageMaker encrypts a volume through a grant.
    "kms:CreateGrant": _EXECUTION_ROLE,
    # For what a load test makes, calls and deletes. Its guide asks for AmazonSageMakerFullAccess and names no smaller
    # set: which of these it needs is assumed from what it makes.
    "sagemaker:DescribeModelPackage": _RECOMMENDER,
    "sagemaker:CreateModel": _RECOMMENDER,
    "sagemaker:DescribeModel": _RECOMMENDER,
    "sagemaker:DeleteModel": _RECOMMENDER,
    "sagemaker:CreateEndpointConfig": _RECOMMENDER,
    "sagemaker:DescribeEndpointConfig": _RECOMMENDER,
    "sagemaker:DeleteEndpointConfig": _RECOMMENDER,
    "sagemaker:CreateEndpoint": _RECOMMENDER,
    "sagemaker:DescribeEndpoint": _RECOMMENDER,
    "sagemaker:DeleteEndpoint": _RECOMMENDER,
    "sagemaker:InvokeEndpoint": _RECOMMENDER,
    "iam:PassRole": _RECOMMENDER,
    # What Feature Store and a job need to make, write and read the table of a feature group. That the group's role
    # makes database and table is assumed: the policies of the guide let both the caller and the role.
    "glue:CreateDatabase": _FEATURE_STORE,
    "glue:CreateTable": _FEATURE_STORE,
    "glue:GetDatabase": _FEATURE_STORE,
    "glue:GetTable": _FEATURE_STORE,
    "glue:UpdateTable": _FEATURE_STORE,
    "s3:GetBucketAcl": _FEATURE_STORE,
    "s3:PutObjectAcl": _FEATURE_STORE,
    "sagemaker:DescribeFeatureGroup": _FEATURE_STORE,
    # Spark removes what it has written of a rejected drop, and its own work; a table what no snapshot of it names.
    "s3:DeleteObject": "https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObject.html",
    "kms:Decrypt": "https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html",
    "kms:GenerateDataKey": "https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html",
}
_LOG_GROUPS = {
    "process": "/aws/sagemaker/ProcessingJobs",
    "compile": "/aws/sagemaker/ProcessingJobs",
    names.FEATURES: "/aws/sagemaker/ProcessingJobs",
    "train": "/aws/sagemaker/TrainingJobs",
    "compress": "/aws/sagemaker/TrainingJobs",
}
_NEO_LOGS = "/aws/sagemaker/CompilationJobs"
# What a load test makes is called after its job, cut at 40 characters, or as AWS calls it; nothing that serves is:
# https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateInferenceRecommendationsJob.html
_LOAD_TESTED = {
    "model": ("CreateModel", "DescribeModel", "DeleteModel"),
    "endpoint-config": ("CreateEndpointConfig", "DescribeEndpointConfig", "DeleteEndpointConfig", "CreateEndpoint"),
    "endpoint": ("CreateEndpoint", "DescribeEndpoint", "DeleteEndpoint", "InvokeEndpoint"),
}
_LOAD_TEST_METRICS = ("Endpoints", "InferenceRecommendationsJobs")
_MODEL_METRICS = ("Endpoints", "InferenceComponents", "TransformJobs")
# What each kind reads and writes below projects/<project>/runs/<run>/. `a*` is the attempt.
_READS = {
    "process": ("manifest.json", "sources.json"),
    names.SPARK: ("manifest.json", "sources.json", "a*/process/*"),
    "train": ("a*/train/*", "checkpoints/train/*"),  # the model before it, when data grew
    "compress": ("a*/train/*", "checkpoints/compress/*"),
    "compile": ("a*/train/*", "a*/compress/*", "a*/compile/bundles/*"),
    "model": ("a*/compile/bundles/*", "manifest.json"),
    names.RECOMMEND: ("a*/compile/bundles/*",),  # the model, and the sample of requests beside it
    names.FEATURES: (),
}
_PROCESSING = ("process", names.SPARK)
_CURATED = (
    "train",
    "compress",
    "compile",
    names.FEATURES,
)  # what `process` writes below curated/<project>/, and these read
_LEARNING = ("train", "compress", "compile")  # from features of another project, where the spec names one
_WRITES = {
    "process": ("a*/process/*",),
    names.SPARK: ("a*/process/*",),
    "train": ("a*/train/*", "checkpoints/train/*"),
    "compress": ("a*/compress/*", "checkpoints/compress/*"),
    "compile": ("a*/compile/*",),
    "model": ("scored/*",),
    names.FEATURES: ("a*/features/*",),
}


def role_arn(stack: StackSettings, project: str, kind: str) -> str:
    """Return the ARN of the role for one kind of job in one project."""
    path, name = names.role_path(stack.stack), names.role(stack.stack, project, kind)
    return f"arn:{stack.partition}:iam::{stack.account_id}:role{path}{name}"


def create_role(stack: StackSettings, project: str, kind: str) -> dict[str, Any]:
    """Return the body of CreateRole: a role that only SageMaker, or Glue, only for this account, may assume."""
    service = "glue.amazonaws.com" if kind == names.SPARK else "sagemaker.amazonaws.com"
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": service},
                "Action": "sts:AssumeRole",
                # https://docs.aws.amazon.com/sagemaker/latest/dg/security-confused-deputy-prevention.html
                "Condition": {"StringEquals": {"aws:SourceAccount": stack.account_id}},
            }
        ],
    }
    return {
        "RoleName": names.role(stack.stack, project, kind),
        "Path": names.role_path(stack.stack),
        "AssumeRolePolicyDocument": json.dumps(trust, separators=(",", ":")),
        "Description": f"Ebb: {kind} of the project {project}",
        "PermissionsBoundary": stack.job_boundary_arn,
        "Tags": names.tags(stack.stack, project),
    }


def put_role_policy(
    stack: StackSettings,
    project: str,
    kind: str,
    *,
    elsewhere: Mapping[str, Sequence[str]] | None = None,
    features: Mapping[str, Sequence[str]] | None = None,
    pretrained: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Return the body of PutRolePolicy: what one kind of job may do.

    `elsewhere` is the data that `process` reads where it lies, places by bucket: a key, or a prefix that ends in a
    slash. It is the spec's, so all runs of one spec write the same policy and it replaces what the last spec was
    granted. A run that waits for its job while another spec of the same project is put may lose its grant: it fails
    with access denied, and `ebb retry` puts it back. `features` are the rows of another project that the stages after
    `process` read, one run's of it: what it shares later or earlier is not granted. `pretrained` is the folder of the
    encoder that `train`, and nothing else, starts from.
    """
    statements = [
        *_data(stack, project, kind),
        *(_elsewhere(stack, elsewhere or {}) if kind in _PROCESSING else ()),
        *(_elsewhere(stack, features or {}) if kind in _LEARNING else ()),
        *(_elsewhere(stack, pretrained or {}, "Pretrained") if kind == "train" else ()),
        *(_feature_store(stack, project) if kind == names.FEATURES else ()),
        *_key(stack, kind, external=kind in _PROCESSING or (kind == "train" and bool(pretrained))),
        *_logs_and_metrics(stack, project, kind),
        *_images(stack, kind),
        *(_load_tests(stack, project) if kind == names.RECOMMEND else ()),
    ]
    document = {"Version": "2012-10-17", "Statement": statements}
    return {
        "RoleName": names.role(stack.stack, project, kind),
        "PolicyName": "job",
        "PolicyDocument": json.dumps(document, separators=(",", ":")),
    }


def _elsewhere(stack: StackSettings, places: Mapping[str, Sequence[str]], what: str = "Data") -> list[Statement]:
    statements = []
    for number, (bucket, given) in enumerate(sorted(places.items())):
        # A key is a name, never a pattern: `*` in it must not reach its neighbours.
        patterns = [_literal(each) + ("*" if each.endswith("/") else "") for each in given]
        statements += [
            _allow(f"Read{what}{number}", ["s3:GetObject"], [_object(stack, bucket, each) for each in patterns]),
            _list(stack, f"List{what}{number}", bucket, patterns),
        ]
    return statements


def _literal(key: str) -> str:
    """Return a key as IAM writes one that holds its special characters.

    Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
    """
    return re.sub(r"[*?$]", lambda found: "${" + found[0] + "}", key)


def _data(stack: StackSettings, project: str, kind: str) -> list[Statement]:
    runs = f"projects/{project}/runs/*/"
    readable = [_object(stack, stack.artifact_bucket, runs + each) for each in _READS[kind]]
    listable = [f"projects/{project}/*"]
    statements = []
    if kind not in ("model", names.RECOMMEND):
        readable.append(_object(stack, stack.artifact_bucket, "jobs/*"))
        listable.append("jobs/*")
    if kind in _PROCESSING:
        readable.append(_object(stack, stack.landing_bucket, f"{project}/*"))
        statements.append(_list(stack, "ListDrops", stack.landing_bucket, [f"{project}/*"]))
    written = [_object(stack, stack.artifact_bucket, runs + each) for each in _WRITES.get(kind, ())]
    if kind in (*_CURATED, *_PROCESSING):
        curated = _object(stack, stack.artifact_bucket, f"curated/{project}/*")
        if kind in _PROCESSING:
            written.append(curated)
        if kind != "process":  # Spark looks at what it has written
            readable.append(curated)
        listable.append(f"curated/{project}/*")
    if kind == "model":  # a transform reads what was dropped to be scored, an asynchronous endpoint what waits for it
        address = names.endpoint(stack.stack, project)
        readable.append(_object(stack, stack.landing_bucket, f"{project}/score/*"))
        readable.append(_object(stack, stack.artifact_bucket, f"requests/{address}/*"))
        written.append(_object(stack, stack.artifact_bucket, f"answers/{address}/*"))
        statements.append(_list(stack, "ListDrops", stack.landing_bucket, [f"{project}/score/*"]))
        listable += [f"requests/{address}/*", f"answers/{address}/*"]
    statements += [_allow("Read", ["s3:GetObject"], readable), _list(stack, "List", stack.artifact_bucket, listable)]
    if (
        kind == names.SPARK
    ):  # the empty objects by which it marks folders: https://repost.aws/knowledge-center/emr-s3-empty-files
        written.append(_object(stack, stack.artifact_bucket, f"projects/{project}/*" + _literal("_$folder$")))
    writing = ["s3:PutObject", *(["s3:DeleteObject"] if kind == names.SPARK else [])]
    return [*statements, *([_allow("Write", writing, written)] if written else [])]


def _feature_store(stack: StackSettings, project: str) -> list[Statement]:
    """Return what lets Feature Store make the table of a project's feature group, and the job write and read it.

    The group's role and the job's are one: both write the same table, and nothing else.
    """
    groups = names.feature_groups(stack.stack, project)
    tables = sorted({groups.lower(), groups.replace("-", "_").lower()})  # how AWS spells a table's hyphens is assumed
    database = names.FEATURE_DATABASE
    prefix = names.features_prefix(project)
    catalogued = [stack.arn("glue", each) for each in ("catalog", f"database/{database}")]
    return [
        _allow(
            "ChangeTable",
            ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:PutObjectAcl"],
            [_object(stack, stack.artifact_bucket, prefix + "*")],
        ),
        _list(stack, "ListTable", stack.artifact_bucket, [prefix + "*"]),
        _allow("LookAtBucket", ["s3:GetBucketAcl"], [f"arn:{stack.partition}:s3:::{stack.artifact_bucket}"]),
        _allow(
            "Catalogue",
            ["glue:CreateDatabase", "glue:CreateTable", "glue:GetDatabase", "glue:GetTable", "glue:UpdateTable"],
            [*catalogued, *(stack.arn("glue", f"table/{database}/{each}*") for each in tables)],
        ),
        _allow("FindTable", ["sagemaker:DescribeFeatureGroup"], [stack.arn("sagemaker", f"feature-group/{groups}*")]),
    ]


def _key(stack: StackSettings, kind: str, *, external: bool) -> list[Statement]:
    actions = ["kms:Decrypt", "kms:GenerateDataKey"]
    through_s3 = {"StringEquals": {"kms:ViaService": f"s3.{stack.region}.amazonaws.com"}}
    for_volumes = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
    return [
        _allow("UseKeyThroughS3", actions, [stack.data_key_arn], through_s3),
        *(
            [_allow("EncryptVolumes", ["kms:CreateGrant"], [stack.data_key_arn], for_volumes)]
            if kind != names.SPARK
            else []
        ),
        *(
            [_allow("ReadExternalData", ["kms:Decrypt"], list(stack.external_data_key_arns), through_s3)]
            if external and stack.external_data_key_arns
            else []
        ),
    ]


def _logs_and_metrics(stack: StackSettings, project: str, kind: str) -> list[Statement]:
    if kind == "model":
        address = names.endpoint(stack.stack, project)
        groups = {  # what serves writes to a group of its own, a transform to a stream of its name
            f"/aws/sagemaker/Endpoints/{address}": "*",
            f"/aws/sagemaker/Endpoints/{address}--*": "*",
            f"/aws/sagemaker/Endpoints/{stack.stack}--shared-*": "*",
            f"/aws/sagemaker/InferenceComponents/{address}--*": "*",
            "/aws/sagemaker/TransformJobs": f"{project}-*",
        }
        namespaces = ["AWS/SageMaker", *(f"/aws/sagemaker/{each}" for each in _MODEL_METRICS)]
    elif kind == names.SPARK:
        groups = {f"{names.spark_logs(stack.stack)}/*": f"{project}-*"}
        namespaces = ["Glue"]
    elif kind == names.RECOMMEND:
        groups = {
            "/aws/sagemaker/InferenceRecommendationsJobs": f"{names.load_tests(project)}*",
            f"/aws/sagemaker/Endpoints/{names.load_tests(project)}*": "*",
            f"/aws/sagemaker/Endpoints/{names.LOAD_TEST_OF_AWS}*": "*",
        }
        namespaces = ["AWS/SageMaker", *(f"/aws/sagemaker/{each}" for each in _LOAD_TEST_METRICS)]
    else:
        groups = {_LOG_GROUPS[kind]: f"{project}-*"}  # a stream is named after its job
        if kind == "compile":  # whose role SageMaker Neo takes too; how it names its streams is assumed
            groups[_NEO_LOGS] = f"{project}-*"
        namespaces = [_LOG_GROUPS[kind]]
    making = [stack.arn("logs", f"log-group:{group}:*") for group in groups]
    writing = [stack.arn("logs", f"log-group:{group}:log-stream:{streams}") for group, streams in groups.items()]
    return [
        _allow("MakeLogs", ["logs:CreateLogGroup", "logs:DescribeLogStreams"], making),
        _allow("WriteLogs", ["logs:CreateLogStream", "logs:PutLogEvents"], writing),
        # PutMetricData has no resources, only this condition:
        # https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoncloudwatch.html
        _allow("Metrics", ["cloudwatch:PutMetricData"], ["*"], {"StringEquals": {"cloudwatch:namespace": namespaces}}),
    ]


def _load_tests(stack: StackSettings, project: str) -> list[Statement]:
    """Return what lets Inference Recommender put a model of the project on endpoints of its own, and take them away."""
    prefixes = (names.load_tests(project), names.LOAD_TEST_OF_AWS)
    made = {
        resource: [stack.arn("sagemaker", f"{resource}/{prefix}*") for prefix in prefixes] for resource in _LOAD_TESTED
    }
    package = stack.arn("sagemaker", f"model-package/{names.endpoint(stack.stack, project)}/*")
    as_sagemaker = {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    return [
        _allow("ReadPackage", ["sagemaker:DescribeModelPackage"], [package]),
        *(
            _allow(
                "Test" + "".join(part.capitalize() for part in resource.split("-")),
                [f"sagemaker:{action}" for action in actions],
                made[resource],
            )
            for resource, actions in _LOAD_TESTED.items()
        ),
        _allow("PassItself", ["iam:PassRole"], [role_arn(stack, project, names.RECOMMEND)], as_sagemaker),
    ]


def _images(stack: StackSettings, kind: str) -> list[Statement]:
    if kind == names.SPARK:
        return []
    # A model that comes with its own code is served on the jobs image, which has PyTorch.
    uris = [stack.jobs_image_uri, *([stack.serve_image_uri] if kind in ("model", names.RECOMMEND) else [])]
    found = [image for image in map(EcrImage.of, uris) if image]
    if not found:
        return []
    repositories = [
        f"arn:{stack.partition}:ecr:{each.region}:{each.account}:repository/{each.repository}" for each in found
    ]
    pulling = ["ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage"]
    return [
        # GetAuthorizationToken has no resources:
        # https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonelasticcontainerregistry.html
        _allow("LogInToRegistry", ["ecr:GetAuthorizationToken"], ["*"]),
        _allow("PullImage", pulling, sorted(set(repositories))),
    ]


def _object(stack: StackSettings, bucket: str, key: str) -> str:
    return f"arn:{stack.partition}:s3:::{bucket}/{key}"


def _list(stack: StackSettings, sid: str, bucket: str, prefixes: Sequence[str]) -> Statement:
    where = {"StringLike": {"s3:prefix": list(prefixes)}}
    return _allow(sid, ["s3:ListBucket"], [f"arn:{stack.partition}:s3:::{bucket}"], where)


def _allow(
    sid: str, actions: Sequence[str], resources: Sequence[str], condition: dict[str, Any] | None = None
) -> Statement:
    statement = {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": list(resources)}
    return statement | ({"Condition": condition} if condition else {})
