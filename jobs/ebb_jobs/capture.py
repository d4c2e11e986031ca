"""A share of requests and answers, as lines on stdout: what the spec's `retrain.capture` asks the server to note.

Every bundle carries this file; only a container whose model has EBB_CAPTURE_SHARE in its environment imports it. An
example is noted before its answer leaves: what runs between requests may be frozen on a serverless endpoint. Nothing
here may fail a request. The lines: docs/retraining-data.md.
"""

from __future__ import annotations

import base64
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from ebb_jobs import sketch  # inside the jobs
else:
    import sketch  # type: ignore[import-not-found,no-redef]  # beside this file, in a bundle

SHARE, ENDPOINT = "EBB_CAPTURE_SHARE", "EBB_CAPTURE_ENDPOINT"
REFERENCE = "reference.json"
NAMESPACE, METRIC = "Ebb/Drift", "Psi"
MOST_LINE_BYTES = 15_000
"""Container runtimes cut a line at 16 KiB; what SageMaker's agent does is not documented."""
MOST_OF_A_REQUEST = 16
MOST_CLASSES, TOLD_CLASSES = 20, 5
MOST_PLACES = 32
"""Numbers of a tensor that are features one by one."""
LEAST_SAMPLES = 200
"""Before so many the index says more about chance than about drift."""
TOLD_EVERY_SAMPLES, TOLD_EVERY_S = 50, 60.0
MOST_TOLD = 50

Write = Callable[[bytes], Any]


