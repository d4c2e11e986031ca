"""Which cloud a command speaks to: AWS by profile, an endpoint URL, or a running embedded cloud, found by itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import boto3
import typer
from botocore.config import Config
from botocore.exceptions import ClientError
from rich.markup import escape

from ebb_cli import output
from ebb_cli.problems import CommandError
from ebb_local import lifecycle
from ebb_local.settings import default_home

DEFAULT_STACK = "ebb"


def home() -> Path:
    """Return where the embedded cloud keeps its state: `.ebb` in the checkout, or EBB_HOME."""
    return default_home().root


@dataclass(frozen=True)
class Target:
    """One account of one cloud, and the stack in it."""

    session: boto3.Session
    endpoint_url: str | None
    embedded: bool
    account: str
    region: str
    stack: str
    profile: str | None = None

    @property
    def name(self) -> str:
        """What is spoken to, for people."""
        if self.embedded:
            return f"embedded cloud {self.endpoint_url}"
        if self.endpoint_url:
            return f"{self.endpoint_url} account {self.account} region {self.region}"
        return f"AWS account {self.account} region {self.region}"

    @property
    def poll_s(self) -> float:
        """How long to wait between two looks: loopback is free, AWS throttles."""
        return 0.5 if self.embedded else 5.0

    @functools.cache  # noqa: B019 - one target lives as long as its command
    def client(self, service: str) -> Any:
        """Return the client of a service, made once."""
        retries = Config(retries={"mode": "standard", "max_attempts": 5})
        make: Any = self.session.client  # the stubs want literal names
        return make(service, endpoint_url=self.endpoint_url, config=retries)

    @functools.cached_property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs by name."""
        return {item["OutputKey"]: item["OutputValue"] for item in self.describe_stack().get("Outputs", [])}

    def describe_stack(self) -> dict[str, Any]:
        """Return CloudFormation's description of the stack; say what to do when there is none."""
        try:
            return self.client("cloudformation").describe_stacks(StackName=self.stack)["Stacks"][0]
        except ClientError as problem:
            if problem.response["Error"]["Code"] != "ValidationError":
                raise
            raise CommandError(f"There is no stack {self.stack!r} in {self.name}.", self._remedy()) from None

    def _remedy(self) -> str:
        if not self.embedded:
            return "make deploy deploys it; --stack names another."
        if self.stack == DEFAULT_STACK:
            return "ebb up deploys it."
        return f"Leave out --stack {self.stack}: ebb up deploys the stack {DEFAULT_STACK}."


def find(
    *,
    profile: str | None = None,
    endpoint_url: str | None = None,
    region: str | None = None,
    stack: str = DEFAULT_STACK,
) -> Target:
    """Return the target of a command: what the options name, else a running embedded cloud, else AWS."""
    server = None if profile else lifecycle.running(home())
    if server and endpoint_url in (None, server.endpoint_url):
        return of_server(server, stack)
    session = boto3.Session(profile_name=profile, region_name=region)
    if session.get_credentials() is None:
        raise CommandError(
            "The embedded cloud is not running and there are no AWS credentials.",
            "ebb up starts the embedded cloud; for AWS give --profile NAME.",
        )
    if not session.region_name:
        raise CommandError("No Region is chosen.", "Give --region NAME or a profile that has one.")
    sts = session.client("sts", endpoint_url=endpoint_url)
    spoken_to = sts.meta.endpoint_url
    # A profile or AWS_ENDPOINT_URL may point elsewhere than to AWS: say so then.
    elsewhere = endpoint_url or (None if "amazonaws." in (urlsplit(spoken_to).hostname or "") else spoken_to)
    account = sts.get_caller_identity()["Account"]
    return Target(session, elsewhere, False, account, session.region_name, stack, profile)


def of_server(server: lifecycle.Server, stack: str = DEFAULT_STACK) -> Target:
    """Return the target that is an embedded cloud."""
    # Any secret goes with the key `test`, the root of the embedded account; nothing of the user's own is sent.
    session = boto3.Session("test", "test", region_name=server.region)
    return Target(session, server.endpoint_url, True, server.account_id, server.region, stack)


Profile = Annotated[str | None, typer.Option("--profile", help="AWS profile; without it, a running embedded cloud.")]
EndpointUrl = Annotated[str | None, typer.Option("--endpoint-url", help="Speak to this URL instead.")]
Region = Annotated[str | None, typer.Option("--region", help="AWS Region; the profile's own without it.")]
Stack = Annotated[
    str, typer.Option("--stack", "--stack-name", envvar="EBB_STACK", help="Name of the CloudFormation stack.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]

_OPTIONS = {
    "profile": (Profile, None),
    "endpoint_url": (EndpointUrl, None),
    "region": (Region, None),
    "stack": (Stack, DEFAULT_STACK),
}


def on_target(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose its target, and call it with the Target that they choose."""
    own = inspect.signature(function, eval_str=True)
    names = [name for name in _OPTIONS if name not in own.parameters]

    @functools.wraps(function)
    def wrapped(**options: Any) -> Any:
        target = find(**{name: options.pop(name) for name in names})
        output.err().print(f"target: {escape(target.name)}", style="dim", soft_wrap=True)
        return function(target=target, **options)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [item.replace(kind=keyword) for item in own.parameters.values() if item.name != "target"]
    for name in names:
        annotation, default = _OPTIONS[name]
        parameters.append(inspect.Parameter(name, keyword, default=default, annotation=annotation))
    wrapped.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapped
