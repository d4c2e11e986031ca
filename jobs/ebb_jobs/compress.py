"""Stage `compress`: the original network in; smaller candidates out, as ONNX."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ebb_jobs import (
    dataset,
    durations,
    feeding,
    fitting,
    gpu,
    kinds,
    networks,
    paths,
    quality,
    search,
    train,
    usage,
)
from ebb_jobs.candidates import METHODS, Bench, affordable
from ebb_jobs.dataset import Split
from ebb_jobs.errors import InputMissingError, JobError
from ebb_jobs.kind import Codec, Kind
from ebb_jobs.networks import Network
from ebb_jobs.report import Report, cpu_count

MIN_BUDGET_S = 15.0
PRUNED_SHARES = (0.5, 0.3)
"""Shares of the channels to take away, the strong first: the weaker only when the strong one may lose too much."""
MANY_ROWS = 10_000
LESSON_SHARE = 0.5
"""Of the original's training work, for each lesson of a student of many rows."""
SMALL_NETWORKS_OVERHEAD = 3.0
"""A multiplication of a small network takes so many times as long to train as one of a large one: measured, 2 to 4."""
MOST_EPOCHS = 12
NEARLY, MOST_LESSONS = 2.0, 4
"""A network that may lose up to so many times what may be lost learns on, in so many lessons in all."""
NOT_FOR = {
    "linear": {
        "distill": "the original is linear: no network answers with less",
        "prune": "the original is linear: its weights are one layer",
        "quantize": "the original is linear: it answers in less time than 8 bits would save",
    },
    "trees": {
        "distill": "the original are trees: the ladder's networks have learned from the labels themselves",
        "prune": "the original are trees: boosting has ended where more of them did not help",
        "quantize": "the original are trees: they compare numbers and multiply none",
    },
}
"""Family of the ladder's winner -> what is not tried for it, and why."""
REMAINS = "the original remains"
ORIGINALS = ("original.safetensors", "original.onnx")
"""The original as a network of ours, or as a user's script exported it."""


def main() -> None:
    """Make the candidates of this run."""
    settings = paths.settings("compress")
    report = Report("compress")
    torch.set_num_threads(cpu_count())
    feeding.use(int(settings.get("workers") or 0))
    model = paths.output("compress", "model")
    with gpu.Watch() as watched:
        compress(
            paths.channel("compress", "curated"),
            paths.channel("compress", "original"),
            model,
            paths.checkpoints(),
            settings,
            report,
        )
        report.fields.update(usage.fields(watched))
    report.write(model)


def compress(
    curated: Path, original: Path, model: Path, checkpoints: Path, settings: dict[str, Any], report: Report
) -> None:
    """Write one folder per candidate; a method that fails is listed with its reason and stops nothing else."""
    schema = dataset.read_schema(original)
    kind = kinds.of(schema)
    network, exported = (original / name for name in ORIGINALS)
    if kind.trains_itself and not exported.exists():
        from ebb_jobs import custom  # only where a script trained and exported nothing

        custom.compress(curated, original, model, checkpoints, settings, report)
        return
    if not network.exists() and not exported.exists():
        raise InputMissingError(f"the channel 'original' holds no {' or '.join(ORIGINALS)}: did `train` finish?")
    trained = json.loads((original / "metrics.json").read_text())
    codec = kind.open_codec(original)
    held = original if kind.trains_itself else curated  # a script exports its held-out rows with its model
    training, validation = (kind.read_split(held, split, codec) for split in ("train", "validation"))
    shuffled = np.random.default_rng(int(settings.get("seed", 7))).permutation(len(training))
    calibration = training.inputs[np.sort(shuffled[: kind.recipe.calibration_rows])]
    left_out = {**kind.skipped, **NOT_FOR.get(trained.get("family", ""), {})}
    bench = Bench(model, training, validation, codec, kind, trained["metric"], report, left_out=left_out)
    wanted = _methods(left_out, settings, report)

    made: dict[str, tuple[Network | Path, list[str]] | None] = {}
    workshop = None
    if exported.exists():
        made["original"] = exported, []
    else:
        teacher = networks.load(network)
        made["original"] = teacher, []
    if not exported.exists() and {"distill", "prune"}.intersection(wanted):
        workshop = Workshop(teacher, training, validation, schema, codec, kind, trained, checkpoints, settings, report)
        if "distill" in wanted:
            made["student"] = bench.attempt("student", ["distill"], workshop.student, fallback=REMAINS)
        if "prune" in wanted:
            made["pruned"] = bench.attempt("pruned", ["prune"], workshop.pruned, fallback=REMAINS)
    below = _rungs(original)
    made |= below
    for name, one in made.items():
        if one is None:
            continue
        source, chain = one
        told = f"as trained: {trained['described']}" if name == "original" and trained.get("described") else ""
        exported_well = bench.attempt(name, chain, partial(bench.export, name, source, chain, told))
        if exported_well and "quantize" in wanted and name not in below:
            bench.quantize(name, affordable(source, calibration, len(calibration)), [*chain, "quantize"])
    report.fields.update(
        metric=trained["metric"],
        candidates=bench.candidates,
        search=workshop.told() if workshop else None,
        skipped=[{"what": what, "reason": why} for what, why in bench.skipped(wanted).items()],
    )


