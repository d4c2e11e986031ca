"""What Ebb knows about AWS's hardware: facts as data, each with its source, year, band and confidence."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ebb import carbon
from ebb.carbon import Band

ACCELERATOR_KINDS = ("gpu", "neuron")


@dataclass(frozen=True)
class Accelerator:
    """The accelerators of an instance, all of one model. Power is of one of them, idle and at full load."""

    model: str
    kind: str  # one of ACCELERATOR_KINDS; names the variant of the jobs image
    count: int
    idle_w: Band
    max_w: Band
    worth_vcpu: Band  # how many vCPUs' training work one does


@dataclass(frozen=True)
class Instance:
    """One SageMaker instance type as the catalog holds it."""

    name: str
    vcpu: int
    memory_gib: float
    processor: str
    price_usd_per_hour: Band
    accelerator: Accelerator | None = None
    architecture: str = "x86_64"
    autoscaling: bool = True
    hosting_only: bool = False

    @property
    def why_not(self) -> str | None:
        """Return why Ebb serves no model on it, None when it does."""
        if self.accelerator:
            return "has an accelerator, which Ebb's serving images do not use"
        if self.architecture != "x86_64":
            return f"is {self.architecture}, and Ebb's serving images are built for x86_64"
        return None if self.autoscaling else "cannot be scaled automatically, so it could not sleep"

    @property
    def serves_ebb(self) -> bool:
        """Return whether Ebb may serve its models on it."""
        return self.why_not is None


@dataclass(frozen=True)
class Processor:
    """Watts per vCPU, idle and at full load."""

    idle_w: Band
    max_w: Band


@dataclass(frozen=True)
class ServingLimits:
    """What each kind of serving takes at most."""

    payload_mb: dict[str, int]  # of one request
    answer_s: dict[str, int]  # for one answer
    serverless_concurrency: int  # of one endpoint
    serverless_concurrency_new_account: int  # of all endpoints together


@dataclass(frozen=True)
class Waking:
    """How long the kinds of serving take to wake and to answer, and what they hold meanwhile."""

    image_pull_s: Band  # serverless, the image of exported models
    large_image_pull_s: Band  # serverless, the image with PyTorch
    warm_s: Band  # how long serverless keeps an idle container
    warm_vcpu_share: Band  # of an idle container's vCPUs what nobody else gets
    instance_s: Band  # until a new instance answers
    large_image_s: Band  # what PyTorch's image adds to that
    component_s: Band  # until a copy on an instance that is up answers
    async_overhead_s: Band  # what S3 and the queue add to an answer
    async_usd_per_request: Band
    batch_start_s: Band  # billed before a batch job's first row
    start_s: Band  # from a container's start to its first answer, the image of exported models
    large_start_s: Band  # the image with PyTorch
    request_s: Band  # of one HTTP request beside the prediction
    unknown_answer_s: Band  # of a model that nobody has timed
    usable_memory_share: float
    busy_share: float


@dataclass(frozen=True)
class Serverless:
    """What a serverless endpoint costs while it answers."""

    usd_per_gib_second: Band
    gib_per_vcpu: Band


def instances() -> tuple[Instance, ...]:
    """Return the instance types that sizing may choose for jobs."""
    return tuple(each for each in hosting() if not each.hosting_only)


@cache
def hosting() -> tuple[Instance, ...]:
    """Return the instance types that can host a model: those of jobs, and those that do nothing else."""
    facts = _facts("instances.yaml")
    return tuple(
        Instance(
            name,
            entry["vcpu"],
            entry["memory_gib"],
            entry["processor"],
            Band.within(entry["price_usd_per_hour"], entry.get("price_band", facts["price"]["band"])),
            _accelerator(entry["accelerator"], entry.get("accelerators", 1)) if "accelerator" in entry else None,
            entry.get("architecture", "x86_64"),
            entry.get("autoscaling", True),
            entry.get("hosting") == "only",
        )
        for name, entry in facts["instances"].items()
    )


def _accelerator(model: str, count: int) -> Accelerator:
    entry = _facts("power.yaml")["accelerators"][model]
    power = (Band.of(entry["idle_w"]), Band.of(entry["max_w"]))
    return Accelerator(model, entry["kind"], count, *power, Band.of(entry["worth_vcpu"]))


def instance(name: str) -> Instance | None:
    """Return one instance type, for jobs or for hosting; None when the catalog does not know it."""
    return next((known for known in hosting() if known.name == name), None)


def build_machine(compute_type: str) -> Instance | None:
    """Return one of CodeBuild's machines, None when the catalog does not know it."""
    entry = _facts("builds.yaml")["machines"].get(compute_type)
    if entry is None:
        return None
    per_hour = Band.of(entry["usd_per_minute"]) * 60
    return Instance(compute_type, entry["vcpu"], entry["memory_gib"], entry["processor"], per_hour)


