"""Stage `process`: dropped files in; checked, de-duplicated and split examples out, or a rejection.

What the drop is decides who reads it: tables and texts, pictures, or the data of the user's own training script.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ebb_jobs import infer, paths, process_custom, process_drop, process_images, process_tables
from ebb_jobs.process_split import SPLITS
from ebb_jobs.rejection import RejectedError
from ebb_jobs.report import Report


def main() -> None:
    """Process the data channel; a rejection is a good end of the job and is told in the report."""
    settings = paths.settings("process")
    report = Report("process")
    curated, report_folder = paths.output("process", "curated"), paths.output("process", "report")
    try:
        with tempfile.TemporaryDirectory() as work:
            process(paths.channel("process", "data"), curated, settings, report, Path(work))
        into_folders(curated)
        report.fields.update(status="finished", rejection=None)
    except RejectedError as rejected:
        shutil.rmtree(curated)
        curated.mkdir()
        report.fields.update(status="rejected", rejection=rejected.rejection.as_dict())
        print(f"rejected: {rejected.rejection.message}", flush=True)
    report.write(report_folder)


def process(data: Path, curated: Path, settings: dict[str, Any], report: Report, work: Path) -> None:
    """Write the curated data and its schema.json into `curated`. Raises RejectedError."""
    spec = settings.get("spec") or {}
    process_drop.verify(data, process_drop.digests(paths.channel("process", "sources")))
    drop = process_drop.read(data, spec, work)
    task = infer.drop_task(drop.form, spec.get("task"), source=drop.source is not None)
    if task == infer.CUSTOM:
        process_custom.process(drop, curated, spec, report, work)
    elif drop.form == "images":
        process_images.process(drop, curated, spec, report, work)
    else:
        share = settings.get("learn_share", 1.0)
        process_tables.process(drop.folder, drop.files, curated, spec, report, work, share)


def into_folders(curated: Path) -> None:
    """Put the file of each split into a folder of its name, as Spark writes it: a table of a catalog is a folder."""
    for split in SPLITS:
        file = curated / f"{split}.parquet"
        if file.is_file():
            aside = file.rename(curated / "part-0.parquet")
            file.mkdir()
            aside.rename(file / aside.name)
