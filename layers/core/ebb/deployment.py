"""Deployment: the registry entry of the chosen model and the input of `deploy_model`, as complete request bodies."""

from collections.abc import Mapping
from typing import Any

from ebb import footprint, names, requests
from ebb.addresses import Address
from ebb.requests import roles
from ebb.settings import StackSettings
from ebb.spec import SERVERLESS_MEMORY_MB, ServeSpec

# Small on purpose: new accounts have been given 10 for all serverless endpoints together, whatever the guide says.
MAX_CONCURRENCY = 5
# Without a latency asked for: an order of magnitude above what was measured, and never below what HTTP itself takes.
LATENCY_ALARM_FACTOR = 10
LATENCY_ALARM_LEAST_S = 0.1
# Of a model that is served as it is nobody has asked anything. Assumed, and said in the decisions of its run.
UNKNOWN_LATENCY_ALARM_S = 10.0
UNKNOWN_MEMORY_MB = 4096
UNASKED_MEMORY_FACTOR = 2  # what it takes to answer, over what it took to load


def bundle_uri(plan: Mapping[str, Any], candidate: str) -> str:
    """Return where the bundle of a candidate lies."""
    return f"{plan['artifacts']['bundles']}{candidate}/model.tar.gz"


def package_group(stack: StackSettings, project: str) -> dict[str, Any]:
    """Return the group that holds every registered model of a project."""
    return requests.create_model_package_group(
        name=names.endpoint(stack.stack, project),
        description=f"Models that Ebb made for the project {project}",
        tags=names.tags(stack.stack, project),
    )


def image_uri(stack: StackSettings, candidate: Mapping[str, Any]) -> str:
    """Return the image that a candidate is served on: one with its own code needs what its script was trained with."""
    return stack.jobs_image_uri if candidate.get("image") == "jobs" else stack.serve_image_uri


def kind_of(task: str, candidate: Mapping[str, Any]) -> str:
    """Return what a candidate takes, as the model registry tells it: that of its task, or of the user's own code."""
    if candidate.get("image") == "jobs":
        return "as-is"
    return {"custom": "tensors", "image-classification": "image", "text-classification": "text"}.get(task, "tabular")


