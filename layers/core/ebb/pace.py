"""How a state machine waits for what changes by itself: it looks after 2 s, 4 s, 8 s and so on, a minute at most. Pure.

A look is one Task, which asks SageMaker and fails with "not yet"; its Retry is the wait. A retry is billed as one state
transition (https://aws.amazon.com/step-functions/pricing/), where a Wait, a look and a Choice are three. Whoever waits
for an answer does not wait for these looks: the delivery asks a waking endpoint by itself (`ebb.aws.desk`).
"""

FIRST_S, FACTOR, LONGEST_S, MOST_RETRIES = 2, 2, 60, 20
AFTERWARDS_S = 30  # between two decisions, when a look is not enough to tell


def retry_s(number: int) -> int:
    """Return how many seconds pass before the retry of this number, from 1."""
    return min(FIRST_S * FACTOR ** (number - 1), LONGEST_S)


def looks_until(seconds: float) -> int:
    """Return how many looks it takes until one falls after so many seconds; the first one is made at once."""
    looks, waited = 1, 0
    while waited < seconds:
        waited += retry_s(looks)
        looks += 1
    return looks


def wait_s(looks: int) -> int:
    """Return how many seconds to wait after so many decisions that found nothing to do but to wait."""
    return retry_s(looks) if looks < 4 else AFTERWARDS_S
