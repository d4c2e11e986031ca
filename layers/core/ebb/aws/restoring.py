"""Is everything still there from which an endpoint that is deleted would be made again? Reads no content.

An endpoint runs on what it has fetched: its models, their data and their images may be gone or changed under it without
a trace. CreateEndpoint fetches all of it anew. What cannot be looked at counts as gone, and the reason names the
permission that is missing.
Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpoint.html
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError

from ebb import events
from ebb.aws.clients import client
from ebb.endpoint_world import Body, World
from ebb.errors import EndpointUnreadableError
from ebb.images import EcrImage

DENIED = {"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "403"}
# SageMaker answers for what is not there as for a wrong request (see ebb.aws.endpoints); the others have codes for it.
GONE = {"NoSuchBucket", "RepositoryNotFoundException", "ResourceNotFound", "ValidationException"}
# Of 1,000 objects each, https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html: some seconds of the
# function's minute (assumed: 0.2 s a page). What has more is kept.
MOST_PAGES = 10


class _Refusal(Exception):
    """Why an endpoint could not be made again, in words that an operator can read."""


def missing(world: World) -> str | None:
    """Return why an endpoint could not be made again as it is, None when all that it needs was seen.

    Raises: EndpointUnreadableError when it was not to be known now, but may be in a moment.
    """
    since = _deployed_since(world)
    running = _running(world)
    try:
        for variant in (world.config or {}).get("ProductionVariants", ()):
            for container in _containers(variant["ModelName"]):
                if image := container.get("Image"):
                    _see_image(image, running.get((variant["VariantName"], image)) or container.get("ImageDigest"))
                for uri, etag in _data(container):
                    _see_data(uri, etag, since)
    except _Refusal as refused:
        return f"{refused}: it could not be made again"
    return None


def _deployed_since(world: World) -> datetime | None:
    """Return a moment that what runs now was fetched at or after.

    The last deployment created the endpoint, or changed it to a configuration that was there by then. When it changed
    is not told: LastModifiedTime moves with each scaling and weight too, and data that was written between a deployment
    and a scaling would count as fetched. So what was written between a configuration and its deployment counts as
    written anew, and its endpoint is kept. A configuration younger than the last change was never deployed: it was made
    once more under the same name.
    """
    shown = world.endpoint or {}
    created, changed = (events.timestamp(shown.get(each)) for each in ("CreationTime", "LastModifiedTime"))
    made = world.config_made_at
    if created and made and changed and made <= changed:
        return max(created, made)
    return created


def _running(world: World) -> dict[tuple[str, str], str]:
    """Return which bytes run, by variant and the image that its model names."""
    return {
        (variant["VariantName"], str(image.get("SpecifiedImage"))): image["ResolvedImage"].rpartition("@")[2]
        for variant in world.variants
        for image in variant.get("DeployedImages") or ()
        if "@" in str(image.get("ResolvedImage"))
    }


def _containers(model: str) -> Iterator[Body]:
    """Yield what a model is made of; of a model package, what that is made of."""
    found = _asked("sagemaker", "DescribeModel", f"its model {model}", ModelName=model)
    for container in [found.get("PrimaryContainer"), *found.get("Containers", ())]:
        if not container:
            continue
        yield container
        if package := container.get("ModelPackageName"):
            yield from _of_package(package, container.get("InferenceSpecificationName"))


def _of_package(package: str, named: str | None) -> Iterator[Body]:
    found = _asked("sagemaker", "DescribeModelPackage", f"its model package {package}", ModelPackageName=package)
    more = [each for each in found.get("AdditionalInferenceSpecifications", ()) if each["Name"] == named]
    for specification in [found.get("InferenceSpecification"), *more]:
        yield from (specification or {}).get("Containers", ())


def _data(container: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield where the data of a model lies, and its version where one is named; a prefix ends with a slash."""
    if url := container.get("ModelDataUrl"):
        several = container.get("Mode") == "MultiModel"
        yield (f"{url.rstrip('/')}/" if several else url), container.get("ModelDataETag")
    sources = [container.get("ModelDataSource"), *container.get("AdditionalModelDataSources", ())]
    for source in (each["S3DataSource"] for each in sources if each and "S3DataSource" in each):
        prefix = source.get("S3DataType") == "S3Prefix"
        yield (f"{source['S3Uri'].rstrip('/')}/" if prefix else source["S3Uri"]), source.get("ETag")
        if manifest := source.get("ManifestS3Uri"):
            yield manifest, source.get("ManifestEtag")


