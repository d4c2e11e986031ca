"""`ebb regions`: where a run would have emitted less, with the way of its data counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from rich.markup import escape

from ebb import catalog, names
from ebb import regions as ranking
from ebb.catalog import marginal, transfer
from ebb.regions import Intensity, Place, Work
from ebb_cli import output
from ebb_cli.ledger import Ledger
from ebb_cli.problems import USAGE, CommandError
from ebb_cli.target import Json, Target

AVERAGE = "average"
SIGNALS: dict[str, Intensity] = {AVERAGE: catalog.grid_g_per_kwh, "marginal": marginal.g_per_kwh}
THREADS = 8
# One look per Region; one that is not enabled in the account refuses it, and one that is far takes its time.
PATIENCE = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "max_attempts": 2})
YES, NO, UNKNOWN = "yes", "no", "unknown"

What = Annotated[str, typer.Argument(metavar="[RUN|PROJECT]", help="A run, or a project: its newest one that counts.")]
Signal = Annotated[str, typer.Option("--signal", help="average, the yearly mean of a Region's grid, or marginal.")]
Offline = Annotated[bool, typer.Option("--offline", help="Ask no other Region which machines it has.")]


def regions(
    target: Target, run: What = "latest", signal: Signal = AVERAGE, offline: Offline = False, as_json: Json = False
) -> None:
    """Rank the Regions for a run by what it would emit there, the transfer of its data counted.

    Nothing is moved: the ranking says where to deploy a stack (sam deploy --region NAME). Whether data may leave its
    part of the world is yours to know. Machines are asked for in each Region (EC2's offerings of the same type).
    """
    ledger = Ledger(target)
    document = found(ledger, run)
    done = ranking.work(document, document["stages"], target.region)
    if done is None:
        raise CommandError(f"{document['run_id']} used nothing that is known.", "ebb runs lists others.")
    known = [name for name in offered_regions(target.session) if name in catalog.grid_regions()]
    places = ranking.rank(done, intensity=intensity(signal), among=known)
    machines = {} if offline else available(target, done.machines, [each.region for each in places])
    answer = as_document(document["run_id"], done, places, machines, signal)
    output.emit_json(answer) if as_json else show(answer)


def found(ledger: Ledger, name: str) -> dict[str, Any]:
    """Return the run that is meant: the newest one with a footprint where a project is named, else the one named."""
    if names.is_project(name) and name != "latest":
        counted = (run for run in ledger.runs(name) if run["footprint"] and run["footprint"]["energy_kwh"]["value"])
        newest = next(counted, None)
        if newest is not None:
            name = newest["run_id"]
    document = ledger.run(ledger.resolve(name))
    if document is None:
        raise CommandError(f"The ledger holds no run {name}.", "ebb runs lists them.")
    return document


def intensity(signal: str) -> Intensity:
    """Return what a Region's kWh emits by a signal.

    Raises: CommandError for one that is not known.
    """
    if signal not in SIGNALS:
        raise CommandError(f"There is no signal {signal!r}.", f"Write one of: {', '.join(SIGNALS)}.", status=USAGE)
    return SIGNALS[signal]


def offered_regions(session: Session) -> list[str]:
    """Return the Regions of the partition in which SageMaker is there at all, as the SDK lists them."""
    partition = session.get_partition_for_region(session.region_name or "us-east-1")
    return session.get_available_regions("sagemaker", partition_name=partition)


def available(target: Target, machines: Iterable[str], among: Iterable[str]) -> dict[str, str]:
    """Return for each Region whether it has the machines of the run; unknown where it does not answer.

    EC2 is asked for the type of the same name: SageMaker has no call that says so. That it then also has it is assumed;
    the account's quota for it is another question (Service Quotas, "for training job usage").
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypeOfferings.html
    """
    wanted = sorted({each.removeprefix("ml.") for each in machines})
    make: Any = target.session.client

    def ask(region: str) -> str:
        client = make("ec2", region_name=region, endpoint_url=target.endpoint_url, config=PATIENCE)
        filters = [{"Name": "instance-type", "Values": wanted}]
        try:
            answer = client.describe_instance_type_offerings(Filters=filters)
        except (ClientError, BotoCoreError):
            return UNKNOWN
        there = {each["InstanceType"] for each in answer["InstanceTypeOfferings"]}
        return YES if there.issuperset(wanted) else f"{NO}: {', '.join(sorted(set(wanted) - there))}"

    regions_asked = list(among)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(regions_asked, pool.map(ask, regions_asked), strict=True))


def as_document(
    run_id: str, done: Work, places: list[Place], machines: Mapping[str, str], signal: str
) -> dict[str, Any]:
    """Return what is printed, as plain values."""
    return {
        "run_id": run_id,
        "region": done.region,
        "signal": signal,
        "data_bytes": done.data_bytes,
        "energy_kwh": done.energy_kwh.as_dict(),
        "machines": list(done.machines),
        "regions": [
            {
                **each.as_dict(),
                "pays_after_runs": ranking.pays_after(done, each) if each.region != done.region else None,
                "machines": machines.get(each.region, UNKNOWN),
            }
            for each in places
        ],
        "not_known": ["the price of machines by Region: the catalog holds that of us-east-1"],
        "coefficients": transfer.sources(),
    }


def show(answer: Mapping[str, Any]) -> None:
    """Print the ranking for people."""
    say, home = output.out().print, answer["region"]
    data = output.size(answer["data_bytes"])
    say(f"[bold]{escape(answer['run_id'])}[/] ran in {home}, over {data} of data", soft_wrap=True)
    own = next(each for each in answer["regions"] if each["region"] == home)
    rows = [_cells(number, each, own, home) for number, each in enumerate(answer["regions"], start=1)]
    columns = (
        "",
        "Region",
        "gCO2e (low to high)",
        "against here",
        "g/kWh",
        "way of the data",
        "USD for it",
        "machines",
    )
    output.table("", columns, rows, right=("", "against here", "g/kWh", "USD for it"))
    sure = [each for each in answer["regions"] if each["surely_less"] and not each["machines"].startswith(NO)]
    near = next((each for each in sure if each["same_geography"]), None)
    say("")
    if near:
        say(f"Surely less in the same part of the world: [bold]{near['region']}[/].{_pays(near)}", soft_wrap=True)
    elif sure:
        first = sure[0]["region"]
        say(f"Surely less only elsewhere, first {first}: if the data may leave.{_pays(sure[0])}", soft_wrap=True)
    else:
        say("Nowhere surely less: the bands of the grids overlap, or the way of the data costs more.")
    say(
        "Nothing is moved; sam deploy --region NAME deploys a stack there. Not known: the price of machines by Region "
        "(the catalog's is that of us-east-1).",
        style="dim",
        soft_wrap=True,
    )


def _cells(number: int, place: Mapping[str, Any], own: Mapping[str, Any], home: str) -> tuple[str, ...]:
    whole, base = place["carbon_g"]["value"], own["carbon_g"]["value"]
    here = place["region"] == home
    change = "here" if here else f"{(whole - base) / base:+.0%}" if base else "-"
    colour = "cyan" if here else "green" if place["surely_less"] else None
    name = f"[{colour}]{place['region']}[/]" if colour else str(place["region"])
    way = "-" if here else output.band(place["transfer_g"], "g")
    usd = "unknown" if place["transfer_usd"] is None else output.number(place["transfer_usd"]["value"])
    return (
        str(number), name, output.band(place["carbon_g"], ""), change, output.number(place["grid_g_per_kwh"]["value"]),
        way, usd, escape(place["machines"]),
    )  # fmt: skip


def _pays(place: Mapping[str, Any]) -> str:
    runs = place["pays_after_runs"]
    if not runs or runs < 1:
        return ""
    return f" Moving the data pays after {output.number(runs, 2)} runs over it."
