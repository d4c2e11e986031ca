"""Identity: which run would repeat which. The greenest job is the one that never runs."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any


def run_identity(project: str, spec: Mapping[str, Any], jobs_hash: str, contents: Iterable[str]) -> str:
    """Return the name of what a run would compute: the same project, spec, job code and bytes give the same name.

    `contents` are the sources' fingerprints: SHA-256 of the bytes, or above the hashing limit S3's own full-object
    checksum with the size. Names, order and upload times of the objects play no part, nor does the ETag, which under
    SSE-KMS and multipart upload is not a digest of the content.
    With whom features are shared plays none either, only whether they are published: the former is noted whenever a
    drop says it, and asks for no run. Nor does until when the model is wanted, nor what it may take: what a budget has
    made smaller is not remembered as the same work (`record_run`).
    The project counts: another project wants a model and an endpoint of its own.
    """
    asked = spec.get("features") or {}
    counted = {**spec, "features": bool(asked.get("publish") or asked.get("share"))}
    if "carbon" in spec:
        counted["carbon"] = {
            name: value for name, value in spec["carbon"].items() if name not in ("deadline", "budget")
        }
    canonical = json.dumps(
        {"project": project, "spec": counted, "jobs": jobs_hash, "contents": sorted(contents)},
        sort_keys=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def jobs_hash(jobs_uri: str) -> str:
    """Return the content hash that ends the job code's S3 URI."""
    return jobs_uri.rstrip("/").rsplit("/", 1)[-1]
