"""Rollout: how deploy_model brings a model to its address as any kind, and how it takes that back. Pure.

The new one is brought up beside what serves, or in its place where SageMaker itself does that (serverless and
asynchronous endpoints are updated); then the address is switched, then it is watched, then what it supersedes is
deleted. It is watched after the switch: a component that nobody reaches yet cannot fail. What goes wrong puts the
address, the endpoint's configuration and the alarms back as they were. One deployment of a project at a time: its
claim holds this whole plan, from which a stopped deployment is undone.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field

from ebb import (
    addresses,
    capture,
    catalog,
    config_names,
    deployment,
    footprint,
    keep_alive_habits,
    ledger,
    names,
    requests,
    serving,
    serving_kinds,
    serving_model,
    serving_sizes,
)
from ebb.addresses import Address, IdlePolicy, Kind
from ebb.events import Message
from ebb.requests import alarms, components, hosting, roles, scaling
from ebb.settings import StackSettings
from ebb.spec_parts import RetrainSpec
from ebb.spec_serve import ServeSpec
from ebb.spec_values import SERVERLESS_MEMORY_MB

IN_PLACE: tuple[Kind, ...] = ("serverless", "async")  # SageMaker brings the new one up beside the old by itself
WITH_COMPONENT: tuple[Kind, ...] = ("realtime", "shared")
# Longer than any deployment: its waits are bounded to an hour and a half each, but for the watch.
CLAIM_STALE_AFTER = timedelta(hours=6)
CHANGING_STALE_AFTER = timedelta(hours=1)  # what sleeps or wakes longer than this is not waited for
WATCH_BUSY_S = 300  # where there were calls in the last hour and the spec does not say
LONGEST_CALL_S = 60  # a request that the old one has taken is answered within this: InvokeEndpoint
IDLE_ALARM_AFTER = keep_alive_habits.SHORTEST  # without idle_after the alarm only asks; ebb.keep_alive decides
LEAST_CORES = 0.25  # InferenceComponentComputeResourceRequirements.NumberOfCpuCoresRequired
ASYNC_CONCURRENCY = 4  # requests that one instance of an asynchronous endpoint works on at once; assumed
OURS = re.compile(r"-[0-9]{14}-[0-9a-f]{6,10}-a[0-9]+(-[0-9a-f]{6})?$")


class Model(Message):
    """A model of a run, ready to be served: what `select_candidate` chose, or what a project serves already."""

    run_id: str
    attempt: int = Field(ge=1)
    generation: int = Field(ge=0)
    bundle_uri: str
    candidate: dict[str, Any]
    sample_payload: dict[str, str] | None = None  # {uri, content_type}: only where a load test is asked for


def served_model(served: Mapping[str, Any], run: Mapping[str, Any], generation: int) -> Model:
    """Return the model that a project serves, from the ledger's `served` and its run."""
    found: Mapping[str, Any] = next(
        (each for each in run.get("candidates", ()) if each["name"] == served["candidate"]), {}
    )
    return Model(
        run_id=served["run_id"],
        attempt=run["attempt"],
        generation=generation,
        bundle_uri=served["bundle_uri"],
        candidate={"name": served["candidate"], **found},
    )


