"""The user's `code/inference.py`: loaded and called by the rules of SageMaker's inference toolkit.

What fails in it is told by function and kind of error, never by the error's text, which may quote a request.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

if __package__:
    from ebb_jobs.bad_request import BadRequestError  # inside the jobs
else:
    from bad_request import BadRequestError  # type: ignore[import-not-found,no-redef]  # beside this file, in a bundle

FOLDER = "code"
FILE = "inference.py"
FUNCTIONS = ("model_fn", "input_fn", "predict_fn", "output_fn", "transform_fn")
JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"
TEXT = (JSON, CSV)
"""Content types whose body arrives as str, the others as bytes: the toolkit's rule."""

Function = Callable[..., Any]


class UserCodeError(Exception):
    """The user's code failed; the message names function and kind of error, and holds no value of the data."""


def read(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return files of the user's code by their path within `folder`."""
    return {name: (folder / name).read_bytes() for name in names}


def load(root: Path, names: Iterable[str]) -> dict[str, Function]:
    """Return those of the functions `names` that `root`/code/inference.py defines. Raises UserCodeError."""
    module = _module(root / FOLDER)
    return {name: getattr(module, name) for name in names if callable(getattr(module, name, None))}


def _module(folder: Path) -> ModuleType:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # it may import what lies beside it
    spec = importlib.util.spec_from_file_location("inference", folder / FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["inference"] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        _log(error)
        raise UserCodeError(f"{FOLDER}/{FILE} cannot be imported: {_told(error)}") from error
    return module


def parsed(input_fn: Function, body: bytes, content_type: str) -> Any:
    """Return what the user's input_fn makes of a request; what it does not take is the request's fault."""
    try:
        return input_fn(decoded(body, content_type), content_type)
    except BadRequestError:
        raise
    except (Exception, SystemExit) as error:
        _log(error)
        raise BadRequestError(
            f"input_fn of {FOLDER}/{FILE} refused the request ({type(error).__name__})",
            remedy=f"Send what input_fn of {FOLDER}/{FILE} reads.",
        ) from error


def written(output_fn: Function, prediction: Any, accept: str) -> tuple[bytes, str]:
    """Return body and content type of an answer as the user's output_fn writes it. Raises UserCodeError."""
    kind = wanted(accept)
    return response(called("output_fn", output_fn, prediction, kind), kind)


def wanted(accept: str) -> str:
    """Return the first content type that the client accepts; JSON where it does not say or mind."""
    first = accept.partition(",")[0].partition(";")[0].strip().lower()
    return JSON if first in ("", "*/*", "application/*") else first


def decoded(body: bytes, content_type: str) -> bytes | str:
    """Return the body as the toolkit hands it over: text for JSON and CSV, bytes for the rest."""
    if content_type.partition(";")[0].strip().lower() not in TEXT:
        return body
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequestError("the body is not UTF-8", remedy="Encode the request as UTF-8.") from error


def called(name: str, function: Function, *arguments: Any) -> Any:
    """Return what a function of the user's returns. Raises UserCodeError, naming the function."""
    try:
        return function(*arguments)
    except (BadRequestError, UserCodeError):
        raise
    except (Exception, SystemExit) as error:
        _log(error)
        raise UserCodeError(f"{name} failed: {_told(error)}") from error


def response(told: Any, kind: str) -> tuple[bytes, str]:
    """Return as body and content type what a function returned: both, or only text, bytes or what JSON can hold."""
    if isinstance(told, tuple) and len(told) == 2 and isinstance(told[1], str):
        told, kind = told
    if isinstance(told, str):
        return told.encode(), kind
    if isinstance(told, bytes | bytearray):
        return bytes(told), kind
    try:
        return json.dumps(plain(told)).encode(), JSON
    except (TypeError, ValueError) as error:
        raise UserCodeError(f"output_fn returned {type(told).__name__}, expected text, bytes or JSON") from error


def plain(value: Any) -> Any:
    """Return an array or tensor as lists, anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _told(error: BaseException) -> str:
    """Return the kind of an error, with its text only where that names a package."""
    return f"{type(error).__name__} ({error})" if isinstance(error, ModuleNotFoundError) else type(error).__name__


def _log(error: BaseException) -> None:
    """Log kind and places of an error, without its text: it may quote a value."""
    places = (f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-5:])
    print(f"{type(error).__name__} at {' > '.join(places)}", file=sys.stderr, flush=True)
