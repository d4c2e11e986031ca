"""What the configurations of an endpoint are called, on its first instance type and on each other one. Pure."""

import hashlib
from collections.abc import Iterable, Sequence

CONFIG_CHARS = 63


def config_on(name: str, instance_type: str, types: Iterable[str]) -> str:
    """Return what a configuration is called on another type; `types` are those that its name may end in already.

    A name has at most 63 characters: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpointConfig.html
    Cut, two that begin alike stay two.
    """
    first, ending = _first_config(name, types), _on(instance_type)
    if len(first + ending) > CONFIG_CHARS:
        digest = "-" + hashlib.sha256(first.encode()).hexdigest()[:6]
        first = first[: CONFIG_CHARS - len(digest + ending)] + digest
    return first + ending


def configs_of(name: str, types: Sequence[str]) -> list[str]:
    """Return every name that an endpoint's configuration may have had: its first one, and that on each other type."""
    first = _first_config(name, types)
    return list(dict.fromkeys([name, first, *(config_on(first, each, types) for each in types)]))


def _first_config(name: str, types: Iterable[str]) -> str:
    ending = next((_on(each) for each in types if name.endswith(_on(each))), "")
    return name.removesuffix(ending)


def _on(instance_type: str) -> str:
    """Return how the name of a configuration ends; "-a" as Ebb's own configurations are named."""
    return "-a-" + instance_type.removeprefix("ml.").replace(".", "-")
