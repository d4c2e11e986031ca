"""Request bodies of the roles that jobs and models run under: CreateRole and PutRolePolicy.

One role per project and kind of job: a job reads and writes its own project's prefixes, so that nothing it runs can
reach another project's data. A permissions boundary, part of the stack, caps whatever is written here.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from ebb import names
from ebb.settings import StackSettings

Statement = dict[str, Any]

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
    "kms:Decrypt": "https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html",
    "kms:GenerateDataKey": "https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html",
}
_LOG_GROUPS = {
    "process": "/aws/sagemaker/ProcessingJobs",
    "compile": "/aws/sagemaker/ProcessingJobs",
    "train": "/aws/sagemaker/TrainingJobs",
    "compress": "/aws/sagemaker/TrainingJobs",
}
# What each kind reads and writes below projects/<project>/runs/<run>/. `a*` is the attempt.
_READS = {
    "process": ("manifest.json",),
    "train": ("a*/process/curated/*", "checkpoints/train/*"),
    "compress": ("a*/process/curated/*", "a*/train/*", "checkpoints/compress/*"),
    "compile": ("a*/process/curated/*", "a*/train/*", "a*/compress/*", "a*/compile/bundles/*"),
    "model": ("a*/compile/bundles/*",),
}
_WRITES = {
    "process": ("a*/process/*",),
    "train": ("a*/train/*", "checkpoints/train/*"),
    "compress": ("a*/compress/*", "checkpoints/compress/*"),
    "compile": ("a*/compile/*",),
    "model": (),
}


def role_arn(stack: StackSettings, project: str, kind: str) -> str:
    """Return the ARN of the role for one kind of job in one project."""
    path, name = names.role_path(stack.stack), names.role(stack.stack, project, kind)
    return f"arn:{stack.partition}:iam::{stack.account_id}:role{path}{name}"


def create_role(stack: StackSettings, project: str, kind: str) -> dict[str, Any]:
    """Return the body of CreateRole: a role that only SageMaker, only for this account, may assume."""
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sagemaker.amazonaws.com"},
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


def put_role_policy(stack: StackSettings, project: str, kind: str) -> dict[str, Any]:
    """Return the body of PutRolePolicy: what one kind of job may do. The same for every run, so runs never compete."""
    statements = [
        *_data(stack, project, kind),
        *_key(stack, kind),
        *_logs_and_metrics(stack, project, kind),
        *_image(stack, kind),
    ]
    return _policy(stack, project, kind, "job", statements)


def put_external_data_policy(stack: StackSettings, project: str, bucket: str, prefix: str) -> dict[str, Any]:
    """Return the body of PutRolePolicy that lets `process` read data left where it is.

    One policy per place, named after it: two runs of a project that read different places do not undo each other.
    """
    digest = hashlib.sha256(f"{bucket}/{prefix}".encode()).hexdigest()[:12]
    statements = [
        _allow("ReadData", ["s3:GetObject"], [_object(stack, bucket, f"{prefix}*")]),
        _list(stack, "ListData", bucket, [f"{prefix}*"]),
    ]
    return _policy(stack, project, "process", f"data-{digest}", statements)


def _policy(
    stack: StackSettings, project: str, kind: str, name: str, statements: Sequence[Statement]
) -> dict[str, Any]:
    document = {"Version": "2012-10-17", "Statement": list(statements)}
    return {
        "RoleName": names.role(stack.stack, project, kind),
        "PolicyName": name,
        "PolicyDocument": json.dumps(document, separators=(",", ":")),
    }


def _data(stack: StackSettings, project: str, kind: str) -> list[Statement]:
    runs = f"projects/{project}/runs/*/"
    readable = [_object(stack, stack.artifact_bucket, runs + each) for each in _READS[kind]]
    listable = [f"projects/{project}/*"]
    statements = []
    if kind != "model":
        readable.append(_object(stack, stack.artifact_bucket, "jobs/*"))
        listable.append("jobs/*")
    if kind == "process":
        readable.append(_object(stack, stack.landing_bucket, f"{project}/*"))
        statements.append(_list(stack, "ListDrops", stack.landing_bucket, [f"{project}/*"]))
    statements += [_allow("Read", ["s3:GetObject"], readable), _list(stack, "List", stack.artifact_bucket, listable)]
    if _WRITES[kind]:
        written = [_object(stack, stack.artifact_bucket, runs + each) for each in _WRITES[kind]]
        statements.append(_allow("Write", ["s3:PutObject"], written))
    return statements


def _key(stack: StackSettings, kind: str) -> list[Statement]:
    actions = ["kms:Decrypt"] + (["kms:GenerateDataKey"] if _WRITES[kind] else [])
    through_s3 = {"StringEquals": {"kms:ViaService": f"s3.{stack.region}.amazonaws.com"}}
    for_volumes = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
    return [
        _allow("UseKeyThroughS3", actions, [stack.data_key_arn], through_s3),
        _allow("EncryptVolumes", ["kms:CreateGrant"], [stack.data_key_arn], for_volumes),
    ]


def _logs_and_metrics(stack: StackSettings, project: str, kind: str) -> list[Statement]:
    if kind == "model":
        group, streams = f"/aws/sagemaker/Endpoints/{names.endpoint(stack.stack, project)}", "*"
        namespaces = ["AWS/SageMaker", "/aws/sagemaker/Endpoints"]
    else:
        group, streams = _LOG_GROUPS[kind], f"{project}-*"  # a stream is named after its job
        namespaces = [group]
    writing = [stack.arn("logs", f"log-group:{group}:log-stream:{streams}")]
    return [
        _allow(
            "MakeLogs", ["logs:CreateLogGroup", "logs:DescribeLogStreams"], [stack.arn("logs", f"log-group:{group}:*")]
        ),
        _allow("WriteLogs", ["logs:CreateLogStream", "logs:PutLogEvents"], writing),
        # PutMetricData has no resources, only this condition:
        # https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoncloudwatch.html
        _allow("Metrics", ["cloudwatch:PutMetricData"], ["*"], {"StringEquals": {"cloudwatch:namespace": namespaces}}),
    ]


def _image(stack: StackSettings, kind: str) -> list[Statement]:
    uri = stack.serve_image_uri if kind == "model" else stack.jobs_image_uri
    found = re.match(r"^(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/([^:@]+)", uri)
    if found is None:
        return []  # a public image needs no permission
    account, region, repository = found.groups()
    pulling = ["ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage"]
    return [
        # GetAuthorizationToken has no resources:
        # https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonelasticcontainerregistry.html
        _allow("LogInToRegistry", ["ecr:GetAuthorizationToken"], ["*"]),
        _allow("PullImage", pulling, [f"arn:{stack.partition}:ecr:{region}:{account}:repository/{repository}"]),
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
