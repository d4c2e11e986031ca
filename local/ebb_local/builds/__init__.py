"""CodeBuild, for what Ebb builds with it: the images of containers/, by a buildspec that calls `aws` and `docker`.

MiniStack keeps projects and builds; here a build runs. Its commands are executed as they stand in the project, under
the project's service role, with an `aws` and a `docker` that know what they need and refuse the rest by name
(programs.py).
There is no docker on this machine: an image stands for a Python environment, which `docker build` checks against the
context, and fills by the context's own install.sh when something is missing.
"""


def install() -> None:
    """Run builds, and make `codebuild:startBuild.sync` known to state machines."""
    from ebb_local.builds import service  # here, because programs.py runs without MiniStack

    service.install()
