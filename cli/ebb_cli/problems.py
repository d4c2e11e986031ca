"""What can go wrong in a command, told in one line with a remedy, and the exit status that it ends with."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from botocore import exceptions as aws
from rich.markup import escape

from ebb.errors import EbbError, RejectionError
from ebb_cli import output
from ebb_local import lifecycle

SUCCESS, FAILURE, USAGE, REJECTED, CANCELLED, WAITING = 0, 1, 2, 3, 4, 5

# How each status of a run ends the command that waited for it. A reused or superseded run did what was asked: there is
# a model for these bytes, or a newer drop is on its way.
EXIT_OF_STATUS = {
    "succeeded": SUCCESS,
    "reused": SUCCESS,
    "superseded": SUCCESS,
    "failed": FAILURE,
    "rejected": REJECTED,
    "cancelled": CANCELLED,
}


class CommandError(Exception):
    """A command cannot go on. `message` says what is wrong, `remedy` what to do about it."""

    def __init__(self, message: str, remedy: str = "", *, status: int = FAILURE) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.status = status


def reported(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what a command raises into one line and an exit status; EBB_DEBUG=1 lets the traceback through."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            output.err().print("interrupted; what was started goes on (ebb runs, ebb cancel RUN)")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # The reader has gone (`ebb runs | head`): nothing is wrong, and nothing more can be said.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(SUCCESS) from None
        except Exception as problem:
            if os.environ.get("EBB_DEBUG"):
                raise
            told = describe(problem)
            output.err().print(f"[bold red]error:[/] {escape(sentence(told.message))}", soft_wrap=True)
            if told.remedy:
                output.err().print(f"       {escape(told.remedy)}", soft_wrap=True)
            raise typer.Exit(told.status) from None

    wrapped.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    return wrapped


def sentence(text: str) -> str:
    """Return a message with its period; the end of a log, and a name that is to be copied, stay as they are."""
    last = text.rsplit(" ", 1)[-1]
    return text if not text or "\n" in text or "/" in last or text[-1] in ".!?:;…" else f"{text}."


def describe(problem: Exception) -> CommandError:
    """Return the line and the remedy for an exception of any kind."""
    match problem:
        case CommandError():
            return problem
        case RejectionError():
            told = problem.rejection
            where = f"{told.file}: " if told.file and told.file not in told.message else ""
            return CommandError(f"{where}{told.message}", told.remedy, status=REJECTED)
        case EbbError():
            return CommandError(str(problem))
        case lifecycle.ServerBusy():
            return CommandError(str(problem), "Try again in a moment; ebb down ends it.")
        case lifecycle.LifecycleError():
            return CommandError(str(problem), "ebb doctor looks for the cause.")
        case aws.ClientError():
            error = problem.response.get("Error", {})
            code, message = error.get("Code", ""), error.get("Message", "")
            return CommandError(f"{problem.operation_name} was refused: {code}: {message}", _remedy_of_code(code))
        case aws.NoCredentialsError() | aws.PartialCredentialsError() | aws.ProfileNotFound():
            return CommandError(str(problem), "ebb up starts the embedded cloud; for AWS give --profile NAME.")
        case aws.NoRegionError():
            return CommandError("No Region is chosen.", "Give --region NAME or a profile that has one.")
        case aws.EndpointConnectionError() | aws.ConnectionError():
            return CommandError(str(problem), "Is the embedded cloud running? ebb up starts it, ebb doctor looks.")
        case OSError() if problem.filename:
            return CommandError(f"{problem.filename}: {problem.strerror}")
    return CommandError(f"{type(problem).__name__}: {problem}", "EBB_DEBUG=1 shows where.")


def _remedy_of_code(code: str) -> str:
    if "AccessDenied" in code or code == "UnauthorizedOperation":
        return "These credentials may not do this: ask for the action named above, or choose another --profile."
    if "Expired" in code or code in {"InvalidClientTokenId", "UnrecognizedClientException"}:
        return "Sign in again, or choose another --profile."
    if "Throttl" in code:
        return "Too many calls at once: try again in a moment."
    return ""
