"""Compilers besides the job's own: SageMaker Neo and Neuron. What is asked for, what its table holds, what comes of it.

The job's own candidates always compete and one of them is served. What another compiler makes is kept and registered
beside it: only images of AWS's serve it, and nobody has measured it before it is served, so it cannot win a selection.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ebb import catalog, events, footprint, ledger, names, requests
from ebb.catalog import Instance, neo
from ebb.requests import roles
from ebb.settings import StackSettings
from ebb.spec_parts import CompileSpec
from ebb.spec_values import AUTO, NEO, NEURON

# What `compile` hands over to Neo: jobs/ebb_jobs/neo.py.
FRAMEWORK, VERSION = "ONNX", "1.7"
_SOURCE = {NEO: "ebb/catalog/neo.yaml", NEURON: "ebb/catalog/images.json"}
_JOB_ALONE = "the job's own, ONNX Runtime and OpenVINO"
_ENDED_WELL = "COMPLETED"


@dataclass(frozen=True)
class Compiler:
    """What compiles besides the job's own runtimes: nothing when `engine` is None, and `refused` says why it is not."""

    engine: str | None
    target: str | None = None
    reason: str = ""
    refused: str | None = None

    @property
    def settings(self) -> dict[str, str] | None:
        """Return what the job and the later states are told."""
        return {"engine": self.engine, "target": str(self.target)} if self.engine else None

    @property
    def toolchain(self) -> str | None:
        """Return the kind of accelerator whose compiler the job's image must hold."""
        return NEURON if self.engine == NEURON else None


def planned(asked: CompileSpec, trained_on: Instance | None, stack: StackSettings) -> Compiler:
    """Return the compiler for a run; `auto` takes Neuron's where the network is trained on Trainium.

    Neo's table is asked with what the job will hand over, so that what it does not hold costs no job.
    """
    engine, target = asked.engine, asked.target
    if engine == AUTO:
        device = trained_on.accelerator if trained_on else None
        if trained_on is None or device is None or device.kind != NEURON:
            return Compiler(None)
        engine, target = NEURON, _family(trained_on.name)
        reason = f"the network is trained on {trained_on.name}, whose cores run what neuronx-cc compiles"
    else:
        reason = f"compile.engine: {engine} in the spec"
    if engine == NEO:
        why = neo.refusal(FRAMEWORK, VERSION, str(target), stack.region)
        return Compiler(None, target, reason, why) if why else Compiler(NEO, target, reason)
    if engine == NEURON:
        why = _no_toolchain(stack)
        return Compiler(None, target, reason, why) if why else Compiler(NEURON, target, reason)
    return Compiler(None)


def decisions(asked: CompileSpec, compiler: Compiler) -> list[dict[str, Any]]:
    """Return what the plan tells of it; nothing where nobody asked and the job's own compilers are all there is."""
    if compiler.engine is None and compiler.refused is None:
        return []
    if compiler.refused:
        chosen, reason = _JOB_ALONE, f"{compiler.reason}, and {compiler.refused}"
        wanted = asked.engine if asked.engine != AUTO else NEURON
    else:
        wanted = str(compiler.engine)
        with_what = "SageMaker Neo" if wanted == NEO else "neuronx-cc"
        chosen = f"{_JOB_ALONE}; {with_what} for {compiler.target} beside it"
        reason = f"{compiler.reason}; what it makes is registered beside the model that is served"
    return [
        {
            "what": "compiler",
            "chosen": chosen,
            "reason": reason,
            "numbers": {},
            "alternatives": ["the job's own alone (compile.engine: job)"] if compiler.engine else [],
            "source": _SOURCE[wanted],
        }
    ]


def compilation(plan: Mapping[str, Any], report: Mapping[str, Any], stack: StackSettings) -> dict[str, Any] | None:
    """Return the input of `compile_model` for a run, None where there is nothing for Neo to compile.

    `report` is that of `compile`, which says what it packed for Neo or why it could not.
    """
    made = report.get("elsewhere") or {}
    if (plan.get("elsewhere") or {}).get("engine") != NEO or made.get("status") != "made":
        return None
    run_id, bundles = str(plan["run_id"]), str(plan["artifacts"]["bundles"])
    name = names.job(run_id, int(plan["attempt"]), names.NEO)
    return {
        "request": requests.create_compilation_job(
            name=name,
            role_arn=roles.role_arn(stack, str(plan["project"]), "compile"),
            framework=made["framework"],
            model_uri=bundles + made["archive"],
            input_name=made["input"]["name"],
            input_shape=made["input"]["shape"],
            output_uri=f"{bundles}{NEO}/compiled/",
            device=made["target"],
            kms_key=stack.data_key_arn,
            max_runtime_s=neo.max_runtime_s(),
            tags=names.tags(stack.stack, str(plan["project"]), run_id),
        ),
        "job": requests.compilation_job(name),
    }


