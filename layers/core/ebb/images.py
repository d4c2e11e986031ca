"""Container images: what a reference to one in ECR names."""

import re
from dataclasses import dataclass
from typing import Self

_ECR = re.compile(
    r"^(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/"
    r"(?P<repository>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?$"
)


@dataclass(frozen=True)
class EcrImage:
    """One image in a private registry."""

    account: str
    region: str
    repository: str
    tag: str | None
    digest: str | None

    @classmethod
    def of(cls, uri: str) -> Self | None:
        """Return what a reference names, None when it is no image in ECR: a public one needs no permission."""
        found = _ECR.match(uri)
        return cls(**found.groupdict()) if found else None
