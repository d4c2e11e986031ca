"""What a run books in the footprint ledger when it ends, worked by hand."""

from datetime import UTC, datetime

import pytest

from ebb import booking, footprint, ledger, record
from ebb.carbon import Band
from ebb.footprint import UNKNOWN_UTILIZATION, Footprint
from worked_run import RUN_ID

REGION = "us-east-1"
RUN = {"run_id": RUN_ID, "project": "cancer", "attempt": 1, "size_bytes": 119_913, "status": "succeeded"}


def used(kwh: float, usd: float = 0.0) -> dict:
    return Footprint(Band.within(kwh, 0.5), Band.within(kwh * 400, 0.5), Band.exact(usd)).as_dict()


def stage(name: str, *, before: dict | None = None, **changed) -> dict:
    fields = {
        "attempt": 1,
        "status": "finished",
        "job_name": f"{RUN_ID}-a1-{name}",
        "instance_type": "ml.m5.large",
        "ended_at": "2026-11-30T23:59:00Z",
        "duration_s": 100.0,
        "billable_s": 100.0,
        "utilisation": 0.25,
        "footprint": used(2.0, 0.4),
    }
    return ledger.from_item(ledger.stage_item(RUN_ID, name, fields | changed, before))


def booked(*stages: dict, **changed) -> list:
    return booking.of_run(RUN | changed.pop("run", {}), stages, region=REGION, **changed)


def test_each_job_is_booked_with_what_was_measured_in_the_month_in_which_it_ended():
    entry, other = booked(stage("process"), stage("train", ended_at="2026-12-01T00:10:00Z"))
    assert entry.key() == {"pk": "FOOTPRINT#cancer#2026-11", "sk": f"stage#{RUN_ID}#1#process#{RUN_ID}-a1-process"}
    assert other.month == "2026-12"
    assert entry.usage["duration_s"] == 100.0
    assert (entry.usage["instance"], entry.usage["utilization"], entry.usage["region"]) == ("ml.m5.large", 0.25, REGION)
    assert entry.usage["measured"] is True
    assert entry.usage["bytes"] == 119_913
    assert "bytes" not in other.usage, "of what training reads the ledger knows no size"


def test_every_coefficient_is_told_with_its_source_and_year():
    told = {each["name"]: each for each in booked(stage("train"))[0].coefficients}
    assert {"processor power (jobs)", "grid intensity", "embodied", "water: cooling", "instance prices"} <= set(told)
    assert all(each["source"] and len(each["year"]) == 4 and each["confidence"] for each in told.values())
    assert "accelerator power" not in told
    gpu = booked(stage("train", instance_type="ml.g5.xlarge"))[0].coefficients
    assert "accelerator power" in {each["name"] for each in gpu}


def test_entries_of_a_run_come_to_what_its_record_says():
    """Attempts that failed, jobs that were interrupted and builds included."""
    first = stage("train", status="failed", attempt=1, job_name="one", footprint=used(1.0))
    second = stage("train", status="failed", attempt=1, job_name="two", footprint=used(3.0), before=first)
    third = stage("train", attempt=2, job_name="three", footprint=used(5.0), before=second)
    builds = [
        {"Id": f"images:{name}", "StartTime": 1795426210000, "EndTime": 1795426355000 + 1000 * more,
         "ComputeType": "BUILD_GENERAL1_MEDIUM", "Image": name}
        for name, more in (("jobs", 0), ("serve", 60))
    ]  # fmt: skip
    fields = record.images_fields(builds, status="finished", attempt=1, region=REGION)
    images = ledger.from_item(ledger.stage_item(RUN_ID, "images", fields, None))
    stages = [images, third]
    entries = booked(*stages, run={"attempt": 2})
    assert len({each.key()["sk"] for each in entries}) == 5
    total = sum((each.footprint for each in entries), start=footprint.NOTHING)
    whole = record.total_footprint(stages)
    assert total.energy_kwh.value == pytest.approx(whole.energy_kwh.value)
    assert total.carbon_g.high == pytest.approx(whole.carbon_g.high)
    assert {each.usage["billable_s"] for each in entries if each.stage == "images"} == {180.0, 240.0}


def test_two_runs_of_one_glue_job_in_an_attempt_are_both_counted():
    first = stage("process", status="failed", job_name="ebb-process", job_run="jr_1")
    second = stage("process", job_name="ebb-process", job_run="jr_2", before=first)
    entries = booked(second)
    assert [each.id.rsplit("#", 1)[1] for each in entries] == ["jr_1", "jr_2"]
    assert "Spark price" in {each["name"] for each in entries[0].coefficients}


