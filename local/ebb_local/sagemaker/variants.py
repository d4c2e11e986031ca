"""The variants of an endpoint as its record keeps them: what was configured, the model as it was, counts and weights.

{"variant": the ProductionVariant, "model": its model or None (inference components), "current": instances that run,
 "desired": instances wanted, "weight": share of the requests}
"""

from typing import Any

from ebb_local.sagemaker import images, models, state
from ebb_local.sagemaker.errors import validation_exception

Entry = dict[str, Any]


def endpoint(name: str) -> state.Record:
    """Return an endpoint's record, or raise as AWS does."""
    record = state.endpoints.get(name)
    if record is None:
        raise validation_exception(f'Could not find endpoint "{state.arn("endpoint", name)}".')
    return record


def snapshot(config: state.Record) -> list[Entry]:
    """Keep what is served, so that it can be started again after its configuration or model was deleted."""
    return [
        completed({
            "variant": variant,
            "model": state.public(models.find(variant["ModelName"])) if variant.get("ModelName") else None,
        })
        for variant in config["ProductionVariants"]
    ]  # fmt: skip


def completed(entry: Entry) -> Entry:
    """Return an entry with its counts and its weight; those of the configuration where it has none yet."""
    count = 0 if serverless(entry) else entry["variant"].get("InitialInstanceCount", 0)
    weight = float(entry["variant"].get("InitialVariantWeight", 1.0))
    return {"current": count, "desired": count, "weight": weight, **entry}


def name(entry: Entry) -> str:
    """Return the variant's name."""
    return entry["variant"]["VariantName"]


def serverless(entry: Entry) -> bool:
    """Return whether the variant has no instances."""
    return bool(entry["variant"].get("ServerlessConfig"))


def hosts_components(entry: Entry) -> bool:
    """Return whether the variant offers instances to inference components."""
    return entry["model"] is None


def find(record: state.Record, wanted: str) -> Entry | None:
    """Return a variant of an endpoint by name."""
    return next((entry for entry in record["_variants"] if name(entry) == wanted), None)


def instances(record: state.Record) -> int:
    """Return how many instances of an endpoint run."""
    return sum(entry["current"] for entry in record["_variants"])


def carry_on(new: list[Entry], old: list[Entry], excluded: set[str]) -> list[Entry]:
    """Return new entries with the counts and weights of the variants of the same name (RetainAllVariantProperties)."""
    kept = {name(entry): entry for entry in old}
    return [_carried(entry, kept.get(name(entry)), excluded) for entry in new]


def summary(entry: Entry, status: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return how DescribeEndpoint shows a variant."""
    variant = entry["variant"]
    shown: dict[str, Any] = {
        "VariantName": name(entry),
        "CurrentWeight": entry["weight"],
        "DesiredWeight": entry["weight"],
        "CurrentInstanceCount": entry["current"],
    }
    if entry["model"] is not None:
        image = models.container_of(entry["model"])["Image"]
        shown["DeployedImages"] = [{"SpecifiedImage": image, "ResolvedImage": images.digest(image)}]
    if status:
        shown["VariantStatus"] = status
    if serverless(entry):
        return shown | {"CurrentServerlessConfig": variant["ServerlessConfig"]}
    kept = {key: variant[key] for key in ("ManagedInstanceScaling", "RoutingConfig") if variant.get(key)}
    return shown | kept | {"DesiredInstanceCount": entry["desired"]}


def _carried(entry: Entry, old: Entry | None, excluded: set[str]) -> Entry:
    if old is None or serverless(entry) or serverless(old):
        return entry
    if "DesiredInstanceCount" not in excluded:
        entry = entry | {"current": old["current"], "desired": old["desired"]}
    return entry if "DesiredWeight" in excluded else entry | {"weight": old["weight"]}
