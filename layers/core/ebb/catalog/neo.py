"""What SageMaker Neo compiles: its documented table of frameworks, versions, devices and Regions."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml


def devices() -> tuple[str, ...]:
    """Return the target devices that the table names."""
    return (*_facts()["cloud"], *_facts()["neuron"])


def max_runtime_s() -> int:
    """Return how long a compilation job may take."""
    return int(_facts()["max_runtime_s"])


def machine() -> str:
    """Return the instance type as which a compilation job's energy is reckoned."""
    return str(_facts()["machine"])


def latest(framework: str) -> str:
    """Return the last version of a framework that the table lists, which is taken where none is named."""
    known = _facts()["frameworks"].get(framework)
    return str(known["versions"][-1]) if known else "0.0"


def refusal(framework: str, version: str, device: str, region: str) -> str | None:
    """Return why Neo does not compile a framework's model of a version for a device in a Region, None when it does.

    `framework` as CreateCompilationJob spells it (ONNX), `version` as 1.7 or 1.7.0.
    """
    facts = _facts()
    chip = facts["neuron"].get(device)
    if device not in facts["cloud"] and chip is None:
        return f"{device} is not in Neo's table; it holds {', '.join(devices())}"
    if chip is not None:
        if framework not in chip["frameworks"]:
            return f"for {device} Neo compiles {', '.join(chip['frameworks'])}, not {framework}"
        if region not in chip["regions"]:
            return f"{device} is offered in {', '.join(chip['regions'])} only, not in {region}"
    known = facts["frameworks"].get(framework)
    if known is None:
        return f"{framework} is not in Neo's table; it holds {', '.join(facts['frameworks'])}"
    if not _listed(version, known):
        most = " or earlier" if known.get("or_earlier") else ""
        return f"{framework} {version} is not in Neo's table; it holds {', '.join(known['versions'])}{most}"
    return None


def _listed(version: str, known: dict[str, Any]) -> bool:
    asked, listed = _number(version), [_number(each) for each in known["versions"]]
    return asked in listed or (bool(known.get("or_earlier")) and asked < max(listed))


def _number(version: str) -> tuple[int, int]:
    major, minor, *_ = [*version.split("."), "0"]
    return int(major), int(minor)


@cache
def _facts() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("neo.yaml").read_text(encoding="utf-8"))
    return found
