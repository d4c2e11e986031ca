"""Where SageMaker keeps its files and how patient it is, read when `install()` runs."""

import os
from dataclasses import dataclass
from pathlib import Path

from ebb_local.settings import PREFERRED_PORT, default_home, environments


@dataclass(frozen=True)
class Settings:
    """Paths and waiting times of the embedded SageMaker."""

    home: Path
    endpoint_url: str
    environments: Path
    """One Python environment per image: `jobs/bin/python`, `serve/bin/python`."""
    keep_job_files: bool
    stop_grace_s: float
    """Between SIGTERM and SIGKILL. AWS waits 120 s; a person at a terminal does not."""
    idle_after_s: float
    """A serverless endpoint without requests for so long gives its process back and starts cold."""
    start_timeout_s: float
    """A container that does not answer /ping for so long failed. AWS: 180 s for serverless endpoints."""

    @property
    def jobs(self) -> Path:
        """Base directories of jobs, what `/opt/ml` is inside a container."""
        return self.home / "jobs"

    @property
    def endpoints(self) -> Path:
        """Base directories of serving containers."""
        return self.home / "endpoints"

    @classmethod
    def from_env(cls) -> "Settings":
        """Read the environment of the server: STATE_DIR (in its home), GATEWAY_PORT, EBB_VENVS, the waiting times."""
        saved = os.environ.get("STATE_DIR")
        return cls(
            home=Path(saved).absolute().parent if saved else default_home().root,
            endpoint_url=f"http://127.0.0.1:{os.environ.get('GATEWAY_PORT', PREFERRED_PORT)}",
            environments=environments(),
            keep_job_files=os.environ.get("EBB_KEEP_JOBS") == "1",
            stop_grace_s=float(os.environ.get("EBB_STOP_GRACE_S", "5")),
            idle_after_s=float(os.environ.get("EBB_SERVERLESS_IDLE_S", "300")),
            start_timeout_s=float(os.environ.get("EBB_ENDPOINT_START_S", "180")),
        )


_current: Settings | None = None


def current() -> Settings:
    """Return the settings in force."""
    global _current
    if _current is None:
        _current = Settings.from_env()
    return _current


def use(settings: Settings) -> None:
    """Put settings in force."""
    global _current
    _current = settings
