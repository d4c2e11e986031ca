"""From a request's numbers to the input of a script's own network, and from its outputs to an answer.

The network was exported by the user's script, so nothing is known of what its numbers mean: a request holds tensors of
the shape and type that the network declares. A script may bring `code/inference.py` with `input_fn(body, content_type)`
and `output_fn(prediction, accept)`, in SageMaker's sense, to speak its own language around the network.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from ebb_jobs import user_code  # inside the jobs
    from ebb_jobs.bad_request import BadRequestError
else:
    import user_code  # type: ignore[import-not-found,no-redef]  # beside this file, in a bundle
    from bad_request import BadRequestError  # type: ignore[import-not-found,no-redef]

STATE = "preprocess.json"
JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"
DIGITS = 6
MAX_AXES = 16
MAX_ANSWERED = 1_000_000
"""Numbers in the answers to one request: six million rows of one byte each would be answered with gigabytes."""


class TensorCodec:
    """Reads tensors for one network and words its answers; its state is the JSON document `state` and the user's code.

    `state`: `shape` (numbers, null where any size fits; the first is the rows), `dtype`, `classes` (names, null for a
    regression), `functions` (those of code/inference.py that are called), `code` (the files that these need).
    """

    def __init__(self, state: Mapping[str, Any], code: Mapping[str, bytes], functions: Mapping[str, Any]) -> None:
        self.state = dict(state)
        self.shape: tuple[int | None, ...] = tuple(state["shape"])
        self.dtype = np.dtype(state["dtype"])
        self.classes: list[str] | None = state["classes"]
        self._code = dict(code)
        self._functions = functions

    @property
    def is_wrapped(self) -> bool:
        """Tell whether the user's own functions read requests or write answers."""
        return bool(self.state["functions"])

    def encode(self, raws: np.ndarray) -> np.ndarray:
        """Return the network's input for tensors of a request. Raises BadRequestError."""
        return np.ascontiguousarray(self._checked(raws))

    def parse(self, body: bytes, content_type: str) -> np.ndarray:
        """Return the tensors of a request, examples along the first axis. Raises BadRequestError."""
        if input_fn := self._functions.get("input_fn"):
            return self._checked(_array(user_code.parsed(input_fn, body, content_type), "what input_fn returns"))
        if not body:
            raise BadRequestError("the body is empty", remedy=self._remedy())
        kind = content_type.partition(";")[0].strip().lower() or JSON
        if kind == NPY:
            return self._checked(read_npy(body, self._remedy()))
        if kind == JSON:
            return self._checked(self._parse_json(body))
        if kind in (CSV, "application/csv"):
            return self._checked(self._parse_csv(body))
        raise BadRequestError(f"content type {kind} is not supported", remedy=self._remedy())

    def predictions(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """Return label and probabilities, or the value, of each example."""
        if not np.isfinite(outputs).all():
            raise ArithmeticError("the network's output is not finite")
        if self.classes is None:
            return [{"value": float(row[0])} for row in outputs]
        rows = [[round(float(value), DIGITS) for value in row] for row in outputs]
        return [
            {"label": self.classes[int(best)], "probabilities": dict(zip(self.classes, row, strict=True))}
            for best, row in zip(outputs.argmax(1), rows, strict=True)
        ]

    def respond(self, outputs: np.ndarray, accept: str) -> tuple[bytes, str] | None:
        """Return body and content type as the user's output_fn writes them, None when there is none."""
        output_fn = self._functions.get("output_fn")
        return user_code.written(output_fn, outputs, accept) if output_fn else None

    def files(self) -> dict[str, bytes]:
        """Return what `open_codec` needs, by file name."""
        state = (json.dumps(self.state, indent=1, ensure_ascii=False) + "\n").encode()
        return {STATE: state, **{f"{user_code.FOLDER}/{name}": data for name, data in self._code.items()}}

    def _parse_json(self, body: bytes) -> np.ndarray:
        try:
            document = json.loads(body.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:  # the second: nested without end
            raise BadRequestError("the body is not JSON", remedy=self._remedy()) from error
        if isinstance(document, dict):
            if "instances" not in document:
                raise BadRequestError("the body has no instances", field="instances", remedy=self._remedy())
            document = document["instances"]
        if not isinstance(document, list):
            raise BadRequestError("the instances are not a list", field="instances", remedy=self._remedy())
        return _array(document, "the input")

    def _parse_csv(self, body: bytes) -> np.ndarray:
        if len(self.shape) != 2:
            raise BadRequestError(
                f"CSV has rows and columns only, and the network takes {len(self.shape)} axes", remedy=self._remedy()
            )
        try:
            rows = [row for row in csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True) if row]
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadRequestError("the body is not CSV in UTF-8", remedy=self._remedy()) from error
        if rows and not any(map(_is_number, rows[0])):
            del rows[0]  # a header
        for number, row in enumerate(rows, start=1):
            if len(row) != len(rows[0]):
                raise BadRequestError(
                    f"row {number} has {len(row)} cells, the first has {len(rows[0])}", remedy=self._remedy()
                )
            for place, cell in enumerate(row, start=1):
                if not _is_number(cell):
                    raise BadRequestError(f"row {number}, cell {place}: expected a number", remedy=self._remedy())
        if self.dtype.kind in "iu":  # through float, large whole numbers would lose digits
            return _array([[_whole(cell) for cell in row] for row in rows], "the input")
        return _array([[float(cell) for cell in row] for row in rows], "the input")

    def _checked(self, found: np.ndarray) -> np.ndarray:
        """Return the array in the network's type, with its rows along the first axis. Raises BadRequestError."""
        if not found.size:
            raise BadRequestError("there are no rows", field="instances", remedy=self._remedy())
        if found.ndim == len(self.shape) - 1:
            found = found[None]  # one example by itself
        expected = f"[{', '.join(['rows', *('any' if size is None else str(size) for size in self.shape[1:])])}]"
        fits = found.ndim == len(self.shape) and all(
            want in (None, have) for want, have in zip(self.shape[1:], found.shape[1:], strict=True)
        )
        if not fits:
            raise BadRequestError(
                f"the input has the shape {list(found.shape)}, expected {expected}",
                field="instances",
                remedy=self._remedy(),
            )
        most = max(1, MAX_ANSWERED // len(self.classes or [""]))
        if len(found) > most:
            raise BadRequestError(
                f"the request holds {len(found):,} rows", field="instances", remedy=f"Send at most {most:,} at once."
            )
        return cast(found, self.dtype, self._remedy())

    def _remedy(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape[1:])
        each = f"each of the shape [{sizes}]" if sizes else "each a number"
        as_csv = f", {CSV}" if len(self.shape) == 2 else ""
        return f'Send {{"instances": [...]}}, {each}, of {self.dtype} (application/json{as_csv} or {NPY}).'


def open_codec(folder: Path) -> TensorCodec:
    """Return the codec that `TensorCodec.files` describes, with the user's functions loaded."""
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    code = user_code.read(folder / user_code.FOLDER, state["code"])
    functions = user_code.load(folder, state["functions"]) if state["functions"] else {}
    return TensorCodec(state, code, functions)


def cast(found: np.ndarray, dtype: np.dtype, remedy: str) -> np.ndarray:
    """Return finite numbers in `dtype`; raise BadRequestError where that would change one by more than rounding."""
    if found.dtype == dtype and dtype.kind != "f":
        return found
    if found.dtype.kind not in "iuf" and not (found.dtype.kind == "b" and dtype.kind == "b"):
        raise BadRequestError(f"the input holds {_kind(found)}, expected numbers", field="instances", remedy=remedy)
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise BadRequestError("the input holds a number that is not finite", field="instances", remedy=remedy)
    if dtype.kind == "b":
        raise BadRequestError("the input holds numbers, expected true or false", field="instances", remedy=remedy)
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if found.dtype.kind == "f" and not (found == np.floor(found)).all():
            raise BadRequestError("the input holds fractions, expected whole numbers", field="instances", remedy=remedy)
        if found.min() < bounds.min or found.max() > bounds.max:
            raise BadRequestError(f"the input holds a number that {dtype} cannot", field="instances", remedy=remedy)
    with np.errstate(over="ignore"):  # is told below
        changed = found.astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(changed).all():
        raise BadRequestError(f"the input holds a number that {dtype} cannot", field="instances", remedy=remedy)
    return changed


def read_npy(body: bytes, remedy: str) -> np.ndarray:
    """Return the array of an .npy file; its head is compared with its length before memory is taken for it."""
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        rest = body[stream.tell() :]
        if dtype.hasobject or dtype.kind not in "biuf" or len(rest) != math.prod(shape) * dtype.itemsize:
            raise ValueError("the head does not describe what follows")
        return np.frombuffer(rest, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    except Exception as error:  # a wrong head gives errors of Python's own tokenizer too
        raise BadRequestError("the body is no .npy file of numbers", remedy=remedy) from error


def write_npy(array: np.ndarray) -> bytes:
    """Return the array as an .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _array(values: Any, what: str) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "numpy"):  # a tensor of PyTorch or TensorFlow
        values = values.numpy()
    _require_numbers(values, what)
    try:
        found = np.array(values)
    except (ValueError, OverflowError, TypeError) as error:
        raise BadRequestError(
            f"{what} is not a tensor of numbers", field="instances", remedy="Send rows of equal shape."
        ) from error
    if found.dtype == object:
        raise BadRequestError(
            f"{what} is not a tensor of numbers", field="instances", remedy="Send numbers only, none left out."
        )
    return found


def _require_numbers(values: Any, what: str) -> None:
    """Raise BadRequestError for nested lists that are ragged or too deep, or that hold text.

    NumPy would make room for the longest text in every place: terabytes for a request of some kilobytes.
    """
    level = [values]
    for _ in range(MAX_AXES + 1):
        types = set(map(type, level))
        if any(issubclass(one, str | bytes) for one in types):
            raise BadRequestError(
                f"{what} holds text, expected numbers", field="instances", remedy="Send numbers only."
            )
        if not types or not types <= {list, tuple}:
            if types & {list, tuple}:
                break
            return
        if len(set(map(len, level))) > 1:
            break
        level = list(itertools.chain.from_iterable(level))
    raise BadRequestError(f"{what} is not a tensor of numbers", field="instances", remedy="Send rows of equal shape.")


def _kind(found: np.ndarray) -> str:
    return {"U": "text", "S": "text", "b": "true or false", "c": "complex numbers"}.get(
        found.dtype.kind, "other values"
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _whole(cell: str) -> int | float:
    try:
        return int(cell)
    except ValueError:
        return float(cell)


def writers(codec: TensorCodec) -> dict[str, Callable[[list[np.ndarray]], bytes]]:
    """Return every way to ask for arrays of examples, by content type; none if only the user knows."""
    if codec.is_wrapped:
        return {}
    ways: dict[str, Callable[[list[np.ndarray]], bytes]] = {
        JSON: lambda some: json.dumps({"instances": np.concatenate(some).tolist()}).encode(),
        NPY: lambda some: write_npy(np.concatenate(some)),
    }
    return {**ways, CSV: _table} if len(codec.shape) == 2 else ways


def _table(some: list[np.ndarray]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerows(np.concatenate(some).tolist())
    return written.getvalue().encode()
