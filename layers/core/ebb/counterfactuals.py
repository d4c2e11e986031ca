"""What would have changed a decision: the figure at which it turns, or the field of the spec that turns it. Pure.

Whoever decides may say so itself, in the field `would_change` of the decision; what is said here is drawn from the
figures that the decision was judged on, so it never knows more than the decision did. Of what is merely counted, as
rows that are equal, it says that other data would change it and nothing else.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ebb import catalog, figures, serving, sizing

Decision = Mapping[str, Any]
Rule = Callable[[Decision, str], Iterator[str]]

COUNTED = "other data: this is counted in them, not chosen"
_WH = re.compile(r"^(?P<name>\S+): (?P<wh>[\d.e-]+) Wh expected$")
_GAIN = re.compile(r"(?P<gain>[+-][\d.]+) \((?P<low>[+-][\d.]+) to (?P<high>[+-][\d.]+)\) against (?P<other>\S+):")
_TIMES = re.compile(r"take (?P<ratio>[\d.]+) times as long as .*; (?P<what>\w+) from (?P<from>[\d.]+) on")
_LOST = re.compile(r"(?P<lost>[\d.]+) may be lost$")
_SHARE = re.compile(r"rarest class has (?P<share>[\d.]+)% .* (?P<even>[\d.]+)%")
_FLOOR = re.compile(r"^(?P<name>[^:]+): (?P<why>.* the floor .*)$")
_TIMES_ENERGY = re.compile(r"^(?P<name>[^:]+): takes (?P<times>[\d.e+]+) times the energy")


def of(decision: Decision) -> tuple[str, ...]:
    """Return what would have changed a decision, most telling first; empty where nobody can say."""
    told = decision.get("would_change") or decision.get("changes")
    if told:
        return (told,) if isinstance(told, str) else tuple(str(each) for each in told)
    what = str(decision.get("what", ""))
    for pattern, rule in _RULES:
        found = pattern.fullmatch(what)
        if found:
            return tuple(rule(decision, found.groups()[0] if found.groups() else ""))
    return ()


def _instance(decision: Decision, stage: str) -> Iterator[str]:
    """An estimate within the noise of estimates is no difference: the cheapest of those is taken."""
    numbers, chosen = _numbers(decision), str(decision["chosen"])
    mine = _float(numbers.get("expected_energy_wh"))
    found = next(filter(None, (_WH.match(str(each)) for each in decision.get("alternatives") or ())), None)
    if mine and found:
        other, name = float(found["wh"]), found["name"]
        limit = mine / (1 + sizing.ESTIMATE_NOISE_SHARE)
        away = f"{figures.number(other)} Wh against {figures.number(mine)} Wh now"
        if other < mine:
            yield f"{name}, if {chosen} took above {1 + sizing.ESTIMATE_NOISE_SHARE:.2g} times its energy: {away}"
        else:
            yield f"{name}, if it took less than {figures.number(limit)} Wh, or less than now at a lower price: {away}"
    machine, needed = catalog.instance(chosen), _float(numbers.get("expected_memory_gib"))
    if machine and needed:
        yield f"a larger type from {machine.memory_gib:g} GiB of memory on; {figures.number(needed)} GiB are expected"
    if stage in sizing.TRAINING:
        yield "train.instance in the spec names another"


def _engine(decision: Decision, _: str) -> Iterator[str]:
    numbers = _numbers(decision)
    text, most = _float(numbers.get("text_gib")), _float(numbers.get("largest_text_gib"))
    if text is not None and most is not None:
        yield f"Spark on Glue from {figures.number(most)} GiB of text on; there are {figures.number(text)}"
    elif numbers.get("workers"):
        yield "DuckDB on one machine, if less text were there"
    yield "process.engine in the spec names the other, for plain tables"


def _candidate(decision: Decision, _: str) -> Iterator[str]:
    """The leanest above the floor is shipped: it turns with the floor, and with what is leaner."""
    numbers = _numbers(decision)
    floor = _float(numbers.get("floor"))
    quality = next((_float(each) for name, each in numbers.items() if name.endswith("_validation")), None)
    if floor is not None and quality is not None:
        yield (
            f"a floor beyond {figures.number(quality, 4)} would refuse it: the floor is {figures.number(floor, 4)}, "
            f"and a smaller compress.max_metric_drop by {figures.number(abs(quality - floor), 2)} moves it there"
        )
    cpu_ms = _float(numbers.get("cpu_ms_per_prediction"))
    if cpu_ms is not None:
        yield f"another above the floor that takes clearly less than {figures.number(cpu_ms)} CPU-ms a prediction"
    others = [str(each) for each in decision.get("alternatives") or ()]
    if found := next(filter(None, map(_FLOOR.match, others)), None):
        yield f"a looser compress.max_metric_drop lets {found['name']} compete: {found['why']}"
    near = [(float(each["times"]), each["name"]) for each in map(_TIMES_ENERGY.match, others) if each]
    if near:
        times, name = min(near)
        yield f"{name}, if it took less energy than this one; it takes {times:g} times as much"


def _champion(decision: Decision, _: str) -> Iterator[str]:
    if decision["chosen"] == "yes":
        yield "a served model that is better on the same newest rows, beyond what chance explains"
    else:
        yield "validation that is not worse than the served model's on the same rows"
        yield "ebb drop --force serves it all the same"


def _serving(decision: Decision, _: str) -> Iterator[str]:
    """Where the energy of serverless, which follows its requests, meets that of an instance, which does not."""
    rows = {str(each["kind"]): each for each in decision.get("table") or ()}
    numbers, chosen = _numbers(decision), str(decision["chosen"])
    mine, asked = _month_kwh(rows.get(chosen)), _float(numbers.get("requests_per_day"))
    possible = {name: _month_kwh(row) for name, row in rows.items() if not row.get("excluded") and name != chosen}
    dearer = {name: kwh for name, kwh in possible.items() if kwh is not None}
    if chosen == "serverless" and mine and asked and dearer:
        name = min(dearer, key=lambda each: dearer[each])
        if dearer[name] > mine:
            meets = asked * dearer[name] / mine
            yield (
                f"{name} from about {figures.number(meets, 2)} requests a day on: serverless then takes its "
                f"{figures.number(dearer[name])} kWh a month ({figures.number(asked)} requests a day are reckoned with)"
            )
    elif mine is not None and dearer:
        name = min(dearer, key=lambda each: dearer[each])
        limit = mine / (1 + serving.NOISE_SHARE)
        yield f"{name}, if it took less than {figures.number(limit)} kWh a month: {figures.number(dearer[name])} now"
    fields = sorted({str(one["field"]) for row in rows.values() for one in row.get("excluded") or ()} - {"serve.kind"})
    if fields:
        yield f"other values of {', '.join(fields)}, which exclude kinds"
    yield "serve.kind in the spec names another"


def _rung(decision: Decision, _: str) -> Iterator[str]:
    found = _GAIN.search(str(decision.get("reason")))
    taken = ", taken" in str(decision.get("chosen"))
    if found:
        low = float(found["low"])
        if taken:
            yield f"a gain over {found['other']} that chance explains: its lower bound is {low:+.4f}, and 0 turns it"
        else:
            yield (
                f"a gain over {found['other']} beyond chance: its lower bound is {low:+.4f} and must be above 0, "
                "by better answers or by more validation rows"
            )
    elif taken:
        yield "a dearer recipe whose gain over it has a lower bound above 0"
    yield "train.rungs in the spec bounds the ladder"


def _ladder(decision: Decision, _: str) -> Iterator[str]:
    found = _GAIN.search(str(decision.get("reason")))
    if found:
        yield (
            f"a next recipe whose gain over {found['other']} has a lower bound above 0; "
            f"it was {float(found['low']):+.4f} for a gain of {float(found['gain']):+.4f}"
        )
    yield "train.rungs in the spec, more or fewer"


def _precision(decision: Decision, _: str) -> Iterator[str]:
    found = _TIMES.search(str(decision.get("reason")))
    if found:
        side = "below" if float(found["ratio"]) >= float(found["from"]) else "from"
        yield f"a ratio of the steps' times {side} {found['from']} on this machine; it was {found['ratio']}"
    else:
        yield "a processor or accelerator with other units"


def _metric(decision: Decision, _: str) -> Iterator[str]:
    if found := _SHARE.search(str(decision.get("reason"))):
        yield (
            f"another share of the rarest class, now {found['share']} % where even classes have {found['even']} %: "
            "accuracy is for classes that are about even"
        )
    yield "train.metric in the spec names another"


def _floor(decision: Decision, _: str) -> Iterator[str]:
    numbers = _numbers(decision)
    original, drop = _float(numbers.get("original")), _float(numbers.get("max_metric_drop"))
    if original is not None and drop is not None:
        yield f"compress.max_metric_drop, now {drop:g}: the floor lies so far from {figures.number(original, 4)}"
    else:
        yield "compress.max_metric_drop in the spec"


def _ahead(decision: Decision, _: str) -> Iterator[str]:
    numbers = _numbers(decision)
    saved, loading = _float(numbers.get("saved_p50_ms")), _float(numbers.get("loading_p50_ms"))
    if saved is None or loading is None:
        yield "other times measured on the machine that compiles"
        return
    quick, slow = min(saved, loading), max(saved, loading)
    yield (
        f"the other form, if it answered as quickly: {figures.number(slow, 4)} against {figures.number(quick, 4)} ms "
        "a row here, and what it takes to load"
    )


def _smaller(decision: Decision, _: str) -> Iterator[str]:
    loss = _float(_numbers(decision).get("may_lose"))
    allowed = _LOST.search(str(decision.get("reason")))
    if loss is not None and allowed:
        limit = float(allowed["lost"])
        if loss <= limit:
            yield f"a smaller one, if it lost no more than {limit:g} too; this one may lose {figures.number(loss, 2)}"
        else:
            yield f"this size is the best tried and may lose {figures.number(loss, 2)}; {limit:g} would let it compete"
    yield "compress.max_metric_drop, or compress.budget for more tries"


def _work(decision: Decision, _: str) -> Iterator[str]:
    if decision["chosen"] == "run":
        yield "a successful run of the same bytes, spec and job code: then no job is started"
    else:
        yield "any change to the bytes, the spec or the job code"
        yield "ebb drop --force runs it again"


def _spot(decision: Decision, _: str) -> Iterator[str]:
    if decision["chosen"] == "spot":
        yield "train.spot: false in the spec, or a script that promises no checkpoints"
    else:
        yield "train.spot: true, with train.checkpoints where a script trains"


def _images(decision: Decision, _: str) -> Iterator[str]:
    yield "nothing, once they are built: the next run with the same code finds them in the registry"


def _deployed(decision: Decision, _: str) -> Iterator[str]:
    deployed = decision["chosen"] == "deployed"
    yield "a served model that is better on the newest rows" if deployed else "ebb deploy serves it from the registry"


def _stopped(decision: Decision, _: str) -> Iterator[str]:
    rule = str(decision["chosen"])
    yield {
        "plateau": "a gain beyond noise within train.stop.plateau, or a longer one",
        "target": "a train.stop.target that was not reached yet",
        "budget": "a larger train.stop.budget",
        "divergence": "values that stay finite and near the best, or train.stop.divergence: false",
        "predicted loser": "a curve that reaches the last run's, or train.stop.loser: false",
    }.get(rule, "another train.stop in the spec")


def _window(decision: Decision, _: str) -> Iterator[str]:
    """A run waits while a later hour is predicted to emit less, and never beyond its deadline."""
    numbers = _numbers(decision)
    error, saved = _float(numbers.get("stated_error")), _float(numbers.get("saved_g"))
    if str(decision["chosen"]).startswith("waits") and saved is not None:
        off = f"; the forecast may be off by {error:.0%}" if error is not None else ""
        yield f"a next look at which no later hour emits less; {figures.number(saved)} g are promised now{off}"
    else:
        yield "a forecast in which a later hour emits clearly less"
    latest = numbers.get("latest_begin")
    yield "carbon.deadline in the spec" + (f", which makes {latest} the latest beginning" if latest else "")


def _budget(decision: Decision, _: str) -> Iterator[str]:
    yield "another carbon.budget in the spec, what other runs give back, or the turn of the month"


def _retraining(decision: Decision, _: str) -> Iterator[str]:
    yield "drift, or a loss that could be won back, on the other side of what a training is predicted to take"
    yield "retrain.drift in the spec"


def _load_test(decision: Decision, _: str) -> Iterator[str]:
    yield "other latencies or prices measured by the load test, or serve.recommender: false"


def _saying(*lines: str) -> Rule:
    def rule(decision: Decision, _: str) -> Iterator[str]:
        yield from lines

    return rule


def _named(field: str, *more: str) -> Rule:
    return _saying(*more, f"{field} in the spec")


def _numbers(decision: Decision) -> Mapping[str, Any]:
    return decision.get("numbers") or {}


def _float(value: Any) -> float | None:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    return number if number is not None and math.isfinite(number) else None


def _month_kwh(row: Mapping[str, Any] | None) -> float | None:
    return _float(((row or {}).get("month") or {}).get("energy_kwh", {}).get("value"))


_RULES: tuple[tuple[re.Pattern[str], Rule], ...] = tuple(
    (re.compile(pattern), rule)
    for pattern, rule in (
        (r"instance for (\w+)", _instance),
        ("engine for process", _engine),
        ("candidate to ship", _candidate),
        ("replacing the served model", _champion),
        ("kind of serving", _serving),
        (r"rung .+", _rung),
        ("ladder", _ladder),
        ("precision", _precision),
        ("metric", _metric),
        ("floor", _floor),
        (r"compile .+", _ahead),
        (r"(student|pruned) size", _smaller),
        ("work", _work),
        ("capacity for train and compress", _spot),
        ("images to build", _images),
        ("deployment", _deployed),
        ("training stopped from outside", _stopped),
        ("stop training from outside", _named("train.stop")),
        ("right-sizing", _load_test),
        (r"when \w+ runs", _window),
        (
            "what waits for a low-carbon window",
            _named("carbon.deadline", "another stage that is predicted to cost most"),
        ),
        ("budget", _budget),
        ("retraining", _retraining),
        ("spec", _saying("a pipeline.yaml beside the data, or another one")),
        ("data", _named("data.mode", "other objects under the drop")),
        ("training script", _named("train.entry_point or train.source", "another script in the drop")),
        ("script", _named("train.entry_point or train.source")),
        ("format", _saying("files of another form")),
        ("target", _named("data.target", "another column or folder that looks like the answer")),
        ("task", _named("task", "a target of another kind")),
        ("input", _named("data.input")),
        ("group", _named("data.group")),
        (
            r"geometry|duplicates|contradictions|tokens|rows to learn from|sample|held-out rows|left out",
            _saying(COUNTED),
        ),
        ("split", _named("data.group", "data that come split already")),
        (r"target scale|target means of .+", _saying(COUNTED)),
        (r"recipes|first rung", _named("train.rungs", "another task or size of the data")),
        (r"(?:tuning|search over the recipe|capacity for the search)", _named("train.tune")),
        ("start", _saying("the same columns and classes as the served model's, or not")),
        ("stop", _named("train.epochs", "a curve that goes on gaining, or ceases to")),
        (r"pretrained encoder|tokens of the encoder", _named("train.pretrained")),
        ("machines for train", _named("train.instances")),
        (r"order of machines for .+", _named("train.spot or train.instance")),
        (r"capacity refused for .+", _saying("capacity of the machine asked for first, when it was asked for")),
        (r"last \w+ was .+", _saying("another use of the machine by the last run")),
        ("stages to repeat", _saying("another spec, job code or data: then none is taken over")),
        ("student lesson", _named("compress.methods", "the better validation of the two lessons")),
        ("methods", _named("compress.methods")),
        ("heat", _saying("other times of the short look: what is slower and no better in it does not race")),
        (r"(?:latency|throughput|energy) baseline", _saying("another count of threads that is better on this machine")),
        ("features", _named("data.features", "columns of other values: only what can be learned from is used")),
        (r"model of the stopped script|code/inference.py|as-is", _saying("what the script leaves behind")),
        (r"features to register|features registered", _named("features.publish")),
        (r"compiler|model of SageMaker Neo|for .+ on .+", _named("compile.engine and compile.target")),
        ("compiler for train", _named("train.compiler")),
        ("SageMaker Debugger", _named("train.debugger")),
        ("memory of the endpoint", _named("serve.memory_mb")),
        ("limit of the latency alarm", _named("serve.p95_latency")),
        ("table in the Data Catalog", _saying("another schema of the processed rows")),
        ("asked for, not acted on yet", _saying("a version that acts on these fields")),
    )
)