def spark_worker(worker_type: str) -> tuple[Instance, int] | None:
    """Return one DPU of Glue as a machine, and how many a worker has; None when the catalog does not know the type."""
    facts = _facts("glue.yaml")
    dpu, entry = facts["workers"].get(worker_type), facts["dpu"]
    if dpu is None:
        return None
    price = Band.of(entry["price_usd_per_hour"])
    return Instance("DPU", entry["vcpu"], entry["memory_gib"], entry["processor"], price), int(dpu)


def spark_least_s() -> float:
    """Return the seconds that Glue bills at least."""
    return float(_facts("glue.yaml")["least_s"])


def processor(name: str) -> Processor:
    """Return the power of one kind of processor."""
    entry = _facts("power.yaml")["processors"][name]
    return Processor(Band.of(entry["idle_w"]), Band.of(entry["max_w"]))


def power_w(machine: Instance, *, processors: Band, accelerators: Band) -> Band:
    """Return the mean power of an instance, in watts, from the mean load of its processors and of its accelerators.

        power_w = processors' power + count * (idle_w + load * (max_w - idle_w))
    Source: Cloud Carbon Footprint, methodology, "Compute" and "Graphic processing units".
    """
    each = processor(machine.processor)
    watts = carbon.processor_power_w(machine.vcpu, processors, idle_w=each.idle_w, max_w=each.max_w)
    device = machine.accelerator
    if device is None:
        return watts
    return watts + carbon.processor_power_w(device.count, accelerators, idle_w=device.idle_w, max_w=device.max_w)


def deep_learning_container(kind: str, region: str) -> str | None:
    """Return AWS's PyTorch training container for a kind of accelerator in a Region; None where there is none known."""
    uri = _facts("images.json")["containers"][kind]["uris"].get(region)
    return None if uri is None else str(uri)


def serverless() -> Serverless:
    """Return the price of serverless inference and the processors that come with its memory."""
    entry = _facts("serverless.yaml")
    return Serverless(Band.of(entry["usd_per_gib_second"]), Band.of(entry["gib_per_vcpu"]))


def serving_limits() -> ServingLimits:
    """Return what each kind of serving takes at most, as AWS documents it."""
    return ServingLimits(**{key: _facts("hosting.yaml")["limits"][key] for key in ServingLimits.__dataclass_fields__})


def waking() -> Waking:
    """Return how long each kind of serving takes to wake."""
    facts = _facts("hosting.yaml")
    serverless, instance = facts["serverless"], facts["instance"]
    return Waking(
        image_pull_s=Band.of(serverless["image_pull_s"]),
        large_image_pull_s=Band.of(serverless["large_image_pull_s"]),
        warm_s=Band.of(serverless["warm_s"]),
        warm_vcpu_share=Band.of(serverless["warm_vcpu_share"]),
        instance_s=Band.of(instance["wake_s"]),
        large_image_s=Band.of(instance["large_image_s"]),
        component_s=Band.of(facts["component"]["wake_s"]),
        async_overhead_s=Band.of(facts["async"]["overhead_s"]),
        async_usd_per_request=Band.of(facts["async_usd_per_request"]),
        batch_start_s=Band.of(facts["batch_start_s"]),
        start_s=Band.of(facts["container"]["start_s"]),
        large_start_s=Band.of(facts["container"]["large_start_s"]),
        request_s=Band.of(facts["container"]["request_s"]),
        unknown_answer_s=Band.of(facts["container"]["unknown_answer_s"]),
        usable_memory_share=float(facts["usable_memory_share"]),
        busy_share=float(facts["busy_share"]),
    )


