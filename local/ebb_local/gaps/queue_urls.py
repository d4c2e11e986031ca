"""A queue keeps its identity when the cloud comes back on another port: MiniStack finds queues by URL, port included.

Behaviour decided: assumed. On AWS a queue's URL never changes; here the stored one always has the preferred port,
and answers still show the address under which the caller reached the cloud.
"""

from ministack.services import sqs

from ebb_local.settings import PREFERRED_PORT


def install() -> None:
    """Give every queue the URL that it would have on the preferred port."""
    sqs.DEFAULT_PORT = str(PREFERRED_PORT)
    sqs._CANONICAL_NETLOC = f"{sqs.DEFAULT_HOST}:{sqs.DEFAULT_PORT}"