def test_a_spot_job_saves_what_the_same_time_costs_on_demand_and_no_energy():
    # 0.12 USD for 30 of 100 seconds: on demand 0.40 USD
    (entry,) = booked(stage("train", spot=True, billable_s=30.0, footprint=used(2.0, 0.12)))
    assert entry.counterfactual.what == "the same machine on demand"
    assert entry.saved["cost_usd"].value == pytest.approx(0.28)
    assert entry.saved["energy_kwh"].value == 0


@pytest.mark.parametrize("job", [{"spot": None}, {"spot": True, "billable_s": 120.0}])
def test_what_saved_nothing_has_no_counterfactual(job):
    assert booked(stage("train", **job))[0].counterfactual is None


def test_a_job_that_never_had_a_machine_is_not_booked_and_one_of_unknown_kind_counts_nothing():
    assert booked(stage("train", duration_s=0.0)) == []
    (entry,) = booked(stage("train", instance_type="ml.new.large", footprint=None))
    assert entry.usage["measured"] is False
    assert entry.footprint == footprint.NOTHING
    assert entry.usage["duration_s"] == 100.0


def test_a_job_without_a_time_is_booked_when_its_run_was_asked_for():
    (entry,) = booked(stage("train", ended_at=None))
    assert entry.at == datetime(2026, 11, 23, 9, 30, tzinfo=UTC)


def test_the_same_run_books_the_same_entries_again():
    stages = (stage("process"), stage("train", spot=True, billable_s=10.0))
    assert [each.item() for each in booked(*stages)] == [each.item() for each in booked(*stages)]


STOPPED = {"rule": "plateau", "reason": "no gain", "saved": {"at_most_s": 3600}}


def test_a_training_that_was_stopped_may_have_saved_all_that_it_was_allowed_and_claims_what_the_last_one_took():
    # 3600 s left; it ran 100 s, the last one 1000 s: 900 s of the hour in the middle
    _, entry = booked(stage("train", stopped=STOPPED), last_train_s=1000.0)
    hour = footprint.of_job(
        "ml.m5.large", duration_s=3600, billable_s=3600, load=UNKNOWN_UTILIZATION, region=REGION
    )  # fmt: skip
    assert entry.key()["sk"] == f"avoided#stopped#{RUN_ID}#1#{RUN_ID}-a1-train"
    assert entry.saved["energy_kwh"].low == 0
    assert entry.saved["energy_kwh"].value == pytest.approx(hour.energy_kwh.value / 4)
    assert entry.saved["energy_kwh"].high == pytest.approx(hour.energy_kwh.high)


def test_without_an_earlier_training_nothing_is_claimed_for_stopping_one():
    _, entry = booked(stage("train", stopped=STOPPED))
    assert entry.saved["energy_kwh"].value == 0
    assert entry.saved["energy_kwh"].high > 0


def test_a_stage_that_an_earlier_attempt_had_finished_is_avoided_once_the_next_has_gone_on_from_it():
    done, failed = stage("process"), stage("train", status="failed")
    again = stage("train", attempt=2, job_name="again", before=failed)
    avoided = [each for each in booked(done, again, run={"attempt": 2}) if each.kind == "avoided"]
    assert [each.key()["sk"] for each in avoided] == [f"avoided#reused#{RUN_ID}#2#process"]
    assert avoided[0].saved["energy_kwh"] == Band.within(2.0, 0.5)
    assert avoided[0].footprint == footprint.NOTHING


def test_an_attempt_that_came_to_nothing_has_avoided_nothing():
    entries = booked(stage("process"), stage("train", status="failed"), run={"attempt": 2})
    assert {each.kind for each in entries} == {"stage"}


def test_a_drop_that_was_done_before_saves_what_a_repeat_would_take():
    """Neither the images, which are there, nor the attempt that failed."""
    failed = stage("train", status="failed", footprint=used(7.0))
    stages = [stage("images", footprint=used(9.0)), stage("process"), stage("train", attempt=2, before=failed)]
    earlier = RUN | {"run_id": "cancer-20261101093000-3f9a1c07be"}
    entry = booking.same_drop(RUN, earlier, stages, region=REGION)
    assert entry.key()["sk"] == f"avoided#reused#{RUN_ID}"
    assert entry.saved["energy_kwh"].value == 4.0
    assert earlier["run_id"] in entry.counterfactual.what


def test_features_of_another_project_save_processing():
    entry = booking.same_features(RUN, stage("process"), region=REGION)
    assert entry.key()["sk"] == f"avoided#reused#{RUN_ID}#process"
    assert entry.saved["energy_kwh"].value == 2.0