@dataclass(frozen=True)
class Wanted:
    """What is to be reached at a project's address."""

    project: str
    run_id: str
    attempt: int
    generation: int
    row: serving_kinds.Row  # the kind that was chosen, and how it is set up
    reason: str
    serve: ServeSpec
    candidate: Mapping[str, Any]
    bundle_uri: str
    choice: Mapping[str, Any] = field(default_factory=dict)  # the table of kinds that it was chosen from
    retrain: RetrainSpec = field(default_factory=RetrainSpec)  # what of its calls is noted, and when that is an alarm

    @property
    def kind(self) -> Kind:
        """Return the kind of endpoint."""
        return self.row.kind


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as SageMaker describes it."""

    name: str
    status: str
    config: str
    model: str | None = None  # none stands in the variant of an endpoint with components


@dataclass(frozen=True)
class Seen:
    """What is there before a deployment."""

    address: Address | None = None
    endpoint: Endpoint | None = None  # the one that the wanted kind would have
    superseded: Endpoint | None = None  # the one behind the address
    alarms: Sequence[Mapping[str, Any]] = ()  # the address's, as PutMetricAlarm takes them
    ringing: Sequence[str] = ()  # the names of those that are in ALARM
    calls_last_hour: float = 0.0


def wanted(
    project: str,
    model: Model,
    choice: serving.Choice,
    serve: ServeSpec,
    *,
    retrain: RetrainSpec | None = None,
    reason: str | None = None,
) -> Wanted:
    """Return what is to be reached at a project's address: a model as the kind that was chosen for it."""
    return Wanted(
        project=project,
        run_id=model.run_id,
        attempt=model.attempt,
        generation=model.generation,
        row=choice.row,
        reason=reason or choice.reason,
        serve=serve,
        candidate=model.candidate,
        bundle_uri=model.bundle_uri,
        choice=choice.decision(),
        retrain=retrain or RetrainSpec(),
    )


def hold(
    project: Mapping[str, Any], address: Address | None, *, generation: int, execution: str, now: datetime
) -> dict[str, Any] | None:
    """Return why a deployment may not begin now: it is outdated, or it waits for another one, for sleep or for waking.

    None when it may. The new one is brought up awake also where the old one sleeps: what was never seen to answer is
    not worth an address, and its own idle alarm puts it to sleep again.
    """
    if int(project.get("deployed_generation") or 0) > generation:
        return {"action": "none", "reason": "a newer run of the project claimed the endpoint"}
    other = project.get("deploying")
    if other and other != execution and not _stale(project.get("deploying_since"), CLAIM_STALE_AFTER, now):
        return {"action": "wait", "reason": f"{other} deploys at the moment"}
    changing = address is not None and address.state in (addresses.WAKING, addresses.FALLING_ASLEEP)
    if address and changing and not _stale(address.changed_at, CHANGING_STALE_AFTER, now):
        return {"action": "wait", "reason": f"the endpoint is {address.state}"}
    return None


def already(wanted: Wanted, address: Address | None) -> bool:
    """Return whether a move has nothing to do: the same model is served as this kind."""
    return (
        address is not None
        and address.state != addresses.FAILED
        and (address.kind, address.run_id) == (wanted.kind, wanted.run_id)
    )


def endpoint_name(stack: StackSettings, wanted: Wanted) -> str | None:
    """Return the SageMaker endpoint that the wanted kind is served by; none for batch."""
    if wanted.kind == "batch":
        return None
    if wanted.kind == "shared":
        return names.shared_endpoint(stack.stack, str(wanted.row.instance_type))
    return names.endpoint_of_kind(stack.stack, wanted.project, wanted.kind)


def build(
    stack: StackSettings, wanted: Wanted, seen: Seen, project: Mapping[str, Any], *, execution: str, now: datetime
) -> dict[str, Any]:
    """Return everything that deploy_model sends, creation and undoing alike."""
    return _Rollout(stack, wanted, seen, project, execution, now).plan()