def stage_fields(job: Mapping[str, Any], *, status: str, attempt: int, region: str) -> dict[str, Any]:
    """Return the ledger's fields of a compilation job, from its Describe response.

    On which machine AWS compiles is not told: its energy is reckoned as that of the catalog's, and nothing is billed.
    """
    started, ended = (events.timestamp(job.get(f"Compilation{end}Time")) for end in ("Start", "End"))
    duration_s = (ended - started).total_seconds() if started and ended else 0.0
    used = footprint.of_job(
        neo.machine(), duration_s=duration_s, billable_s=0.0, load=footprint.UNKNOWN_UTILIZATION, region=region
    )
    return {
        "attempt": attempt,
        "status": status,
        "job_name": job.get("CompilationJobName"),
        "job_arn": job.get("CompilationJobArn"),
        "instance_type": "SageMaker Neo",
        "started_at": ledger.iso(started) if started else None,
        "ended_at": ledger.iso(ended) if ended else None,
        "duration_s": duration_s,
        "billable_s": 0.0,
        "footprint": used.as_dict() if used and duration_s else None,
        "report": {
            "target": (job.get("OutputConfig") or {}).get("TargetDevice"),
            "artifact": _artifact(job),
            "image": job.get("InferenceImage"),
            "machine_assumed": neo.machine(),
        },
    }


def ended_well(job: Mapping[str, Any]) -> bool:
    """Return whether a compilation job left a model."""
    return job.get("CompilationJobStatus") == _ENDED_WELL and bool(_artifact(job))


def outcome(job: Mapping[str, Any], error: str | None, cause: str | None) -> dict[str, Any]:
    """Return, as a decision, what came of the compilation job: its model, or why the run goes on without."""
    status = job.get("CompilationJobStatus")
    target = (job.get("OutputConfig") or {}).get("TargetDevice", "its target")
    if ended_well(job):
        return {
            "what": "model of SageMaker Neo",
            "chosen": f"kept beside the one that is served: {_artifact(job)}",
            "reason": f"compiled for {target}; only {job.get('InferenceImage') or 'an image of Neo'} serves it, and "
            "its speed is not known before",
            "numbers": {},
            "alternatives": [],
        }
    why = job.get("FailureReason") or cause or error
    ended = f"the compilation job was {status} when the run went on" if status else "there is no compilation job"
    return {
        "what": "model of SageMaker Neo",
        "chosen": "none: what the job compiled is registered and served",
        "reason": f"{ended}: {why}" if why else ended,
        "numbers": {},
        "alternatives": [],
    }


def beside(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the registry entry gains by a compiled model, nothing without an image that serves it."""
    image, device = job.get("InferenceImage"), str((job.get("OutputConfig") or {}).get("TargetDevice") or "")
    if not (ended_well(job) and image):
        return {}
    family = f"ml.{device.removeprefix('ml_')}."
    return requests.also_compiled(
        name=device.replace("_", "-"),
        image_uri=str(image),
        model_uri=str(_artifact(job)),
        framework=(job.get("InputConfig") or {}).get("Framework", FRAMEWORK),
        instance_types=[each.name for each in catalog.hosting() if each.name.startswith(family)],
    )


def _artifact(job: Mapping[str, Any]) -> str | None:
    return (job.get("ModelArtifacts") or {}).get("S3ModelArtifacts") or None


def _family(instance_type: str) -> str:
    """Return what neuronx-cc calls the chip of an instance type: ml.trn1n.32xlarge has that of trn1."""
    return instance_type.removeprefix("ml.").split(".")[0].rstrip("n") if ".trn" in instance_type else "inf2"


def _no_toolchain(stack: StackSettings) -> str | None:
    """Return why the compile job cannot have an image with neuronx-cc, None when it can."""
    if not stack.jobs_context_uri:
        return None  # a ready image is named for the jobs: what it holds is found out there
    if catalog.deep_learning_container(NEURON, stack.region) is None:
        return f"the catalog knows no container of AWS with neuronx-cc in {stack.region}"
    return None