def _rungs(original: Path) -> dict[str, tuple[Network | Path, list[str]] | None]:
    """Return the other rungs of the ladder that hold the floor: candidates as they are, each the cheapest of its sort.

    Their chain is the rung's name; trees are ONNX already, and what a linear model takes needs no 8 bits.
    """
    found: dict[str, tuple[Network | Path, list[str]] | None] = {}
    for file in sorted((original / train.RUNGS).glob("*")):
        if file.suffix in (".onnx", ".safetensors"):
            found[file.stem] = (file if file.suffix == ".onnx" else networks.load(file)), [file.stem]
    return found


def _methods(skipped: Mapping[str, str], settings: dict[str, Any], report: Report) -> list[str]:
    """Return what is to be tried: what the spec asks for (all, when it is silent) and makes sense for the kind."""
    asked = ((settings.get("spec") or {}).get("compress") or {}).get("methods") or list(METHODS)
    tried = [method for method in METHODS if method in asked and method not in skipped]
    left_out = {method: skipped[method] for method in asked if method in skipped}
    if left_out:
        told = "; ".join(f"no {method}: {why}" for method, why in left_out.items())
        report.decide("methods", ", ".join(tried) or "none", told)
    return tried


@dataclasses.dataclass
class Workshop:
    """Trains smaller networks that answer like the original: each lesson with at most half of the original's time."""

    teacher: Network
    training: Split
    validation: Split
    schema: dict[str, Any]
    codec: Codec
    kind: Kind
    trained: dict[str, Any]
    checkpoints: Path
    settings: dict[str, Any]
    report: Report

    def __post_init__(self) -> None:
        wanted = (self.settings.get("spec") or {}).get("compress") or {}
        self.metric: str = self.trained["metric"]
        self.seed = int(self.settings.get("seed", 7))
        self.max_drop = float(wanted.get("max_metric_drop", 0.01))
        fit_s = float(self.trained.get("fit_seconds", 0)) * cpu_count()
        budget = search.Budget.of(durations.seconds(wanted.get("budget")), fit_s)
        self.search = search.Search(budget, self.teacher, self.training.inputs)
        hard = train.hard_loss(self.training, train.class_shares(self.schema, self.training), self.metric)
        taught = networks.raw_outputs(self.teacher.to(fitting.device()), self.training.inputs)
        self.teacher.to("cpu")
        self.lessons = {
            "distilled": distillation_loss(taught, hard, self.kind.recipe.temperature, self.kind.recipe.soft_share),
            "labels only": hard,
        }
        self.truth, self.taught = self._answers(self.teacher)

    def told(self) -> dict[str, Any]:
        """Return the search as the report tells it: its budget and every network that it looked at."""
        budget = self.search.budget
        return {
            "budget_cpu_s": round(budget.cpu_s, 1),
            "used_cpu_s": round(budget.cpu_s - budget.left_s, 1),
            "options": self.search.as_list(),
        }

    def student(self) -> tuple[Network, list[str]]:
        """Train the leanest network twice, taught by the original and by the labels alone, and go on with the better.

        The control keeps distillation honest: it does not always help. A network that may lose a little more than the
        spec allows (the bound that selection applies too) is given further lessons while the budget lasts: time spent
        on training is spent once, a larger network costs on every answer. Then the next larger one learns.
        """
        makers = self.kind.students(self.teacher, self.codec, self.training)
        names = [f"student-{number}" for number in range(1, len(makers) + 1)]
        options = self.search.add("distill", names, makers, self.training.inputs)
        lesson = ""
        tried: list[tuple[float, float, Network]] = []
        for option in options:
            try:
                self.search.admit(option)
            except search.DroppedError:
                if not tried:
                    raise
                continue  # its reason stands in the list of options
            if not lesson:
                lesson, learned = self._duel(option)
            else:
                learned = self._learn(lesson, option.make, f"{option.name}-{lesson.split()[0]}", option)
            bound, learned = self._further(lesson, learned, option)
            tried.append((bound, learned.quality, learned.network))
            if self._note(option, learned.quality, bound):
                break
        for option in options[len(tried) :]:
            if option.status == "waiting":
                option.status, option.reason = "dropped", "a leaner one holds the floor: not trained"
        best = self._best("student size", tried)
        return best, ["distill" if lesson == "distilled" else "shrink"]

    def _duel(self, option: search.Option) -> tuple[str, Learned]:
        """Give a network both lessons; return the better one's name and what it brought.

        The control has the same plan; past half of it, and behind, it ends.
        """
        made: dict[str, Learned] = {}
        for lesson in self.lessons:
            pace = made["distilled"].history if made else ()
            name = f"{option.name}-{lesson.split()[0]}"
            made[lesson] = self._learn(lesson, option.make, name, option, pace=pace)
        found = {lesson: learned.quality for lesson, learned in made.items()}
        chosen = (
            "labels only" if quality.is_better(self.metric, found["labels only"], found["distilled"]) else "distilled"
        )
        self.report.decide(
            "student lesson",
            chosen,
            f"{self.metric} on validation: {found['distilled']:.4f} taught by the original, {found['labels only']:.4f} "
            f"by the labels alone, {self.trained['quality']['validation']:.4f} the original; the control "
            f"{made['labels only'].ended}",
            numbers=found,
            alternatives=list(self.lessons),
        )
        return chosen, made[chosen]

    def _further(self, lesson: str, learned: Learned, option: search.Option) -> tuple[float, Learned]:
        """Return what the network may lose and the network, after as many lessons as it needs and is worth."""
        bound = self._may_lose(learned.network)
        for number in range(2, MOST_LESSONS + 1):
            if not self.max_drop < bound <= NEARLY * self.max_drop or not self.search.holds(learned.cpu_s):
                break
            name = f"{option.name}-{lesson.split()[0]}-{number}"
            again = self._learn(lesson, partial(copy.deepcopy, learned.learning), name, option, number=number)
            less = self._may_lose(again.network)
            if less >= bound:
                break
            bound, learned = less, again
        return bound, learned

    def _note(self, option: search.Option, found: float, bound: float) -> bool:
        numbers = {**option.numbers, "quality": {"validation": found}, "may_lose": bound}
        return self.search.trained(option, may_lose=bound, most=self.max_drop, numbers=numbers)

    def pruned(self) -> tuple[Network, list[str]]:
        """Take channels away from the original and let it teach what is left; fewer when too much may be lost.

        A pruned network that works more than a student that holds the floor is not trained.
        """
        example = networks.tensor(self.training.inputs[:2])
        smaller = {share: self.kind.prune(self.teacher, share, example) for share in PRUNED_SHARES}
        cut = {f"pruned-{round(share * 100)}": network for share, network in smaller.items() if network is not None}
        if not cut:
            raise JobError("this network has no channels that can be taken away")
        makers = [partial(_itself, network) for network in cut.values()]
        tried: list[tuple[float, float, Network]] = []
        dropped: search.DroppedError | None = None
        for option in self.search.add("prune", list(cut), makers, self.training.inputs):
            try:
                self.search.admit(option)
            except search.DroppedError as refused:
                dropped = dropped or refused
                continue
            steps = self.kind.recipe.pruned_steps or self.kind.recipe.student_steps
            learned = self._learn("distilled", option.make, option.name, option, steps=steps)
            bound = self._may_lose(learned.network)
            tried.append((bound, learned.quality, learned.network))
            if self._note(option, learned.quality, bound):
                break
        if not tried:
            assert dropped is not None
            raise dropped
        return self._best("pruned size", tried), ["prune"]

    def _learn(
        self,
        lesson: str,
        make: Callable[[], Network],
        name: str,
        option: search.Option,
        *,
        steps: int | None = None,
        pace: tuple[float, ...] = (),
        number: int = 1,
    ) -> Learned:
        """Return what a lesson made of the network; `number` counts the lessons of one network."""
        plan = self.kind.recipe
        taken = self.search.stopwatch()
        torch.manual_seed(self.seed)
        network = make()
        size = plan.batch_size(len(self.training))
        recipe = fitting.Recipe(
            metric=self.metric,
            epochs=self._epochs(network, size, steps),
            batch_size=size,
            peak_rate=plan.student_peak_rate,
            weight_decay=plan.weight_decay,
            seed=self.seed,
            budget_s=max(MIN_BUDGET_S, min(0.5 * float(self.trained.get("fit_seconds", 0)), self.search.budget.left_s)),
            precision=self.trained["precision"] if plan.students_follow_precision else "float32",
            name=f"{name.partition('-')[0]} of {network.describe()} ({lesson})",
            fingerprint=train.fingerprint(
                lesson, network.config(), train.codec_fingerprint(self.codec), self.trained["quality"], number
            ),
            pace=pace,
        )
        outcome = fitting.fit(
            network,
            self.training.inputs,
            self.lessons[lesson],
            lambda current: train.evaluate(current, self.validation, self.codec, self.metric),
            recipe,
            augment=self.kind.augment,
            checkpoint=self.checkpoints / f"{name}.pt",
        )
        run = network.deployed()
        lessons = option.numbers.setdefault("lessons", {})
        spent = taken()
        told = f"{lesson}, lesson {number}" if number > 1 else lesson
        lessons[told] = {"epochs": outcome.epochs, "quality": {"validation": outcome.quality}, **spent}
        return Learned(
            network,
            run,
            train.evaluate(run, self.validation, self.codec, self.metric),
            tuple(found for _, found in outcome.history),
            spent["cpu_seconds"],
            f"ended: {outcome.stopped_because}" if outcome.stop != "completed" else "learned to its end",
        )

    def _epochs(self, network: Network, size: int, steps: int | None) -> int:
        """Return the epochs of a lesson: by the kind's steps; of many rows, as many as half of the original's work.

        Time spent on training is spent once, on every answer again: a fast network is given a long lesson.
        """
        plan, rows = self.kind.recipe, len(self.training)
        planned = fitting.epochs(
            rows,
            size,
            steps or plan.student_steps,
            at_least=min(plan.min_epochs, 3) if steps else plan.min_epochs,
            at_most=plan.max_epochs,
        )
        if steps or rows < MANY_ROWS:
            return planned
        work = fitting.multiplications(self.teacher, self.training.inputs) / max(
            1, fitting.multiplications(network, self.training.inputs)
        )
        affordable = int(LESSON_SHARE * work * float(self.trained.get("epochs", 0)) / SMALL_NETWORKS_OVERHEAD)
        return max(planned, min(affordable, MOST_EPOCHS, plan.max_epochs))

    def _best(self, what: str, tried: list[tuple[float, float, Network]]) -> Network:
        """Return the network that may lose least of (what it may lose, its quality, the network)."""
        lost, _, best = min(tried, key=lambda one: one[0])
        self.report.decide(
            what,
            best.describe(),
            "; ".join(
                f"{network.describe()}: {self.metric} {found:.4f}, may lose {bound:.4f}"
                for bound, found, network in tried
            )
            + f"; {self.max_drop} may be lost",
            numbers={
                "parameters": best.parameter_count(),
                "may_lose": lost,
                "original_parameters": self.teacher.parameter_count(),
            },
            alternatives=[network.describe() for _, _, network in tried],
        )
        return best

    def _may_lose(self, network: Network) -> float:
        _, answers = self._answers(network)
        return quality.drop_bound(self.metric, self.truth, self.taught, answers, seed=self.seed)

    def _answers(self, network: Network) -> tuple[np.ndarray, np.ndarray]:
        return train.comparable(networks.predict(network, self.validation.inputs), self.validation, self.codec)


@dataclasses.dataclass(frozen=True)
class Learned:
    """A network after a lesson."""

    learning: Network
    """In the form that learns."""
    network: Network
    """In the form to run."""
    quality: float
    """On validation."""
    history: tuple[float, ...]
    """After each epoch."""
    cpu_s: float
    ended: str


def _itself(network: Network) -> Network:
    return network


def distillation_loss(taught: Tensor, hard: fitting.Loss, temperature: float, soft_share: float) -> fitting.Loss:
    """Return the loss against the teacher's outputs, softened, mixed with the labels'."""

    def loss(outputs: Tensor, rows: Tensor) -> Tensor:
        lesson = taught[rows].to(outputs.device)
        if outputs.shape[1] == 1:
            soft = functional.smooth_l1_loss(outputs, lesson)
        else:
            soft = (
                functional.kl_div(
                    functional.log_softmax(outputs / temperature, 1),
                    functional.softmax(lesson / temperature, 1),
                    reduction="batchmean",
                )
                * temperature**2
            )
        return soft_share * soft + (1 - soft_share) * hard(outputs, rows)

    return loss
