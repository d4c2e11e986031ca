"""Gradient-boosted trees (LightGBM), written as ONNX: what is served needs ONNX Runtime and nothing of LightGBM.

The trees see the codec's own input, so that a served row is what they were trained on; of the bins, which a network
needs and a tree finds by itself, only those of the tails, where the scaled number is cut off.
Source: Ke et al., LightGBM: A Highly Efficient Gradient Boosting Decision Tree, 2017.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ebb_jobs import export, knobs, quality, stopping
from ebb_jobs.errors import JobError, StoppedError
from ebb_jobs.knobs import Turned
from ebb_jobs.ladder import TREES, Fitted, Lesson, Rung
from ebb_jobs.report import cpu_count

ROUNDS = 1500
TREES_AT_MOST = 6_000
"""In all classes together: more are seldom kept, and each class's round costs as much as a whole one of two classes."""
PATIENCE = 50
SMALL_TABLE = 400_000
"""Numbers of the training rows, up to which one thread is as fast as two."""
LOOK_EVERY = 10
"""Rounds between two looks at the metric, for the target and for the checkpoint."""
TREE_DOMAIN, TREE_OPSET = "ai.onnx.ml", 3
CONTINUED = "boosting.json"
"""The model as LightGBM goes on from it, beside its ONNX file."""


class Forest:
    """Boosted trees as they are served: an ONNX file in memory, and what LightGBM goes on from."""

    def __init__(self, network: bytes, text: str = "") -> None:
        self._network, self.text = network, text
        model = onnx.load_from_string(network)
        node = model.graph.node[0]
        attributes = {each.name: each for each in node.attribute}
        self.trees = len(set(attributes["nodes_treeids"].ints))
        self.leaves = len(attributes["target_weights"].floats)

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return probabilities [rows, classes], or the scaled target [rows, 1]."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trees.onnx"
            file.write_bytes(self._network)
            return export.run(export.session(file, threads=cpu_count()), inputs)

    def save(self, stem: Path) -> Path:
        """Write the ONNX file and, beside it, what LightGBM goes on from."""
        file = stem.with_suffix(".onnx")
        file.write_bytes(self._network)
        if self.text:
            file.with_name(CONTINUED).write_text(json.dumps({"lightgbm": self.text}))
        return file

    def describe(self) -> str:
        """Return the trees and leaves in words."""
        return f"{self.trees} boosted trees of {self.leaves / max(self.trees, 1):.0f} leaves"

    def parameter_count(self) -> int:
        """Return how many numbers were learned: a leaf its value, every split its threshold and column."""
        return self.leaves + 2 * (self.leaves - self.trees)


def load(file: Path) -> Forest:
    """Return the trees that `save` wrote."""
    text = file.with_name(CONTINUED)
    return Forest(file.read_bytes(), json.loads(text.read_text())["lightgbm"] if text.exists() else "")


def parameter_count(file: Path) -> int:
    """Return how many numbers the trees of an ONNX file hold; 0 where there are none."""
    nodes = onnx.load(file, load_external_data=False).graph.node
    return Forest(file.read_bytes()).parameter_count() if nodes and nodes[0].domain == TREE_DOMAIN else 0


def rung(columns: np.ndarray) -> Rung:
    """Return the rung of boosted trees on these columns of the input."""

    def turned(these: Turned) -> Callable[[Lesson], Fitted]:
        return partial(fit, columns=columns, turned=these)

    return Rung("trees", TREES, turned({}), load, knobs.TREES, turned)


def fit(lesson: Lesson, columns: np.ndarray, *, turned: Turned = MappingProxyType({})) -> Fitted:
    """Boost trees on these columns of the input until the validation loss has stopped falling.

    Raises: StoppedError; JobError where LightGBM cannot be loaded (it needs the system's libgomp).
    """
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        raise JobError(f"LightGBM cannot be loaded: {type(error).__name__}") from error
    begun = time.monotonic()
    with stopping.told_to_stop() as told:
        watch = _Watch(lesson, told, begun)
        booster = _boost(lightgbm, lesson, columns, watch, turned)
    kept = min(watch.best_round or booster.current_iteration(), booster.current_iteration())
    network = to_onnx(booster, kept, columns, lesson.training.inputs.shape[1], lesson.outputs)
    forest = Forest(network, booster.model_to_string(num_iteration=kept))
    _verify(forest, booster, kept, columns, lesson)
    watch.forget()
    seconds = time.monotonic() - begun
    stop, why = watch.ended or ("completed", f"all {booster.current_iteration()} rounds are done")
    return Fitted(
        forest, stop, why, booster.current_iteration(), kept, kept, seconds,
        resumed_at_epoch=watch.resumed, warm=watch.warm,
    )  # fmt: skip


