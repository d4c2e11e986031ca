"""Where the embedded cloud lives, and the few facts that every part of it shares."""

import os
from dataclasses import dataclass
from pathlib import Path

REGION = "us-east-1"
ACCOUNT_ID = "000000000000"
PREFERRED_PORT = 4747
PROFILE = "ebb"
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Home:
    """The folder of one embedded cloud: everything that it keeps is below it."""

    root: Path

    @property
    def server_file(self) -> Path:
        """Pid, port and endpoint of the running server; absent while none runs."""
        return self.root / "server.json"

    @property
    def lock_file(self) -> Path:
        """Held by the running server; says which process that is, or was."""
        return self.root / "lock"

    @property
    def children_file(self) -> Path:
        """The processes of jobs and endpoints that run, for whoever cleans up after a server that was killed."""
        return self.root / "sagemaker-children.json"

    @property
    def log_file(self) -> Path:
        """What the server and the services print."""
        return self.root / "logs" / "server.log"

    @property
    def scratch(self) -> Path:
        """Temporary files; emptied at every start, because workers leave folders behind when they are killed."""
        return self.root / "tmp"

    def create(self) -> None:
        """Make the folders that the parts expect."""
        for name in ("aws", "state", "objects", "jobs", "endpoints", "logs", "tmp"):
            (self.root / name).mkdir(parents=True, exist_ok=True)


def default_home() -> Home:
    """Return the home named by EBB_HOME, else `.ebb/` in the checkout."""
    return Home(Path(os.environ.get("EBB_HOME") or CHECKOUT / ".ebb").absolute())


def environments() -> Path:
    """Return the folder of the Python environments that stand for container images and runtimes."""
    return Path(os.environ.get("EBB_VENVS") or CHECKOUT / ".venvs").absolute()


def environment_python(name: str) -> Path:
    """Return the interpreter of the environment `name` (lambda, jobs, serve); it may not be there yet."""
    return environments() / name / "bin" / "python"
