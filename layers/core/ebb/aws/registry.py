"""Look into ECR: are the images there that the jobs and the endpoint start from?"""

from collections.abc import Iterable

from botocore.exceptions import ClientError

from ebb.aws.clients import client
from ebb.errors import ImageMissingError
from ebb.images import EcrImage

_MISSING = {"ImageNotFoundException", "RepositoryNotFoundException"}


def require(uris: Iterable[str], *, account: str, region: str) -> None:
    """Check each image of this account's registry; those elsewhere are their owners' to look into.

    Without this a run would pay for machines that wait minutes for an image which nobody has pushed.
    Raises: ImageMissingError.
    """
    for uri in uris:
        image = EcrImage.of(uri)
        if image and (image.account, image.region) == (account, region) and not _is_there(image):
            raise ImageMissingError(f"there is no image {uri}: make images builds and pushes them, then ebb retry")


def _is_there(image: EcrImage) -> bool:
    which = {"imageDigest": image.digest} if image.digest else {"imageTag": image.tag or "latest"}
    try:
        found = client("ecr").describe_images(repositoryName=image.repository, imageIds=[which])
    except ClientError as error:
        if error.response["Error"]["Code"] in _MISSING:
            return False
        raise
    return bool(found["imageDetails"])