def package(
    stack: StackSettings,
    plan: Mapping[str, Any],
    *,
    task: str,
    candidate: Mapping[str, Any],
    metric: str | None,
    comparison: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the registry entry: the very bytes that are deployed, with their quality and footprint beside them.

    `candidate` is the chosen one of compile's report; without a comparison nothing but its size is known.
    """
    name = candidate["name"]
    metadata = {
        "ebb-run": plan["run_id"],
        "ebb-candidate": name,
        "size-bytes": str(candidate["size_bytes"]),
    } | (_figures(comparison["shipped"], str(metric)) if comparison else {})
    return requests.create_model_package(
        group=names.endpoint(stack.stack, plan["project"]),
        description=f"{name} of run {plan['run_id']}",
        kind=kind_of(task, candidate),
        image_uri=image_uri(stack, candidate),
        bundle_uri=bundle_uri(plan, name),
        report_uri=plan["artifacts"]["compile_report"],
        metadata=metadata,
        token=bundle_uri(plan, name),  # a retry of the run registers the same bytes, once
    )


def memory_mb(candidate: Mapping[str, Any], serve: ServeSpec) -> int:
    """Return the memory size of a candidate's serverless endpoint: asked for, measured, or assumed on the safe side."""
    known = candidate.get("memory_mib")
    if serve.memory_mb is not None:
        return serve.memory_mb
    if known is None:
        return UNKNOWN_MEMORY_MB
    if footprint.is_timed(candidate):
        return footprint.serverless_memory_mb(float(known))
    most_mib = SERVERLESS_MEMORY_MB[-1] - footprint.HEADROOM_MIB
    return footprint.serverless_memory_mb(max(float(known), min(float(known) * UNASKED_MEMORY_FACTOR, most_mib)))


def assumptions(candidate: Mapping[str, Any], serve: ServeSpec) -> list[dict[str, Any]]:
    """Return, as decisions, what was assumed about a candidate that nobody has asked anything."""
    if footprint.is_timed(candidate):
        return []
    loaded = candidate.get("memory_mib")
    told = "nothing is known of its memory" if loaded is None else f"loading took {float(loaded):.0f} MiB"
    limit_s = _latency_limit_s(candidate, serve)
    return [
        {
            "what": "memory of the endpoint",
            "chosen": f"{memory_mb(candidate, serve)} MB",
            "reason": "serve.memory_mb asks for it" if serve.memory_mb else f"{told}, answering was not tried",
            "numbers": {},
            "alternatives": [] if serve.memory_mb else ["another size with serve.memory_mb"],
        },
        {
            "what": "limit of the latency alarm",
            "chosen": f"{limit_s:g} s",
            "reason": "serve.p95_latency asks for it" if serve.p95_latency else "its latency was not measured",
            "numbers": {},
            "alternatives": [] if serve.p95_latency else ["another limit with serve.p95_latency"],
        },
    ]


def deploy_input(
    stack: StackSettings, plan: Mapping[str, Any], *, candidate: Mapping[str, Any], serve: ServeSpec
) -> dict[str, Any]:
    """Return the input of `deploy_model`: every request that it may send, creation and its undoing alike."""
    project, run_id = plan["project"], plan["run_id"]
    name, endpoint = names.execution(run_id, plan["attempt"]), names.endpoint(stack.stack, project)
    tags = names.tags(stack.stack, project, run_id)
    return {
        "run_id": run_id,
        "project": project,
        "generation": plan["generation"],
        "requests": {
            "claim": claim(stack.ledger_table, project, run_id, plan["generation"]),
            "release": release(stack.ledger_table, project, run_id, plan["generation"]),
            "model": requests.create_model(
                name=name,
                role_arn=roles.role_arn(stack, project, "model"),
                image_uri=image_uri(stack, candidate),
                bundle_uri=bundle_uri(plan, candidate["name"]),
                environment={"EBB_RUN_ID": run_id, "EBB_CANDIDATE": candidate["name"]},
                tags=tags,
            ),
            "endpoint_config": requests.create_endpoint_config(
                name=name,
                model_name=name,
                memory_mb=memory_mb(candidate, serve),
                max_concurrency=MAX_CONCURRENCY,
                kms_key=stack.data_key_arn,
                tags=tags,
            ),
            # The endpoint outlives its runs, so it is tagged with the project only.
            "create_endpoint": requests.create_endpoint(
                name=endpoint, config_name=name, tags=names.tags(stack.stack, project)
            ),
            "update_endpoint": requests.update_endpoint(name=endpoint, config_name=name),
            "describe": {"EndpointName": endpoint},
            "alarms": alarms(stack, project, candidate=candidate, serve=serve),
            "delete_endpoint": {"EndpointName": endpoint},
            "delete_endpoint_config": {"EndpointConfigName": name},
            "delete_model": {"ModelName": name},
        },
    }


def alarms(
    stack: StackSettings, project: str, *, candidate: Mapping[str, Any], serve: ServeSpec
) -> list[dict[str, Any]]:
    """Return the alarms that are born with an endpoint: it fails, or it is slow."""
    tags = names.tags(stack.stack, project)
    at = Address(
        address=names.endpoint(stack.stack, project),
        kind="serverless",
        endpoint_name=names.endpoint_of_kind(stack.stack, project, "serverless"),
    )
    actions = [stack.notifications_topic_arn] if stack.notifications_topic_arn else []
    return [
        requests.alarms.errors(at, actions=actions, tags=tags),
        requests.alarms.latency(at, limit_s=_latency_limit_s(candidate, serve), actions=actions, tags=tags),
    ]


def _latency_limit_s(candidate: Mapping[str, Any], serve: ServeSpec) -> float:
    if serve.p95_latency:
        return serve.p95_latency.total_seconds()
    if not footprint.is_timed(candidate):
        return UNKNOWN_LATENCY_ALARM_S
    return max(LATENCY_ALARM_LEAST_S, LATENCY_ALARM_FACTOR * float(footprint.answering_ms(candidate)["p99"]) / 1000)


def _figures(shipped: Mapping[str, Any], metric: str) -> dict[str, str]:
    million = shipped["per_million"]
    return {
        "metric": metric,
        "quality-validation": f"{shipped['quality']['validation']:.6g}",
        "quality-test": f"{shipped['quality']['test']:.6g}",
        "latency-p50-ms": f"{footprint.answering_ms(shipped)['p50']:.6g}",
        "energy-kwh-per-million": f"{million['energy_kwh']['value']:.6g}",
        "carbon-g-per-million": f"{million['carbon_g']['value']:.6g}",
        "cost-usd-per-million": f"{million['cost_usd']['value']:.6g}",
    }


def claim(table: str, project: str, run_id: str, generation: int) -> dict[str, Any]:
    """Return the UpdateItem by which a run takes the endpoint; refused when a newer run has it."""
    return {
        "TableName": table,
        "Key": _project_key(project),
        "UpdateExpression": (
            "SET previous_generation = if_not_exists(deployed_generation, :none), "
            "deployed_generation = :generation, claimed_by = :run"
        ),
        "ConditionExpression": (
            "attribute_not_exists(deployed_generation) OR deployed_generation < :generation "
            "OR (deployed_generation = :generation AND claimed_by = :run)"
        ),
        "ExpressionAttributeValues": {
            ":generation": {"N": str(generation)},
            ":none": {"N": "0"},
            ":run": {"S": run_id},
        },
    }


def release(table: str, project: str, run_id: str, generation: int) -> dict[str, Any]:
    """Return the UpdateItem by which a failed deployment gives the endpoint back; refused when a newer run has it."""
    return {
        "TableName": table,
        "Key": _project_key(project),
        "UpdateExpression": "SET deployed_generation = previous_generation",
        "ConditionExpression": "deployed_generation = :generation AND claimed_by = :run",
        "ExpressionAttributeValues": {":generation": {"N": str(generation)}, ":run": {"S": run_id}},
    }


def _project_key(project: str) -> dict[str, Any]:
    return {"pk": {"S": f"PROJECT#{project}"}, "sk": {"S": "PROJECT"}}