def settings(rows: int, outputs: int, metric: str, seed: int, threads: int) -> dict[str, Any]:
    """Return LightGBM's parameters: those that a data scientist starts from, by the number of rows."""
    objective = {1: "regression_l1" if metric == "mae" else "regression", 2: "binary"}.get(outputs, "multiclass")
    return {
        "objective": objective,
        **({"num_class": outputs} if outputs > 2 else {}),
        "learning_rate": 0.1 if outputs > 2 else 0.05,
        "num_leaves": 31 if rows < 20_000 else 63,
        "min_data_in_leaf": max(3, min(20, rows // 100)),
        "feature_fraction": 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "max_bin": 255,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }


def turn(parameters: dict[str, Any], turned: Turned) -> dict[str, Any]:
    """Return LightGBM's parameters with knobs turned."""
    return parameters | {
        "learning_rate": parameters["learning_rate"] * knobs.of(turned, knobs.RATE),
        "num_leaves": max(3, round(parameters["num_leaves"] * knobs.of(turned, knobs.LEAVES))),
        "min_data_in_leaf": max(1, round(parameters["min_data_in_leaf"] * knobs.of(turned, knobs.CHILD))),
        "lambda_l2": parameters["lambda_l2"] * knobs.of(turned, knobs.PENALTY),
        "feature_fraction": min(1.0, parameters["feature_fraction"] * knobs.of(turned, knobs.SHARE)),
    }


def _boost(lightgbm: Any, lesson: Lesson, columns: np.ndarray, watch: _Watch, turned: Turned) -> Any:
    training, validation = lesson.training, lesson.validation
    # A round of few rows takes a millisecond: threads would wait for each other, on a busy machine most of the time.
    threads = cpu_count() if training.inputs.shape[0] * len(columns) > SMALL_TABLE else 1
    parameters = turn(settings(len(training), lesson.outputs, lesson.metric, lesson.seed, threads), turned)
    watch.rate = parameters["learning_rate"]
    data = lightgbm.Dataset(
        np.ascontiguousarray(training.inputs[:, columns]),
        training.targets,
        weight=lesson.row_weights(),
        free_raw_data=False,
    )
    held = lightgbm.Dataset(
        np.ascontiguousarray(validation.inputs[:, columns]),
        validation.targets,
        weight=None if lesson.factors is None else lesson.factors[validation.targets].astype(np.float32),
        reference=data,
        free_raw_data=False,
    )
    start = watch.start()
    before = lightgbm.Booster(model_str=start).current_iteration() if start else 0
    rounds = max(1, min(ROUNDS, TREES_AT_MOST // max(1, lesson.outputs if lesson.outputs > 2 else 1)) - before)
    return lightgbm.train(
        parameters,
        data,
        num_boost_round=rounds,
        valid_sets=[held],
        valid_names=["validation"],
        init_model=lightgbm.Booster(model_str=start) if start else None,
        feval=watch.look,
        callbacks=[watch],
        keep_training_booster=True,
    )


class _Watch:
    """Looks at every round: ends at the target, the budget or a plateau, and keeps checkpoints."""

    order = 30  # after LightGBM's own evaluation

    def __init__(self, lesson: Lesson, told: Any, begun: float) -> None:
        self.lesson, self._told, self._begun = lesson, told, begun
        self._file = lesson.checkpoints / "trees.partial.json"
        self._saved = time.monotonic()
        self.best: float | None = None
        self.best_round = 0
        self.ended: tuple[str, str] | None = None
        self.resumed: int | None = None
        self.warm = False
        self.rate = 0.0
        self._score: float | None = None
        self._now = 0

    def start(self) -> str | None:
        """Return the trees to go on from: those of an interrupted job, else those of the model before this one."""
        lesson = self.lesson
        if self._file.exists():
            try:
                stored = json.loads(self._file.read_text())
                if stored["fingerprint"] == lesson.fingerprint:
                    self.resumed, self.warm = int(stored["round"]), bool(stored["warm"])
                    self.best, self.best_round = stored["best"], int(stored["best_round"])
                    print(f"the trees go on from the checkpoint at round {self.resumed}", flush=True)
                    return str(stored["lightgbm"])
            except (ValueError, KeyError):
                print("the trees start afresh: the checkpoint cannot be read", flush=True)
        before = lesson.previous / CONTINUED if lesson.previous else None
        if before is not None and before.exists():
            self.warm = True
            return str(json.loads(before.read_text())["lightgbm"])
        return None

    def look(self, predicted: np.ndarray, data: Any) -> tuple[str, float, bool]:
        """Return our own metric for LightGBM's list: every so many rounds, when a target is asked for."""
        lesson = self.lesson
        if lesson.target is not None and (self._now % LOOK_EVERY == 0 or self._score is None):
            outputs = predicted.reshape(len(lesson.validation), -1)
            if lesson.outputs == 2:
                outputs = np.stack([1 - outputs[:, 0], outputs[:, 0]], 1)
            self._score = lesson.score(outputs)
        return "ours", self._score or 0.0, quality.greater_is_better(lesson.metric)

    def __call__(self, env: Any) -> None:
        """Decide after a round."""
        from lightgbm.callback import EarlyStopException

        lesson = self.lesson
        self._now = done = env.iteration + 1  # the rounds that it started from are counted
        loss = next(value for _, name, value, _ in env.evaluation_result_list if name != "ours")
        if not np.isfinite(loss):
            self.ended = ("divergence", "the loss is not finite")
            raise EarlyStopException(env.iteration, env.evaluation_result_list)
        if self.best is None or loss < self.best:
            self.best, self.best_round = loss, done
        if done % LOOK_EVERY == 0:  # half the rate takes twice the rounds to come as far
            lesson.seen(int(done * self.rate), -loss)
        if self._told.is_set():
            self._save(env.model, done)
            raise StoppedError(f"stopped by SIGTERM at round {done}; a checkpoint is written")
        if time.monotonic() - self._saved > lesson.checkpoint_every_s:
            self._save(env.model, done)
        reached = self._score is not None and not quality.is_better(lesson.metric, lesson.target or 0.0, self._score)
        if lesson.target is not None and reached:
            self.best_round = done
            self.ended = ("target", f"the target {lesson.metric} {lesson.target} is reached")
        elif lesson.budget_s is not None and time.monotonic() - self._begun > lesson.budget_s:
            self.ended = ("budget", f"the time budget of {lesson.budget_s:.0f} s is used")
        elif done - self.best_round >= PATIENCE:
            self.ended = ("plateau", f"no smaller loss for {PATIENCE} rounds")
        if self.ended:
            raise EarlyStopException(env.iteration, env.evaluation_result_list)

    def _save(self, booster: Any, done: int) -> None:
        """Write what is there; it is continued from the round at which the job was stopped, its best one counted."""
        document = {
            "fingerprint": self.lesson.fingerprint,
            "round": done,
            "warm": self.warm,
            "best": self.best,
            "best_round": self.best_round,
            "lightgbm": booster.model_to_string(num_iteration=-1),
        }
        partial = self._file.with_suffix(".new")
        partial.write_text(json.dumps(document))
        os.replace(partial, self._file)
        self._saved = time.monotonic()
        print(f"trees checkpoint at round {done}", flush=True)

    def forget(self) -> None:
        """Remove the checkpoint: the rung is finished, and kept as such."""
        self._file.unlink(missing_ok=True)


def to_onnx(booster: Any, rounds: int, columns: np.ndarray, width: int, outputs: int) -> bytes:
    """Return the first `rounds` rounds as an ONNX model over the whole input [rows, width].

    A threshold is rounded down to the next float32: for float32 inputs `x <= t` then says the same as in LightGBM.
    """
    parts: dict[str, list[Any]] = {name: [] for name in _PARTS}
    leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    targets = outputs if outputs > 2 else 1
    for number, tree in enumerate(booster.dump_model(num_iteration=rounds)["tree_info"]):
        _flatten(tree["tree_structure"], number, number % targets, columns, parts, leaves)
    last = export.OUTPUT if outputs == 1 else "scores"
    nodes = [
        helper.make_node(
            "TreeEnsembleRegressor",
            [export.INPUT],
            [last],
            name="trees",
            domain=TREE_DOMAIN,
            n_targets=targets,
            post_transform="NONE",
            aggregate_function="SUM",
            **{f"nodes_{name}": values for name, values in parts.items()},
            **{f"target_{name}": values for name, values in leaves.items()},
        )
    ]
    constants = []
    if outputs == 2:
        constants = [numpy_helper.from_array(np.ones(1, dtype=np.float32), "one")]
        nodes += [
            helper.make_node("Sigmoid", ["scores"], ["second"], name="sigmoid"),
            helper.make_node("Sub", ["one", "second"], ["first"], name="rest"),
            helper.make_node("Concat", ["first", "second"], [export.OUTPUT], name="both", axis=1),
        ]
    elif outputs > 2:
        nodes.append(helper.make_node("Softmax", ["scores"], [export.OUTPUT], name="softmax", axis=-1))
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info(export.INPUT, TensorProto.FLOAT, [export.ROWS, width])],
        [helper.make_tensor_value_info(export.OUTPUT, TensorProto.FLOAT, [export.ROWS, outputs])],
        constants,
    )
    opsets = [helper.make_opsetid("", export.OPSET), helper.make_opsetid(TREE_DOMAIN, TREE_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=export.IR_VERSION, producer_name="ebb")
    onnx.checker.check_model(model)
    return model.SerializeToString()


_PARTS = (
    "treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids", "missing_value_tracks_true",
)  # fmt: skip


def _flatten(
    root: dict[str, Any],
    tree: int,
    target: int,
    columns: np.ndarray,
    parts: dict[str, list[Any]],
    leaves: dict[str, list[Any]],
) -> None:
    """Add one tree's nodes; deep trees are walked without recursion."""
    waiting: list[tuple[dict[str, Any], int]] = [(root, 0)]
    known = 1
    while waiting:
        node, number = waiting.pop()
        leaf = "leaf_value" in node
        yes, no = (0, 0) if leaf else (known, known + 1)
        row = (
            tree,
            number,
            0 if leaf else int(columns[node["split_feature"]]),
            0.0 if leaf else _float32_below(float(node["threshold"])),
            "LEAF" if leaf else "BRANCH_LEQ",
            yes,
            no,
            0,
        )
        for name, value in zip(_PARTS, row, strict=True):
            parts[name].append(value)
        if leaf:
            for name, value in zip(leaves, (tree, number, target, float(node["leaf_value"])), strict=True):
                leaves[name].append(value)
            continue
        if node["decision_type"] != "<=":
            raise JobError(f"a split by {node['decision_type']!r} has no ONNX form here")
        waiting += [(node["left_child"], yes), (node["right_child"], no)]
        known += 2


def _float32_below(threshold: float) -> float:
    """Return the largest float32 that is not above a threshold."""
    rounded = np.float32(min(threshold, float(np.finfo(np.float32).max)))
    return float(np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > threshold else rounded)


def _verify(forest: Forest, booster: Any, rounds: int, columns: np.ndarray, lesson: Lesson) -> None:
    """Prove that the ONNX file answers as LightGBM does; raise JobError where it does not."""
    inputs = lesson.validation.inputs[:512]
    expected = booster.predict(np.ascontiguousarray(inputs[:, columns]), num_iteration=rounds).reshape(len(inputs), -1)
    if lesson.outputs == 2:
        expected = np.concatenate([1 - expected, expected], 1)
    difference = float(np.abs(forest.predict(inputs) - expected).max()) if len(inputs) else 0.0
    if not difference <= export.TOLERANCE:
        raise JobError(f"the trees' ONNX file differs from LightGBM by {difference:.2g}, more than {export.TOLERANCE}")