def memory_kwh_per_gib_hour() -> Band:
    """Return the energy of keeping a GiB of memory for an hour."""
    return Band.of(_facts("power.yaml")["memory"]["kwh_per_gib_hour"])


def embodied_g_per_vcpu_hour() -> Band:
    """Return the embodied carbon of a vCPU for an hour of its server's life."""
    return Band.of(_facts("power.yaml")["embodied"]["g_per_vcpu_hour"])


def embodied_g_per_accelerator_hour() -> Band:
    """Return the embodied carbon of an accelerator for an hour of its server's life."""
    return Band.of(_facts("power.yaml")["embodied"]["g_per_accelerator_hour"])


def pue() -> Band:
    """Return the power usage effectiveness of AWS's data centres."""
    return Band.of(_facts("power.yaml")["pue"]["global"])


def water_on_site_l_per_kwh() -> Band:
    """Return the litres that cooling takes for each kWh of the machines themselves."""
    return Band.of(_facts("water.yaml")["on_site"]["l_per_kwh"])


def water_of_electricity_l_per_kwh() -> Band:
    """Return the litres that generating a kWh takes."""
    return Band.of(_facts("water.yaml")["electricity"]["l_per_kwh"])


def grid_g_per_kwh(region: str) -> Band:
    """Return the location-based grid intensity of a Region; the world's average where the Region is not known."""
    grid = _facts("grid.json")
    return Band.within(grid["g_per_kwh"].get(region, grid["unknown_g_per_kwh"]), grid["band"])


def grid_regions() -> tuple[str, ...]:
    """Return the Regions whose grid intensity is known."""
    return tuple(_facts("grid.json")["g_per_kwh"])


def hours_of_day(region: str) -> tuple[float, ...] | None:
    """Return how the 24 hours of a day, in UTC, differ from the mean of a Region's grid; None where nobody has told."""
    found = _facts("hours.yaml")["regions"].get(region)
    return None if found is None else tuple(float(each) for each in found["factors"])


def signal_error(signal: str) -> Callable[[float], float]:
    """Return the stated error of a signal, a share, as a function of the hours ahead.

    error = near + (day - near) * sqrt(hours / 24)
    """
    stated = _facts("signals.yaml")["error"][signal]
    near, day = float(stated["near"]), float(stated["day"])
    return lambda hours: near + (day - near) * (hours / 24) ** 0.5


def sources() -> list[dict[str, str]]:
    """Return where each coefficient comes from, as `ebb why` and the run's record tell it."""
    power, price, grid = map(_facts, ("power.yaml", "instances.yaml", "grid.json"))
    entries = [("processor power (jobs)", power["processors"]["skylake"], "year")]
    entries += [("processor power (serverless)", power["processors"]["serverless"], "year")]
    entries += [("accelerator power", power["accelerators"]["a10g"], "year")]
    entries += [(name, power[name], "year") for name in ("memory", "embodied", "pue")]
    entries += [("water: cooling", _facts("water.yaml")["on_site"], "year")]
    entries += [("water: electricity", _facts("water.yaml")["electricity"], "year")]
    entries += [("grid intensity", grid, "year"), ("instance prices", price["price"], "date")]
    entries += [("serverless price", _facts("serverless.yaml"), "date")]
    entries += [("cold starts", _facts("hosting.yaml")["serverless"], "date")]
    entries += [("image build price", _facts("builds.yaml"), "date")]
    entries += [("Spark price", _facts("glue.yaml"), "date")]
    return [
        {"what": what, "source": entry["source"], "year": str(entry[when])[:4], "confidence": entry["confidence"]}
        for what, entry, when in entries
    ]


@cache
def _facts(name: str) -> dict[str, Any]:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
