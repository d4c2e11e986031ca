"""Short names of what decides a training run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ebb_jobs.kind import Codec


def of(*parts: Any) -> str:
    """Return a short name of what decides a training run."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def of_codec(codec: Codec) -> str:
    """Return a short name of everything that the codec has learned."""
    return of({name: hashlib.sha256(content).hexdigest() for name, content in codec.files().items()})