@dataclass(frozen=True)
class _Rollout:
    stack: StackSettings
    wanted: Wanted
    seen: Seen
    project: Mapping[str, Any]
    execution: str
    now: datetime

    def plan(self) -> dict[str, Any]:
        kind, at = self.wanted.kind, self.at
        return {
            "action": "deploy",
            "reason": self.wanted.reason,
            "project": self.wanted.project,
            "run_id": self.wanted.run_id,
            "kind": kind,
            "address": at.address,
            "endpoint_name": at.endpoint_name,
            "watch_s": self.watch_s if at.endpoint_name and not self.watched_by_aws else 0,
            "drain_s": self.drain_s,
            **self.claims(),
            "logs": self.logs(),
            "log_tags": {each["Key"]: each["Value"] for each in self.lasting_tags},
            **({"model": self.create_model()} if not self.has_model else {}),
            **({"endpoint": self.endpoint()} if at.endpoint_name else {}),
            **({"component": self.component()} if kind in WITH_COMPONENT else {}),
            "scaling": self.scaling(),
            "alarms": self.alarms,
            "watched": [str(each["AlarmName"]) for each in self.alarms if self.is_failing(each)],
            "switch": self.switch(),
            "superseded": self.superseded(),
            "undo": self.undo(),
        }

    # ---- Names ----

    @property
    def token(self) -> str:
        """What tells two deployments of one model apart."""
        return hashlib.sha256(self.execution.encode()).hexdigest()[:6]

    @property
    def model_name(self) -> str:
        """The model that serves already, when only its kind changes; else the run's own."""
        serving = self.seen.address
        if serving and serving.model_name and serving.run_id == self.wanted.run_id:
            return serving.model_name
        return names.execution(self.wanted.run_id, self.wanted.attempt)

    @property
    def has_model(self) -> bool:
        there = {self.seen.superseded.model if self.seen.superseded else None}
        there |= {self.seen.address.model_name if self.seen.address else None}
        return self.model_name in there

    @property
    def config_name(self) -> str:
        """Of a run's own deployment that of the model; of a later one, one of its own."""
        own = names.execution(self.wanted.run_id, self.wanted.attempt)
        return own if self.execution == own else f"{own}-{self.token}"

    @property
    def component_name(self) -> str:
        named = names.component(self.stack.stack, self.wanted.project, self.wanted.generation)
        own = names.execution(self.wanted.run_id, self.wanted.attempt)
        return named if self.execution == own else f"{named}-{self.token}"

    @property
    def tags(self) -> list[dict[str, str]]:
        return names.tags(self.stack.stack, self.wanted.project, self.wanted.run_id)

    @property
    def lasting_tags(self) -> list[dict[str, str]]:
        """Of what outlives a run."""
        return names.tags(self.stack.stack, self.wanted.project)

    # ---- What it is sized for ----

    @property
    def copies(self) -> int:
        return self.wanted.row.copies or 1

    @property
    def most(self) -> int:
        return max(self.copies, self.wanted.row.max_copies or 1)

    @property
    def busy(self) -> bool:
        return self.seen.calls_last_hour > 0

    @property
    def watch_s(self) -> int:
        asked = self.wanted.serve.watch
        return int(asked.total_seconds()) if asked is not None else WATCH_BUSY_S if self.busy else 0

    @property
    def drain_s(self) -> int:
        """How long after the watch what is superseded is left to end the requests that it has taken."""
        return max(0, LONGEST_CALL_S - self.watch_s) if self.busy and self.replaced else 0

    @property
    def watched_by_aws(self) -> bool:
        """Whether SageMaker itself goes back upon an alarm, while its update lasts."""
        return self.wanted.kind == "async" and self.updates and bool(self.rollback_on)

    @property
    def rollback_on(self) -> list[str]:
        """The alarm that SageMaker watches; not one that rings already, for the model that this one repairs."""
        name = alarms.alarm_name(self.at.address, alarms.ERRORS)
        return [name] if name in self.alarm_names and name not in self.seen.ringing else []

    @property
    def updates(self) -> bool:
        return self.wanted.kind in IN_PLACE and self.seen.endpoint is not None

    @property
    def replaced(self) -> Address | None:
        """What serves until now and is not the same endpoint or component."""
        before = self.seen.address
        same = before and (before.endpoint_name, before.component) == (self.at.endpoint_name, self.at.component)
        return None if same else before

    @property
    def at(self) -> Address:
        """The address as it will be."""
        wanted, serve = self.wanted, self.wanted.serve
        kind = wanted.kind
        row = wanted.row
        first = row.instance_type if kind not in ("serverless", "batch") else None
        policy = IdlePolicy(
            sleeps=serve.availability != "high",
            idle_after_s=int(serve.idle_after.total_seconds()) if serve.idle_after else None,
            cold_start=serve.cold_start,
            queue_for_s=int(serve.queue_for.total_seconds()),
        )
        return Address(
            address=names.endpoint(self.stack.stack, wanted.project),
            project=wanted.project,
            kind=kind,
            endpoint_name=endpoint_name(self.stack, wanted),
            variant=hosting.VARIANT,
            component=self.component_name if kind in WITH_COMPONENT else None,
            model_name=self.model_name,
            run_id=wanted.run_id,
            instance_type=first,
            instance_types=tuple(dict.fromkeys([first, *row.instance_types])) if first else (),
            copies=self.copies,
            policy=policy,
            in_service_since=self.now,
            **self.remembered(),
            reason=wanted.reason,
            **self.awake(first),
        )

    def remembered(self) -> dict[str, Any]:
        """What the address goes on knowing of its calls, whatever model answers them."""
        before, kind, asked = self.seen.address, self.wanted.kind, self.wanted.retrain.capture
        same = before is not None and before.kind == kind
        component = self.component_name if kind in WITH_COMPONENT else None
        earlier = (before.component, *before.earlier_components) if before and component else ()
        return {
            "kind_since": (before.kind_since or before.in_service_since or self.now) if before and same else self.now,
            "earlier_components": tuple(dict.fromkeys(each for each in earlier if each and each != component))[
                : addresses.MOST_EARLIER
            ],
            "memory_mb": self.wanted.row.component_mb if component else self.wanted.row.memory_mb,
            "idle_window_s": before.idle_window_s if before else None,
            "capture_days": capture.keep_days(asked.keep) if asked else before.capture_days if before else None,
            "cold_wakes": before.cold_wakes if before else (),
        }

    def awake(self, instance_type: str | None) -> dict[str, Any]:
        """What it takes by the hour while it is awake: a component among others has its share of the instance."""
        machine = catalog.instance(instance_type) if instance_type else None
        if machine is None:
            return {}
        share = float(self.copies)
        if self.wanted.kind == "shared":
            share *= min(1.0, (self.wanted.row.component_mb or 0) / (machine.memory_gib * serving_model.MIB_PER_GIB))
        waits = footprint.WAITING_UTILIZATION
        watts = catalog.power_w(machine, processors=waits, accelerators=waits).value
        watts += machine.memory_gib * catalog.memory_kwh_per_gib_hour().value * 1000
        return {
            "awake_usd_per_hour": round(machine.price_usd_per_hour.value * share, 6),
            "awake_watts": round(watts * share, 3),
        }

    # ---- Claim: one deployment at a time, and none of an older run ----

    def claims(self) -> dict[str, Any]:
        key = {"Key": ledger.project_key(self.wanted.project)}
        mine = {":me": self.execution}
        held = {"ConditionExpression": "deploying = :me", "ExpressionAttributeValues": mine}
        seen = int(self.project.get("deployments") or 0)
        claim = {
            **key,
            "UpdateExpression": (
                "SET previous_generation = if_not_exists(deployed_generation, :none), "
                "deployed_generation = :generation, claimed_by = :run, deploying = :me, deploying_since = :now, "
                "deployments = :count, deployment = :plan"
            ),
            # What was planned upon may have changed since: then it is planned again.
            "ConditionExpression": (
                "(attribute_not_exists(deployed_generation) OR deployed_generation <= :generation) "
                "AND (attribute_not_exists(deploying) OR deploying IN (:me, :seen)) "
                "AND (attribute_not_exists(deployments) OR deployments = :before)"
            ),
            "ExpressionAttributeValues": {
                **mine,
                ":generation": self.wanted.generation,
                ":none": 0,
                ":run": self.wanted.run_id,
                ":now": ledger.iso(self.now),
                ":seen": str(self.project.get("deploying") or self.execution),
                ":before": seen,
                ":count": seen + 1,
            },
        }
        bodies = {
            "claim": claim,
            "confirm": {**key, "UpdateExpression": "SET confirmed_by = :me", **held},
            "replan": {**key, "UpdateExpression": "SET deployment = :plan", **held},
            "commit": {**key, "UpdateExpression": "SET committed_by = :me", **held},
            "release": {
                **key,
                "UpdateExpression": (
                    "SET deployed_generation = previous_generation REMOVE deploying, deploying_since, deployment"
                ),
                **held,
            },
            "finish": {**key, "UpdateExpression": "REMOVE deploying, deploying_since, deployment", **held},
        }
        return {name: ledger.as_action(self.stack.ledger_table, body) for name, body in bodies.items()}

    # ---- What is brought up ----

    def logs(self) -> list[dict[str, Any]]:
        """Where SageMaker writes what containers say, and how long that is kept where requests are noted.

        Source: https://docs.aws.amazon.com/sagemaker/latest/dg/logging-cloudwatch.html
        """
        before = self.seen.address
        return capture.logs(self.at, self.wanted.retrain.capture, before.capture_days if before else None)

    def create_model(self) -> dict[str, Any]:
        wanted = self.wanted
        return requests.create_model(
            name=self.model_name,
            role_arn=roles.role_arn(self.stack, wanted.project, "model"),
            image_uri=deployment.image_uri(self.stack, wanted.candidate),
            bundle_uri=wanted.bundle_uri,
            environment={
                "EBB_RUN_ID": wanted.run_id,
                "EBB_CANDIDATE": wanted.candidate["name"],
                **capture.environment(wanted.retrain.capture, self.at.address),
            },
            tags=self.tags,
        )

    def endpoint(self) -> dict[str, Any]:
        """The endpoint's requests; `update` only where it is there and serves the model itself."""
        name = str(self.at.endpoint_name)
        shared = self.wanted.kind == "shared"
        tags = names.tags(self.stack.stack, "shared") if shared else self.lasting_tags
        watch_s = self.watch_s if self.watched_by_aws else 0 if self.wanted.kind == "async" else None
        update = requests.update_endpoint(
            name=name, config_name=self.config_name, watch_s=watch_s, rollback_on=self.rollback_on
        )
        return {
            "name": name,
            "config": self.config_name,
            "create_config": self.create_config(tags),
            "create": requests.create_endpoint(name=name, config_name=self.config_name, tags=tags),
            **({"update": update} if self.wanted.kind in IN_PLACE else {}),
        }

    def create_config(self, tags: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        wanted, at = self.wanted, self.at
        common: dict[str, Any] = {"name": self.config_name, "kms_key": self.stack.data_key_arn}
        if wanted.kind == "serverless":
            return requests.create_endpoint_config(
                **common,
                model_name=self.model_name,
                memory_mb=wanted.row.memory_mb or SERVERLESS_MEMORY_MB[-1],
                max_concurrency=wanted.row.max_concurrency or serving_sizes.LEAST_CONCURRENCY,
                tags=self.tags,
            )
        if wanted.kind == "async":
            place = f"s3://{self.stack.artifact_bucket}/answers/{at.address}"
            return requests.create_async_endpoint_config(
                **common,
                model_name=self.model_name,
                instance_type=str(at.instance_type),
                instances=self.copies,
                output_uri=place,
                failure_uri=f"{place}/failures",
                concurrency=ASYNC_CONCURRENCY,
                tags=self.tags,
            )
        # Twice the copies, so that the next model comes up beside this one; an instance without a copy goes again.
        return requests.create_component_endpoint_config(
            **common,
            role_arn=roles.role_arn(self.stack, wanted.project, "model"),
            instance_type=str(at.instance_type),
            instances=self.copies,
            least=0,
            most=2 * self.most,
            tags=tags,
        )

    def component(self) -> dict[str, Any]:
        row = self.wanted.row
        return components.create_inference_component(
            name=self.component_name,
            endpoint=str(self.at.endpoint_name),
            model_name=self.model_name,
            memory_mib=row.component_mb or serving_sizes.COMPONENT_LEAST_MB,
            cores=row.component_vcpu or LEAST_CORES,
            copies=self.copies,
            spread=self.wanted.serve.availability == "high",
            tags=self.tags,
        )

    def scaling(self) -> list[dict[str, Any]]:
        """What lets AWS wake it without Ebb; nothing for what never sleeps."""
        at = self.at
        if at.kind not in addresses.SLEEPABLE or not at.policy.sleeps:
            return []
        return [
            {
                "target": scaling.register_scalable_target(at, most=self.most),
                "policy": scaling.put_scaling_policy(at),
            }
        ]

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """At most two, and that of drift where the spec asks for it; each named after the address."""
        at, tags = self.at, self.lasting_tags
        actions = [self.stack.notifications_topic_arn] if self.stack.notifications_topic_arn else []
        if at.kind == "batch":
            return []
        made = [alarms.errors(at, actions=actions, tags=tags)]
        if at.kind == "serverless":
            limit_s = deployment.latency_limit_s(self.wanted.candidate, self.wanted.serve)
            made.append(alarms.latency(at, limit_s=limit_s, actions=actions, tags=tags))
        elif at.policy.sleeps:
            made.append(alarms.idle(at, window=self.wanted.serve.idle_after or IDLE_ALARM_AFTER, tags=tags))
        retrain = self.wanted.retrain
        if retrain.capture and retrain.drift:
            made.append(alarms.drift(at, psi=retrain.drift.psi, actions=actions, tags=tags))
        return made

    # ---- The switch, and what goes after it ----

    def switch(self) -> dict[str, Any]:
        """Refused when the address has changed since the plan, which holds what would be put back."""
        told = {"deployed_by": self.execution, "deployed_generation": self.wanted.generation}
        request = _also(addresses.put(self.at, now=self.now), told | {"choice": dict(self.wanted.choice)})
        before = self.seen.address
        if before:
            request["ExpressionAttributeValues"][":seen"] = before.generation
        unchanged = "#generation = :seen" if before else "attribute_not_exists(#generation)"
        request["ConditionExpression"] = (
            "(attribute_not_exists(deployed_generation) OR deployed_generation <= :deployed_generation) "
            # of two writes whose first answer was lost, the second changes nothing more
            f"AND ({unchanged} OR deployed_by = :deployed_by)"
        )
        return ledger.as_action(self.stack.ledger_table, request)

    def superseded(self) -> list[dict[str, Any]]:
        """What is deleted once the new one serves, in this order; what no run of the project made is left alone."""
        before, found = self.seen.address, self.seen.superseded
        gone: list[dict[str, Any]] = []
        if self.replaced:
            gone += _behind(self.replaced, found, keep=self.at.endpoint_name)
        elif found and found.config != self.config_name:
            had = config_names.configs_of(found.config, before.instance_types if before else ())
            ours = any(self.is_ours(each) for each in had)
            gone += [{"what": "config", "name": each} for each in had if ours and each != self.config_name]
        model = before.model_name if before else found.model if found else None
        if model and model != self.model_name and self.is_ours(model):
            gone.append({"what": "model", "name": model})
        stale = sorted(self.alarm_names - {str(each["AlarmName"]) for each in self.alarms})
        return gone + ([{"what": "alarms", "names": stale}] if stale else [])

    def undo(self) -> dict[str, Any]:
        """What puts back what was: the address, the endpoint's configuration, the alarms; and what is deleted."""
        before, made = self.seen.address, self.endpoint() if self.at.endpoint_name else None
        gone: list[dict[str, Any]] = []
        if self.scaling() and not (before and self.replaced is None):
            gone.append({"what": "target", **scaling.deregister_scalable_target(self.at)})
        if self.wanted.kind in WITH_COMPONENT:
            gone.append({"what": "component", "name": self.component_name})
        if made and self.seen.endpoint is None:
            gone.append({"what": "endpoint", "name": made["name"], "config": self.config_name, "queue": []})
        elif made:
            gone.append({"what": "config", "name": self.config_name})
        if not self.has_model:
            gone.append({"what": "model", "name": self.model_name})
        fresh = sorted({str(each["AlarmName"]) for each in self.alarms} - self.alarm_names)
        gone += [{"what": "alarms", "names": fresh}] if fresh else []
        gone += [{"what": "address", "request": self.forget_address()}] if before is None else []
        return {
            **({"address": self.put_back(before)} if before else {}),
            "earlier_config": self.seen.endpoint.config if self.updates and self.seen.endpoint else "",
            # Tags for one made anew. The one that wakes it has not been touched: it belongs to what sleeps.
            "alarms": [{**each, "Tags": self.lasting_tags} for each in self.seen.alarms if not self.is_wake(each)],
            "delete": gone,
        }

    def put_back(self, before: Address) -> dict[str, Any]:
        """The address as it was. What slept and is updated in its place has capacity then: the sweep wakes that."""
        request = _also(addresses.put(before, now=self.now), {"deployed_by": "put back"})
        request["ExpressionAttributeValues"][":state"] = before.state
        request["ConditionExpression"] = "deployed_by = :mine"
        request["ExpressionAttributeValues"][":mine"] = self.execution
        return ledger.as_action(self.stack.ledger_table, request)

    def forget_address(self) -> dict[str, Any]:
        request = {
            "Key": addresses.key(self.at.address),
            "ConditionExpression": "deployed_by = :mine",
            "ExpressionAttributeValues": {":mine": self.execution},
        }
        return ledger.as_action(self.stack.ledger_table, request)

    def is_failing(self, alarm: Mapping[str, Any]) -> bool:
        """Say whether an alarm tells that the model fails: silence and drift undo no deployment."""
        asks = (alarms.IDLE, alarms.DRIFT)
        return str(alarm["AlarmName"]) not in [alarms.alarm_name(self.at.address, what) for what in asks]

    def is_wake(self, alarm: Mapping[str, Any]) -> bool:
        return str(alarm["AlarmName"]) == alarms.alarm_name(self.at.address, alarms.WAKE)

    @property
    def alarm_names(self) -> set[str]:
        return {str(each["AlarmName"]) for each in self.seen.alarms}

    def is_ours(self, name: str) -> bool:
        """<project>-<time>-<hash>-a<attempt>: made by a run of this project."""
        found = OURS.search(name)
        return found is not None and name[: found.start()] == self.wanted.project


def _behind(before: Address, found: Endpoint | None, *, keep: str | None) -> list[dict[str, Any]]:
    """Return what stands behind an address, as it is deleted; an endpoint goes with its last component only."""
    gone: list[dict[str, Any]] = []
    if before.kind in addresses.SLEEPABLE:
        gone.append({"what": "target", **scaling.deregister_scalable_target(before)})
    if before.component:
        gone.append({"what": "component", "name": before.component})
    if before.endpoint_name and before.endpoint_name != keep and found:
        queue = [{"Name": "EndpointName", "Value": before.endpoint_name}] if before.kind == "async" else []
        gone.append({"what": "endpoint", "name": before.endpoint_name, "config": found.config, "queue": queue})
        if before.kind != "shared":  # woken without capacity of its type, it has had others
            had = config_names.configs_of(found.config, before.instance_types)
            gone += [{"what": "config", "name": each} for each in had if each != found.config]
    return gone


def _also(request: ledger.Request, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return an update that sets some fields more."""
    more = ", ".join(f"#{name} = :{name}" for name in fields)
    return {
        **request,
        "UpdateExpression": request["UpdateExpression"].replace("SET ", f"SET {more}, ", 1),
        "ExpressionAttributeNames": request["ExpressionAttributeNames"] | {f"#{name}": name for name in fields},
        "ExpressionAttributeValues": request["ExpressionAttributeValues"]
        | {f":{name}": value for name, value in fields.items()},
    }


def _stale(since: datetime | str | None, after: timedelta, now: datetime) -> bool:
    moment = datetime.fromisoformat(since.replace("Z", "+00:00")) if isinstance(since, str) else since
    return moment is None or now - moment > after