class Capture:
    """Notes a share of the examples of one model, and how far they are from its reference."""

    def __init__(
        self,
        about: Mapping[str, Any],
        share: float,
        endpoint: str,
        reference: Mapping[str, Any] | None,
        *,
        write: Write | None = None,
        draw: Callable[[], float] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.about, self.share, self.endpoint = dict(about), share, endpoint
        self.sketch = sketch.Sketch(reference) if reference else None
        self._write, self._draw, self._now = write or _to_stdout, draw or _uniform, now
        self._lock = threading.Lock()
        self._untold, self._told_at = 0, -math.inf
        self._failed = False

    def note(self, codec: Any, raws: Any, encoded: np.ndarray, outputs: np.ndarray) -> None:
        """Note some of a request's examples; never raises."""
        try:
            picked = self._pick(len(outputs))
            if not picked:
                return
            some = _of(raws, picked)
            predictions = codec.predictions(outputs[picked])
            features = observed(codec, some, encoded[picked])
            for number, (values, prediction) in enumerate(zip(features, predictions, strict=True)):
                self._sample(values, _prediction(prediction), _input(some, number))
        except Exception as error:
            self._complain(error)

    def note_bodies(self, body: bytes, content_type: str, answer: bytes) -> None:
        """Note a request and its answer as they are, of a user's own code; never raises."""
        try:
            if self._pick(1):
                self._sample({}, _readable(answer), {**_readable(body), "content_type": content_type})
        except Exception as error:
            self._complain(error)

    def _pick(self, count: int) -> list[int]:
        """Return which of a request's examples are noted: a share of them, evenly spread, and not too many."""
        wanted = self.share * count
        chosen = min(MOST_OF_A_REQUEST, count, int(wanted) + (self._draw() < wanted - int(wanted)))
        if not chosen:
            return []
        offset = self._draw()
        return [min(count - 1, int((number + offset) * count / chosen)) for number in range(chosen)]

    def _sample(self, features: dict[str, Any], prediction: dict[str, Any], sent: dict[str, Any] | None) -> None:
        sample: dict[str, Any] = {
            "id": os.urandom(8).hex(),
            "at": datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "endpoint": self.endpoint,
            **self.about,
            "features": features,
            "prediction": prediction,
        }
        line = _fitting(sample, sent)
        with self._lock:
            self._write(line)
            if self.sketch is None:
                return
            self.sketch.add(features, prediction)
            self._untold += 1
            now = self._now()
            due = self._untold >= TOLD_EVERY_SAMPLES and now - self._told_at >= TOLD_EVERY_S
            if due and self.sketch.samples >= LEAST_SAMPLES:
                self._untold, self._told_at = 0, now
                self._write(drift_line(self.endpoint, self.about, self.sketch, now))

    def _complain(self, error: Exception) -> None:
        """Say once what went wrong, without values of the request."""
        if not self._failed:
            self._failed = True
            print(f"{type(error).__name__} while a sample was noted", file=sys.stderr, flush=True)


def begin(model: Any, root: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Let a model note what it is asked, as its environment says."""
    share = float(environment[SHARE])
    file = root / REFERENCE
    reference = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    taken = Capture(model.about, share, environment.get(ENDPOINT, ""), reference)
    if hasattr(model, "codec"):
        model.capture = taken
        return
    respond = model.respond  # the user's own code: only bodies are known

    def noted(body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        answer, kind = respond(body, content_type, accept)
        taken.note_bodies(body, content_type, answer)
        return answer, kind

    model.respond = noted


def observed(codec: Any, raws: Any, encoded: np.ndarray) -> list[dict[str, Any]]:
    """Return the features of each example, as the reference knows them: also how the reference itself is made."""
    if isinstance(raws, Mapping):
        return _of_table(codec, raws)
    if len(raws) and isinstance(raws[0], str):
        return [{"characters": len(text), "words": len(text.split())} for text in raws]
    if len(raws) and isinstance(raws[0], bytes):
        return of_pixels(encoded)
    return of_tensors(encoded)


def of_pixels(encoded: np.ndarray) -> list[dict[str, Any]]:
    """Return brightness and contrast of pictures [rows, height, width, channels], uint8."""
    return [{"brightness": float(one.mean()) / 255, "contrast": float(one.std()) / 255} for one in encoded]


def of_tensors(encoded: np.ndarray) -> list[dict[str, Any]]:
    """Return the numbers of each example by their place, or what sums many of them up."""
    flat = np.asarray(encoded).reshape(len(encoded), -1).astype(np.float64)
    if flat.shape[1] <= MOST_PLACES:
        return [{str(place): _plain(value) for place, value in enumerate(row.tolist())} for row in flat]
    return [
        {
            "mean": _plain(float(row.mean())),
            "deviation": _plain(float(row.std())),
            "least": _plain(float(row.min())),
            "most": _plain(float(row.max())),
        }
        for row in flat
    ]


def drift_line(endpoint: str, about: Mapping[str, Any], seen: sketch.Sketch, now: float) -> bytes:
    """Return the line from which CloudWatch makes the metric of drift (embedded metric format)."""
    found = seen.told(MOST_TOLD)
    metrics = [{"Namespace": NAMESPACE, "Dimensions": [["EndpointName"]], "Metrics": [{"Name": METRIC}]}]
    psi = found.pop("psi")
    return _line(
        {
            "_aws": {"Timestamp": int(now * 1000), "CloudWatchMetrics": metrics},
            "EndpointName": endpoint,
            METRIC: psi,
            "ebb_drift": {**about, **found},
        }
    )


def _of_table(codec: Any, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return rows as training reads them: dates as the number of their day."""
    read: dict[str, Sequence[Any]] = {}
    for feature in codec.features:
        name = feature["name"]
        if feature["kind"] in ("categorical", "boolean"):
            read[name] = [text or None for text in codec.read_texts(feature, columns[name])]
        else:
            read[name] = [_plain(value) for value in codec.read_numbers(feature, columns[name])[:, 0].tolist()]
    rows = len(next(iter(read.values()))) if read else 0
    return [{name: values[row] for name, values in read.items()} for row in range(rows)]


def _of(raws: Any, picked: list[int]) -> Any:
    if isinstance(raws, Mapping):
        return {name: [values[number] for number in picked] for name, values in raws.items()}
    return raws[picked] if isinstance(raws, np.ndarray) else [raws[number] for number in picked]


def _input(raws: Any, number: int) -> dict[str, Any] | None:
    """Return what was sent, where the features do not hold it."""
    if isinstance(raws, Mapping):
        return None
    one = raws[number]
    if isinstance(one, str):
        return {"text": one}
    if isinstance(one, bytes):
        return {"base64": base64.b64encode(one).decode()} if len(one) <= MOST_LINE_BYTES else {"base64": None}
    return {"values": one.tolist()} if one.size * 2 <= MOST_LINE_BYTES else {"values": None}


def _prediction(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer with the probability of its label, and few of its classes where there are many."""
    found = {name: _plain(value) for name, value in prediction.items()}
    if (sure := sketch.confidence(prediction)) is not None:
        found["probability"] = sure
    probabilities = prediction.get("probabilities")
    if isinstance(probabilities, Mapping) and len(probabilities) > MOST_CLASSES:
        best = sorted(probabilities, key=lambda label: -probabilities[label])[:TOLD_CLASSES]
        found["probabilities"] = {label: probabilities[label] for label in best}
    return found


def _readable(body: bytes) -> dict[str, Any]:
    """Return a body as text, or as base64 where it is none; None for what cannot fit a line."""
    if len(body) > MOST_LINE_BYTES:
        return {"text": None}
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def _fitting(sample: dict[str, Any], sent: dict[str, Any] | None) -> bytes:
    """Return the line of a sample, without what makes it too long."""
    left_out = ["input"] if sent is not None and None in sent.values() else []
    if sent is not None and not left_out:
        line = _line({"ebb_sample": {**sample, "input": sent}})
        if len(line) <= MOST_LINE_BYTES:
            return line
        left_out = ["input"]
    for name in ("", "features", "prediction"):
        if name:
            sample, left_out = {**sample, name: {}}, [*left_out, name]
        line = _line({"ebb_sample": {**sample, **({"left_out": left_out} if left_out else {})}})
        if len(line) <= MOST_LINE_BYTES:
            break
    return line


def _plain(value: Any) -> Any:
    """Return a number that JSON knows: None for one that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(document: dict[str, Any]) -> bytes:
    # Non-ASCII stays as it is: escaped, a text takes up to six times the room. Halves of surrogate pairs are replaced.
    written = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return written.encode("utf-8", "replace") + b"\n"


def _to_stdout(line: bytes) -> None:
    sys.stdout.flush()
    while line:  # one call: lines of two threads, or of two processes, do not mix
        line = line[os.write(sys.stdout.fileno(), line) :]


def _uniform() -> float:
    return int.from_bytes(os.urandom(7)) / 2**56
