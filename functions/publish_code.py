"""Lambda: a CloudFormation custom resource that puts code, named after its content, where jobs and builds read it."""

import hashlib
import io
import json
import os
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

import content_hash
import ebb_jobs
from ebb.aws import storage
from ebb.telemetry import logger

PHYSICAL_ID = "ebb-code"


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Publish on create and update; on delete leave the code, which finished runs still name.

    CloudFormation waits an hour for an answer, so it always gets one, and a failure says why.
    """
    answer = {
        "Status": "SUCCESS",
        "PhysicalResourceId": event.get("PhysicalResourceId") or PHYSICAL_ID,
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
    }
    try:
        if event["RequestType"] != "Delete":
            bucket = os.environ["ARTIFACT_BUCKET"]
            answer["Data"] = publish_jobs(job_files(), bucket) | publish_contexts(content_hash.HERE, bucket)
    except Exception as error:  # an exception without an answer would hang the deployment
        logger.exception("code not published")
        answer |= {"Status": "FAILED", "Reason": f"{type(error).__name__}: {error}"[:1000]}
    _respond(event["ResponseURL"], answer)
    return answer


def job_files() -> dict[str, bytes]:
    """Return the job code: `run.py` and the package `ebb_jobs`, as the layer holds them, by relative path."""
    package = Path(ebb_jobs.__file__).parent
    root = package.parent
    found = [root / "run.py", *sorted(path for path in package.rglob("*") if path.is_file())]
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in found
        if "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


def publish_jobs(files: dict[str, bytes], bucket: str) -> dict[str, str]:
    """Write the files below `jobs/<hash of all of them>/` and return where that is. A repeat writes the same again.

    Glue takes a package as a zip only: `jobs/<hash>.zip`, beside the folder that SageMaker's jobs read.
    """
    digest = hashlib.sha256()
    for path, body in sorted(files.items()):
        digest.update(f"{path}\0{len(body)}\0".encode() + body)
    name = digest.hexdigest()[:16]
    for path, body in files.items():
        storage.write(bucket, f"jobs/{name}/{path}", body, content_type="text/x-python")
    storage.write(bucket, f"jobs/{name}.zip", zipped(files), content_type="application/zip")
    return {"JobsUri": f"s3://{bucket}/jobs/{name}"}


def zipped(files: dict[str, bytes]) -> bytes:
    """Return the files as a zip that depends on nothing but them."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, body in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(path), body, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def publish_contexts(containers: Path, bucket: str) -> dict[str, str]:
    """Write what each image is built from below `images/<image>/<tag>/`; return where that is, and the tag."""
    published = {}
    for name in content_hash.IMAGES:
        tag = content_hash.content_hash(containers / name)
        for path, body in content_hash.files(containers / name).items():
            storage.write(bucket, f"images/{name}/{tag}/{path}", body, content_type="text/plain")
        published[f"{name.capitalize()}ContextUri"] = f"s3://{bucket}/images/{name}/{tag}"
        published[f"{name.capitalize()}ImageTag"] = tag
    return published


def _respond(url: str, answer: dict[str, Any]) -> None:
    """Send the answer to the presigned URL, which accepts a PUT without a content type.

    Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cfn-lambda-function-code-cfnresponsemodule.html
    """
    body = json.dumps(answer).encode()
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": ""})
    with urllib.request.urlopen(request, timeout=30) as response:
        logger.info("answered CloudFormation", extra={"status": response.status, "answer": answer["Status"]})
