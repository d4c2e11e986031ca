"""What the footprint ledger has booked for a run stands in its record and in its report."""

import on_run_ended
from ebb import accounting
from ebb.carbon import Band
from ebb.footprint import made_of
from integration.test_run import book
from worked_run import NOW, REGION, RUN_ID, load, moment

__all__ = ["book"]


def test_the_record_holds_what_was_booked_for_the_run_and_the_report_shows_it(account, book, context):
    """Of the project's month only what is of this run."""
    used = made_of(Band.exact(2.0), Band.exact(1.0), Band.exact(0.1), region=REGION)
    for run_id in (RUN_ID, "cancer-20261123093001-3f9a1c07bf"):
        entry = accounting.avoided_entry(
            "window", project="cancer", id=run_id, at=moment(NOW), instead_of="running at once", would_have=used,
            run_id=run_id,
        )  # fmt: skip
        put, _ = accounting.writes(entry)
        account.table.put_item(**put)
    on_run_ended.handler(load("execution_aborted"), context)
    run = book.run(RUN_ID)
    assert [each["run_id"] for each in account.json(run["record_uri"])["entries"]] == [RUN_ID]
    bucket, _, key = run["report_uri"].removeprefix("s3://").partition("/")
    assert b"running at once" in account.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
