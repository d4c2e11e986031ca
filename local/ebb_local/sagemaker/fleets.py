"""What answers right now: containers by the ARN of their endpoint and variant, or of their inference component.

During a blue/green deployment an endpoint has two fleets, and a share of the requests goes to the new one.
"""

import random
import threading
from dataclasses import dataclass
from typing import Any

from ebb_local.sagemaker import settings
from ebb_local.sagemaker.hosting import Place, Server

Servers = dict[str, Server]


@dataclass(frozen=True)
class _Shift:
    servers: Servers
    share: float


_serving: dict[str, Servers] = {}
_shifts: dict[str, _Shift] = {}
_coming_back: set[str] = set()
_lock = threading.Lock()


def of(arn: str) -> Servers:
    """Return the containers that answer the next request, by unit; none when nothing is in service."""
    with _lock:
        shift = _shifts.get(arn)
        if shift is not None and random.random() < shift.share:
            return dict(shift.servers)
        return dict(_serving.get(arn, {}))


def every() -> list[Server]:
    """Return every container, those of a deployment under way included."""
    with _lock:
        return [
            server
            for servers in (*_serving.values(), *(shift.servers for shift in _shifts.values()))
            for server in servers.values()
        ]


def put(arn: str, servers: Servers) -> Servers:
    """Let these answer from now on, and only these; return those that did."""
    with _lock:
        old = _serving.get(arn, {})
        _serving[arn] = servers
        _shifts.pop(arn, None)
        _coming_back.discard(arn)
    return old


def shift(arn: str, servers: Servers, share: float) -> None:
    """Let a share of the requests go to a new fleet."""
    with _lock:
        _shifts[arn] = _Shift(servers, share)


def unshift(arn: str) -> None:
    """Let all requests go to the fleet that was there before."""
    with _lock:
        _shifts.pop(arn, None)


def remove(arn: str) -> Servers:
    """Let nothing answer any more; return what did."""
    with _lock:
        shift_ = _shifts.pop(arn, None)
        _coming_back.discard(arn)
        return {**_serving.pop(arn, {}), **({f"{name}/new": s for name, s in shift_.servers.items()} if shift_ else {})}


def announce(arn: str) -> None:
    """Say that containers of this ARN are on their way: the server has just started."""
    with _lock:
        _coming_back.add(arn)


def arrived(arn: str) -> None:
    """Say that no more containers of this ARN are on their way."""
    with _lock:
        _coming_back.discard(arn)


def is_coming_back(arn: str) -> bool:
    """Return whether a request should wait for containers that were there before a restart."""
    with _lock:
        return arn in _coming_back


def close(servers: Servers, drain_s: float | None = None) -> None:
    """Let containers answer what they have, and end them."""
    for server in servers.values():
        server.close(drain_s)


def close_all() -> None:
    """End every container."""
    running = every()
    with _lock:
        _serving.clear()
        _shifts.clear()
        _coming_back.clear()
    for server in running:
        server.close()


def start_variants(endpoint: str, entries: list[dict[str, Any]], *, asleep: bool = False) -> Servers:
    """Start a container for each variant that has a model and instances. Raises HostingFailure, leaving none.

    With `asleep` serverless containers wait for their first request.
    """
    servers: Servers = {}
    try:
        for entry in entries:
            server = variant_server(endpoint, entry)
            if server is None:
                continue
            servers[server.unit] = server
            server.prepare()
            if not (asleep and server.serverless):
                server.start()
    except BaseException:
        close(servers)
        raise
    return servers


def variant_server(endpoint: str, entry: dict[str, Any]) -> Server | None:
    """Return the container of a variant, not yet started; None when it has no model or no instance."""
    variant, serverless = entry["variant"], entry["variant"].get("ServerlessConfig")
    if entry["model"] is None or not (serverless or entry["current"]):
        return None
    name = variant["VariantName"]
    base = settings.current().endpoints / endpoint
    place = Place(name, "production variant", base, f"/aws/sagemaker/Endpoints/{endpoint}", name)
    return Server(place, entry["model"], serverless=serverless)
