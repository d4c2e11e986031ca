"""How a state machine waits for what changes by itself: it looks after 2 s, 4 s, 8 s and so on, up to a pause. Pure.

A look is one Task, which asks SageMaker and fails with "not yet"; its Retry is the wait. A retry is billed as one state
transition (https://aws.amazon.com/step-functions/pricing/), where a Wait, a look and a Choice are three. Nobody waits
for the looks of a wake: the delivery asks a waking endpoint by itself (`ebb.aws.desk`). For those of a sleep a request
may wait that came after the act: it is woken once it is asleep, so that these are seconds apart.
"""

FIRST_S, FACTOR = 2, 2
LONGEST_S, MOST_RETRIES = 60, 20  # of a wake: a quarter of an hour, then it is decided anew
SLEEPING_S, SLEEPING_RETRIES = 4, 240  # of a sleep: the same
AFTERWARDS_S = 30  # between two decisions, when a look is not enough to tell


def retry_s(number: int, longest_s: int = LONGEST_S) -> int:
    """Return how many seconds pass before the retry of this number, from 1."""
    return min(FIRST_S * FACTOR ** (number - 1), longest_s)


def looks_until(seconds: float, longest_s: int = LONGEST_S) -> int:
    """Return how many looks it takes until one falls after so many seconds; the first one is made at once."""
    looks, waited = 1, 0
    while waited < seconds:
        waited += retry_s(looks, longest_s)
        looks += 1
    return looks


def wait_s(looks: int) -> int:
    """Return how many seconds to wait after so many decisions that found nothing to do but to wait."""
    return retry_s(max(looks, 1)) if looks < 4 else AFTERWARDS_S
