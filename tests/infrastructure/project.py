"""The template and the state machines as data, comments included where they carry meaning."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "template.yaml"
MACHINES = sorted((ROOT / "statemachines").glob("*.asl.yaml"))


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms: `!Ref x` reads as {"Ref": "x"}, `!Sub x` as {"Fn::Sub": "x"}."""


def _short_form(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {name: value}


Loader.add_multi_constructor("!", _short_form)


@cache
def template() -> dict[str, Any]:
    """Return the template as SAM reads it."""
    return yaml.load(TEMPLATE.read_text(encoding="utf-8"), Loader)


def resources(*types: str) -> dict[str, dict[str, Any]]:
    """Return the resources of these types, properties with the globals' own left out."""
    return {name: each for name, each in template()["Resources"].items() if each["Type"] in types}


@cache
def machine(path: Path) -> dict[str, Any]:
    """Return one state machine's definition."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def states(definition: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield (name, state, the machine or sub-machine it belongs to), the inside of Map states included."""
    for name, state in definition["States"].items():
        yield name, state, definition
        if "ItemProcessor" in state:
            yield from states(state["ItemProcessor"])


def successors(state: dict[str, Any]) -> list[str]:
    """Return every state that can follow, in the order in which they are written."""
    following = [rule["Next"] for rule in state.get("Choices", [])]
    following += [state[key] for key in ("Default", "Next") if key in state]
    return following + [catcher["Next"] for catcher in state.get("Catch", [])]


def reachable(definition: dict[str, Any], start: str, *, without: frozenset[str] = frozenset()) -> set[str]:
    """Return the states that can be reached from `start` when those in `without` cannot be entered."""
    seen: set[str] = set()
    ahead = [] if start in without else [start]
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += [each for each in successors(definition["States"][name]) if each not in without]
    return seen


@dataclass(frozen=True)
class Statement:
    """One statement of a policy, where it stands, and what its comments say."""

    where: str
    body: dict[str, Any]
    comment: str = field(default="")

    @property
    def actions(self) -> list[str]:
        """The actions, always as a list."""
        found = self.body["Action"]
        return [found] if isinstance(found, str) else found

    @property
    def resources(self) -> list[Any]:
        """The resources, always as a list; conditional ones as their intrinsic function."""
        found = self.body.get("Resource", [])
        return found if isinstance(found, list) else [found]


def statements() -> list[Statement]:
    """Return every statement of every policy document in the template: of roles, keys, queues, buckets, topics."""
    text = TEMPLATE.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = []

    def walk(node: yaml.Node, path: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            keys = {key.value for key, _ in node.value}
            if {"Effect", "Action"} <= keys:
                body = _construct(node)
                found.append(Statement("/".join(path[1:2]), body, _comments(lines, node)))
                return
            for key, value in node.value:
                walk(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for each in node.value:
                walk(each, path)

    walk(yaml.compose(text, Loader), ())
    return found


def _construct(node: yaml.Node) -> dict[str, Any]:
    loader = Loader("")
    try:
        return loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]
    finally:
        loader.dispose()


def _comments(lines: list[str], node: yaml.Node) -> str:
    """Return the comments on the statement's lines and on the comment lines directly above it."""
    first, last = node.start_mark.line, node.end_mark.line
    while last > first and (not lines[last - 1].strip() or lines[last - 1].strip().startswith("#")):
        last -= 1  # what follows the statement belongs to the next one
    above = first
    while above > 0 and lines[above - 1].strip().startswith("#"):
        above -= 1
    parts = [line.strip() for line in lines[above:first]]
    parts += [line[line.index(" #") :] for line in lines[first : max(last, first + 1)] if " #" in line]
    parts += [line.strip() for line in lines[first:last] if line.strip().startswith("#")]
    return "\n".join(parts)
