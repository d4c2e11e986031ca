"""Look into ECR: are the images there that the jobs and the endpoint start from?"""

from collections.abc import Iterable

from botocore.exceptions import ClientError

from ebb.aws.clients import client
from ebb.errors import ImageMissingError
from ebb.images import EcrImage, Image

_MISSING = {"ImageNotFoundException", "RepositoryNotFoundException"}


def missing(images: Iterable[Image], *, account: str, region: str) -> list[str]:
    """Return the URIs that the registry of this account does not hold and that the account can build.

    Images in other registries are their owners' to look into.
    Raises: ImageMissingError for one that was given ready and is not there: without this a run would pay for machines
    that wait minutes for it.
    """
    found = []
    for image in images:
        named = EcrImage.of(image.uri)
        if named is None or (named.account, named.region) != (account, region) or _is_there(named):
            continue
        if not image.context_uri:
            raise ImageMissingError(
                f"there is no image {image.uri}: push it, or deploy without JobsImageUri and ServeImageUri so that the "
                "account builds its own; then ebb retry"
            )
        found.append(image.uri)
    return found


def _is_there(image: EcrImage) -> bool:
    which = {"imageDigest": image.digest} if image.digest else {"imageTag": image.tag or "latest"}
    try:
        found = client("ecr").describe_images(repositoryName=image.repository, imageIds=[which])
    except ClientError as error:
        if error.response["Error"]["Code"] in _MISSING:
            return False
        raise
    return bool(found["imageDetails"])
