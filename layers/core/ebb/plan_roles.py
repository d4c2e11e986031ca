"""The roles of a plan: what the jobs of one project may read besides its own, granted place by place."""

from typing import Any

from ebb import names, requests, sources
from ebb.errors import InvalidSpecError, Rejection
from ebb.plan_facts import RunFacts, spark_engine
from ebb.settings import StackSettings

ROLE_POLICY_MAX_CHARS = 10_240  # of all inline policies of a role, and ours have one (IAM quotas)


def role_requests(run: RunFacts, stack: StackSettings) -> list[dict[str, Any]]:
    """Return each role that the run's jobs need, and its one policy.

    Raises: InvalidSpecError when what is to be read elsewhere does not fit a policy.
    """
    elsewhere = _elsewhere(run, stack) if not run.features else {}
    borrowed: dict[str, list[str]] = {}
    if run.features:
        bucket, _, prefix = run.features.curated_uri.removeprefix("s3://").partition("/")
        borrowed[bucket] = [prefix]
    encoder: dict[str, list[str]] = {}
    if run.spec.train.pretrained:
        bucket, _, prefix = run.spec.train.pretrained.removeprefix("s3://").partition("/")
        encoder[bucket] = [prefix]
    granted = {"elsewhere": elsewhere, "features": borrowed, "pretrained": encoder}
    wanted = [
        {
            "create": requests.create_role(stack, run.project, kind),
            "policy": requests.put_role_policy(stack, run.project, kind, **granted),
        }
        for kind in (
            *names.ROLE_KINDS,
            *((names.RECOMMEND,) if run.spec.serve.recommender else ()),
            *((names.SPARK,) if spark_engine(run) else ()),
            *((names.FEATURES,) if run.spec.features.wanted else ()),
        )
    ]
    if any(len(each["policy"]["PolicyDocument"]) > ROLE_POLICY_MAX_CHARS for each in wanted):
        rejection = Rejection(
            "too-many-objects",
            "data.uri has moved, and the objects read before are too many to be granted one by one",
            column="data.uri",
            remedy="Name a folder that holds old and new data, or write data: {mode: replace}.",
        )
        raise InvalidSpecError(rejection)
    return wanted


def _elsewhere(run: RunFacts, stack: StackSettings) -> dict[str, list[str]]:
    """Return what the process role cannot read by itself: the spec's place, and single objects of earlier ones."""
    places: dict[str, list[str]] = {}
    if run.spec.data.uri is not None:
        bucket, _, key = run.spec.data.uri.removeprefix("s3://").partition("/")
        if bucket != stack.landing_bucket or not key.startswith(f"{run.project}/"):
            places[bucket] = [key if sources.is_file(key) else key.rstrip("/") + "/"]
    code = run.spec.train.source
    if code is not None:
        bucket, _, key = code.removeprefix("s3://").partition("/")
        if bucket != stack.landing_bucket or not key.startswith(f"{run.project}/"):
            places.setdefault(bucket, []).append(key)
    for source in run.sources:  # of many objects none stands here: they lie in the drop or at the spec's place
        own = source.bucket == stack.landing_bucket and source.key.startswith(f"{run.project}/")
        granted = places.setdefault(source.bucket, []) if not own else []
        if not own and not any(source.key == each or source.key.startswith(_folder(each)) for each in granted):
            granted.append(source.key)
    return places


def _folder(place: str) -> str:
    return place if place.endswith("/") else place + "\0"  # a key is no folder: nothing starts with it
