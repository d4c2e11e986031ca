"""Entry point of every job: `python3 run.py process|train|compress|compile`."""

import sys

from ebb_jobs.entry import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
