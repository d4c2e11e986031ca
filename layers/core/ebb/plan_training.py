"""What is asked of a training job besides the training: who watches it, and SageMaker's own debugger and compiler."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ebb import sizing, training_watch, tuning
from ebb.errors import InvalidSpecError, Rejection
from ebb.plan_facts import RunFacts
from ebb.requests import debugger, training_alarms
from ebb.settings import StackSettings
from ebb.spec import PipelineSpec
from ebb.spec_stop import NONE, TORCH_COMPILE, TRAINING_COMPILER
from ebb.training_rules import Rules

# By which the end of such a job is known (WatchedTrainingEndedRule).
WATCHED_TAG = {"Key": "ebb:watched", "Value": "yes"}


def is_watched(run: RunFacts) -> bool:
    """Return whether the training is stopped from outside; Ebb's own recipes stop themselves."""
    return run.spec.train.stop is not None and sizing.trains_itself(run.spec, run.data)


def alarms(run: RunFacts, stack: StackSettings, choice: sizing.Choice) -> list[dict[str, Any]]:
    """Return the alarms that are born with the training job, on whichever of its machines there is.

    That of the budget asks when the dearest of them would have used it; whether this one has is decided then.
    """
    stop = run.spec.train.stop
    if stop is None or not is_watched(run) or "train" in run.finished or tuning.in_jobs(run.spec, run.data.task):
        return []
    rules, types = _rules(run, stack, choice), (choice.instance.name, *choice.otherwise)
    spent = [training_watch.budget_s(stop, each, run.spec.train.instances, stack.region) for each in types]
    return training_watch.alarms(
        stop,
        replace(rules, budget_s=min((each for each in spent if each is not None), default=None)),
        stack=stack.stack,
        max_runtime_s=run.spec.train.max_runtime.total_seconds(),
        tags=[{"Key": "ebb:stack", "Value": stack.stack}, {"Key": "ebb:project", "Value": run.project}],
    )


def with_parts(request: Mapping[str, Any], run: RunFacts, stack: StackSettings, *, output_uri: str) -> dict[str, Any]:
    """Return a CreateTrainingJob request with what the spec asks for besides.

    Raises: InvalidSpecError when Debugger's rules do not run in the stack's Region.
    """
    asked, changed = run.spec.train, dict(request)
    if not sizing.trains_itself(run.spec, run.data):
        return changed
    if asked.stop is not None:
        changed["Tags"] = [*changed["Tags"], WATCHED_TAG]
        if asked.stop.metric_regex:
            definitions = training_alarms.metric_definitions(asked.stop.metric_regex)
            changed["AlgorithmSpecification"] = changed["AlgorithmSpecification"] | {"MetricDefinitions": definitions}
    if asked.debugger is not None:
        parts = debugger.debug_parts(asked.debugger.rules, stack.region, output_uri=output_uri)
        if parts is None:
            rejection = Rejection(
                "no-debugger-here",
                f"SageMaker Debugger's rules are not known to run in {stack.region}",
                column="train.debugger",
                remedy="Remove it, and watch the script's metric with train.stop.",
            )
            raise InvalidSpecError(rejection)
        changed |= parts
    if asked.compiler == TRAINING_COMPILER:
        changed["HyperParameters"] = changed["HyperParameters"] | debugger.COMPILER_HYPERPARAMETERS
    return changed


def levers(spec: PipelineSpec) -> dict[str, Any]:
    """Return the setting by which Ebb's own recipes compile their steps always or never; else they see what pays."""
    wanted = {TORCH_COMPILE: True, NONE: None}
    return {"levers": {"compiled": wanted[spec.train.compiler]}} if spec.train.compiler in wanted else {}


def decisions(run: RunFacts, stack: StackSettings, choice: sizing.Choice) -> list[dict[str, Any]]:
    """Return how the plan tells of it, what is frozen or closed to new customers with its open successor."""
    asked, found = run.spec.train, []
    if "train" in run.finished:
        return []
    scripted = sizing.trains_itself(run.spec, run.data)
    if asked.stop is not None and scripted:
        found.append(training_watch.told(asked.stop, _rules(run, stack, choice), alarms(run, stack, choice)))
    if asked.debugger is not None and scripted:
        found.append(
            {
                "what": "SageMaker Debugger",
                "chosen": ", ".join(asked.debugger.rules),
                "reason": "train.debugger in the spec. It is closed to new customers since 2026-07-30: an account that "
                "has not used it before is refused",
                "numbers": {"rules": len(asked.debugger.rules)},
                "alternatives": ["train.stop: the same judged on a metric of the log, which every account can use"],
                "source": "https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-availability-change.html",
            }
        )
    if asked.compiler == TRAINING_COMPILER:
        found.append(
            {
                "what": "compiler for train",
                "chosen": "SageMaker Training Compiler",
                "reason": "train.compiler in the spec. It gets no new releases: the jobs image (JobsImageUri) must be "
                "made from one of its last ones, PyTorch 1.13.1 or Transformers 4.21.1",
                "numbers": {},
                "alternatives": ["torch.compile, which the script calls itself"],
                "source": "https://docs.aws.amazon.com/sagemaker/latest/dg/training-compiler.html",
            }
        )
    elif asked.compiler != "auto":
        found.append(
            {
                "what": "compiler for train",
                "chosen": asked.compiler,
                "reason": "train.compiler in the spec",
                "numbers": {},
                "alternatives": ["auto: torch.compile where the training is long enough to pay for it"],
            }
        )
    return found


def _rules(run: RunFacts, stack: StackSettings, choice: sizing.Choice) -> Rules:
    assert run.spec.train.stop is not None
    return training_watch.rules_of(
        run.spec.train.stop,
        instance_type=choice.instance.name,
        machines=run.spec.train.instances,
        region=stack.region,
        curve=run.curve,
    )
