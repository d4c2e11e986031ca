"""The sample payload: requests of held-out rows that the model answers, packed as a load test of it wants them.

One file is one request of one row, all of the same content type: the archive does not say of what type a file is.
Source: https://docs.aws.amazon.com/sagemaker/latest/dg/inference-recommender-prerequisites.html
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ebb_jobs import bundle
from ebb_jobs.bodies import Body
from ebb_jobs.kind import Codec, Kind

FILE = "sample-payload.tar.gz"
ROWS = 32
MOST_BYTES = 16 * 2**20
"""Of all requests together, so that pictures do not make an archive that every test has to fetch for minutes."""


def write(folder: Path, kind: Kind, codec: Codec, held: Path) -> dict[str, Any] | None:
    """Write the archive into `folder` and return {file, content_type, requests}; None when no row makes a request.

    `held` is what `Kind.singles` reads: validation rows, so that none of those that judge the model is shown.
    """
    asked: list[Body] = []
    for single in kind.singles(held, "validation", codec, ROWS):
        # the first way to ask is the usual one of its kind; a picture's depends on its file
        asked += [body for body in kind.bodies(codec, [single]) if len(body[2]) == 1][:1]
    if not asked:
        return None
    content_type = Counter(given for _, given, _ in asked).most_common(1)[0][0]
    members: dict[str, bytes | Path] = {}
    left = MOST_BYTES
    for body, given, _ in asked:
        if given == content_type and (len(body) <= left or not members):
            members[f"request-{len(members):02}"] = body
            left -= len(body)
    bundle.pack(folder / FILE, members)
    return {"file": FILE, "content_type": content_type.partition(";")[0], "requests": len(members)}
