"""Glue, for what Ebb runs on it: Spark jobs, by real Spark on this machine. The Data Catalog is MiniStack's.

MiniStack keeps jobs and says that every Spark run has succeeded at once; here a run is the job's own script under the
job's role, on the Spark of the environment `spark` (`make spark`), which is installed when it is first needed: the demo
needs none.
"""


def install() -> None:
    """Run jobs, and make `glue:startJobRun.sync` known to state machines."""
    from ebb_local.glue import service, step_functions

    service.install()
    step_functions.install()
