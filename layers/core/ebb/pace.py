"""How often a machine looks at what changes by itself: quickly at first, then as an instance comes. Pure.

Each look is billed as state transitions (`ebb.control_plane`). What is ready within seconds is met within two; an
instance takes minutes, of which half a minute more is a tenth.
"""

QUICK_S, QUICK_LOOKS = 2, 8  # the first 16 s
STEADY_S, STEADY_LOOKS = 15, 4  # the minute after
SLOW_S = 30


def wait_s(looks: int) -> int:
    """Return how many seconds to wait after so many looks; the first of them found something to do."""
    if looks <= QUICK_LOOKS:
        return QUICK_S
    return STEADY_S if looks <= QUICK_LOOKS + STEADY_LOOKS else SLOW_S


def looks_until(seconds: float) -> int:
    """Return how many waits it takes until so many seconds have passed."""
    looks, waited = 0, 0
    while waited < seconds:
        looks += 1
        waited += wait_s(looks)
    return looks
