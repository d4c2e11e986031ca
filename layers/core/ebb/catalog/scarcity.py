"""Which instance types one cannot count on getting again at once."""

from functools import cache
from importlib.resources import files

import yaml


def is_scarce(instance_type: str) -> bool:
    """Return whether a type, as `ml.g5.xlarge`, is of a family that is often sold out."""
    family = instance_type.removeprefix("ml.").split(".")[0]
    return family in _families() or family.split("-")[0] in _families()


@cache
def _families() -> frozenset[str]:
    text = files(__package__).joinpath("scarce.yaml").read_text(encoding="utf-8")
    return frozenset(yaml.safe_load(text)["families"])
