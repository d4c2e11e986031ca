"""boto3 clients: made on first use, one of each per process, with retries by botocore."""

from functools import cache
from typing import Any

import boto3
from botocore.config import Config

THREADS = 32  # that may call at once: S3 answers a small request in tens of milliseconds, whatever this machine does
_CONFIG = Config(
    retries={"mode": "standard", "max_attempts": 4},
    connect_timeout=5,
    read_timeout=60,
    max_pool_connections=THREADS,
)
# A URL for a bucket whose objects have a key of KMS is signed with version 4, and names the bucket's own Region: what
# comes to the global name of a young bucket S3 sends elsewhere, where the signature does not fit.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html#VirtualHostingBackwardsCompatibility
_OF_SERVICE = {"s3": Config(signature_version="s3v4", s3={"addressing_style": "virtual"})}


@cache
def client(service: str) -> Any:
    """Return the client of a service."""
    make: Any = boto3.client  # typed per service name; ours is a variable
    return make(service, config=_CONFIG.merge(_OF_SERVICE.get(service, Config())))


@cache
def table(name: str) -> Any:
    """Return a DynamoDB table."""
    return boto3.resource("dynamodb", config=_CONFIG).Table(name)


def region() -> str:
    """Return the Region in which this process works."""
    return str(client("s3").meta.region_name)
