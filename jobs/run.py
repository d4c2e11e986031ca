"""Entry point of every job: `python3 run.py process|train|compress|compile|features|assess`."""

import signal
import sys

from ebb_jobs.entry import main

if __name__ == "__main__":
    # A container's first process ignores SIGTERM unless it says otherwise.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))