def _see_data(uri: str, etag: str | None, since: datetime | None) -> None:
    """See that an object, or one below a prefix, is there, and that all are those that were fetched.

    Which objects lay below a prefix is kept nowhere: that one of them was deleted cannot be known.
    """
    parts = urlsplit(uri)
    bucket, key = parts.netloc, parts.path.lstrip("/")
    if parts.scheme != "s3" or not bucket:
        raise _Refusal(f"its model data {uri} is not named by an s3:// URI, so that nobody has seen that it is there")
    found = list(_below(uri, bucket, key) if key.endswith("/") or not key else _at(uri, bucket, key))
    if not found:
        raise _Refusal(f"its model data {uri} is gone")
    for each in found:
        one = each["Key"] == key
        changed = one and etag is not None and etag.strip('"') != each["ETag"].strip('"')
        if changed or since is None or each["LastModified"] > since:
            which = uri if one else f"{uri} ({each['Key']})"
            raise _Refusal(f"its model data {which} has been written anew since it was fetched")


def _at(uri: str, bucket: str, key: str) -> Iterator[Body]:
    # in the order of their keys: an object comes before all that begin like it
    listed = _listed(uri, bucket, Prefix=key, MaxKeys=1)
    yield from (each for each in listed.get("Contents", ()) if each["Key"] == key)


def _below(uri: str, bucket: str, prefix: str) -> Iterator[Body]:
    """Yield the objects below a prefix, without those that stand for folders."""
    more: dict[str, str] = {}
    for _ in range(MOST_PAGES):
        listed = _listed(uri, bucket, Prefix=prefix, **more)
        yield from (each for each in listed.get("Contents", ()) if not each["Key"].endswith("/"))
        if not listed.get("IsTruncated"):
            return
        more = {"ContinuationToken": listed["NextContinuationToken"]}
    raise _Refusal(f"its model data {uri} is more than {MOST_PAGES * 1000:,} objects, so that not each has been seen")


def _listed(uri: str, bucket: str, **request: Any) -> dict[str, Any]:
    """List objects, which tells what HeadObject does and needs no permission to read what they hold."""
    return _asked("s3", "ListObjectsV2", f"its model data {uri}", f"s3:ListBucket on {bucket}",
                  Bucket=bucket, **request)  # fmt: skip


def _see_image(uri: str, digest: str | None) -> None:
    """See that an image is there, and that its tag still names the bytes that run."""
    image = EcrImage.of(uri)
    if image is None:
        raise _Refusal(f"its image {uri} is not in ECR, so that nobody has seen that it is there")
    which = {"imageDigest": image.digest} if image.digest else {"imageTag": image.tag or "latest"}
    # DescribeImages tells as much, but is not what the registries of AWS's own images let other accounts do: assumed
    found = _asked("ecr", "BatchGetImage", f"its image {uri}", f"ecr:BatchGetImage on {image.repository}",
                   registryId=image.account, repositoryName=image.repository, imageIds=[which])  # fmt: skip
    if not found.get("images"):
        raise _Refusal(f"its image {uri} is gone")
    if digest and digest not in {each["imageId"]["imageDigest"] for each in found["images"]}:
        raise _Refusal(f"its image {uri} is another one by now than the one that runs ({digest})")


def _asked(service: str, action: str, what: str, permission: str | None = None, **request: Any) -> dict[str, Any]:
    """Return what a service tells; what is gone, or may not be looked at, is a refusal."""
    try:
        return dict(getattr(client(service), xform_name(action))(**request))
    except ClientError as error:
        code, told = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in DENIED:
            wanted = permission or f"{service}:{action}"
            raise _Refusal(f"whether {what} is still there may not be looked at ({wanted} is denied)") from error
        if code in GONE:
            raise _Refusal(f"{what} is gone") from error
        raise EndpointUnreadableError(f"{action}: {code}: {told}") from error
    except BotoCoreError as error:
        raise EndpointUnreadableError(f"{action}: {type(error).__name__}") from error
