"""Deployment: the registry entry of the chosen model, the input of `deploy_model`, and what serving the model takes."""

from collections.abc import Mapping
from typing import Any

from ebb import catalog, footprint, names, requests
from ebb.serving import Choice
from ebb.serving_kinds import Row
from ebb.settings import StackSettings
from ebb.spec_serve import ServeSpec

# Without a latency asked for: an order of magnitude above what was measured, and never below what HTTP itself takes.
LATENCY_ALARM_FACTOR = 10
LATENCY_ALARM_LEAST_S = 0.1
# Of a model that is served as it is nobody has asked anything. Assumed, and said in the decisions of its run.
UNKNOWN_LATENCY_ALARM_S = 10.0
# What serving needs to know of a candidate.
SERVED_FACTS = (
    "name", "image", "memory_mib", "size_bytes", "latency_ms", "end_to_end_latency_ms", "cpu_ms_per_prediction",
    "start_ms",
)  # fmt: skip


def bundle_uri(plan: Mapping[str, Any], candidate: str) -> str:
    """Return where the bundle of a candidate lies."""
    return f"{plan['artifacts']['bundles']}{candidate}/model.tar.gz"


def sample_payload(plan: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return {uri, content_type} of the requests that `compile` packed, None where it knows no rows."""
    told = report.get("sample_payload")
    return {"uri": plan["artifacts"]["bundles"] + told["file"], "content_type": told["content_type"]} if told else None


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
    payload: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the registry entry: the very bytes that are deployed, with their quality and footprint beside them.

    `candidate` is the chosen one of compile's report; without a comparison nothing but its size is known. `payload` is
    that of `sample_payload`.
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
        task=task,
        instance_types=[each.name for each in catalog.hosting() if each.serves_ebb],
        payload_uri=payload["uri"] if payload else None,
        image_uri=image_uri(stack, candidate),
        bundle_uri=bundle_uri(plan, name),
        report_uri=plan["artifacts"]["compile_report"],
        metadata=metadata,
        token=bundle_uri(plan, name),  # a retry of the run registers the same bytes, once
    )


def assumptions(candidate: Mapping[str, Any], serve: ServeSpec, row: Row) -> list[dict[str, Any]]:
    """Return, as decisions, what was assumed about a candidate that nobody has asked anything."""
    if footprint.is_timed(candidate):
        return []
    loaded = candidate.get("memory_mib")
    told = "nothing is known of its memory" if loaded is None else f"loading took {float(loaded):.0f} MiB"
    limit_s = latency_limit_s(candidate, serve)
    memory = [
        {
            "what": "memory of the endpoint",
            "chosen": f"{row.memory_mb or row.component_mb} MB",
            "reason": "serve.memory_mb asks for it" if serve.memory_mb else f"{told}, answering was not tried",
            "numbers": {},
            "alternatives": [] if serve.memory_mb else ["another size with serve.memory_mb"],
        }
    ]
    latency: list[dict[str, Any]] = [
        {
            "what": "limit of the latency alarm",
            "chosen": f"{limit_s:g} s",
            "reason": "serve.p95_latency asks for it" if serve.p95_latency else "its latency was not measured",
            "numbers": {},
            "alternatives": [] if serve.p95_latency else ["another limit with serve.p95_latency"],
        }
    ]
    sized = row.memory_mb or row.component_mb  # an asynchronous endpoint has its instance to itself
    return (memory if sized else []) + (latency if row.kind == "serverless" else [])


def deploy_input(
    plan: Mapping[str, Any],
    *,
    candidate: Mapping[str, Any],
    choice: Choice,
    serve: ServeSpec,
    payload: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the input of `deploy_model` for the chosen model of a run; it plans the rest when its turn has come.

    `load_test` names the one that may run meanwhile: who stops the deployment has to stop that too.
    """
    known = {name: candidate[name] for name in SERVED_FACTS if candidate.get(name) is not None}
    return {
        "project": plan["project"],
        "kind": choice.kind,
        "reason": choice.reason,
        **({"load_test": names.load_test(plan["run_id"], plan["attempt"])} if serve.recommender else {}),
        "model": {
            "run_id": plan["run_id"],
            "attempt": plan["attempt"],
            "generation": plan["generation"],
            "bundle_uri": bundle_uri(plan, candidate["name"]),
            "candidate": known,
            **({"sample_payload": dict(payload)} if payload and serve.recommender else {}),
        },
    }


def latency_limit_s(candidate: Mapping[str, Any], serve: ServeSpec) -> float:
    """Return what the latency alarm allows: what was asked for, or an order of magnitude above what was measured."""
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
