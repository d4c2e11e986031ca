"""The kind of serving: what each kind takes, which ones do not fit, and when a model moves."""

import json
import random
from datetime import UTC, datetime, timedelta

import botocore.session
import pytest

from ebb import catalog, ledger, serving, serving_kinds, serving_model, serving_sizes, traffic
from ebb.errors import NoFeasibleInstanceError
from ebb.serving import Current
from ebb.serving_model import Model
from ebb.spec import PipelineSpec
from ebb.spec_serve import ServeSpec

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SMALL = Model(memory_mib=250, cpu_s=0.005, answer_s=0.005, slow_answer_s=0.008)
# 4.4 GiB and a quarter of a second: break-even of serverless and an instance at some 80,000 requests a day.
LARGE = Model(memory_mib=4300, cpu_s=0.25, answer_s=0.3, slow_answer_s=0.4)
UNTOLD = Model(own_code=True)


def asked(**fields) -> ServeSpec:
    return PipelineSpec.model_validate({"serve": fields}).serve


def rows(model=SMALL, per_day: float | None = 500, **fields) -> dict[str, serving_kinds.Row]:
    found = serving_kinds.table(
        serve=asked(**fields), model=model, traffic=traffic.expected(per_day), region="us-east-1"
    )
    return {row.kind: row for row in found}


def choose(model=SMALL, per_day: float | None = 500, *, seen=None, current=None, by_hand=None, others=0.0, **fields):
    return serving.choose(
        serve=asked(**fields),
        model=model,
        traffic=seen or traffic.expected(per_day),
        region="us-east-1",
        current=current,
        now=NOW,
        asked=by_hand,
        others_memory_mb=others,
    )


def fields_of(row: serving_kinds.Row) -> list[str]:
    return [each.field for each in row.excluded]


def days(*per_day: float, shape=(1.0,) * 24) -> traffic.Traffic:
    """Measured days, the last one just over, each with its calls spread as `shape` says."""
    hours = [calls * part / sum(shape) for calls in per_day for part in shape]
    begin = NOW - timedelta(hours=len(hours))
    points = [(begin + timedelta(hours=place), calls) for place, calls in enumerate(hours)]
    return traffic.measured(points, since=begin, until=NOW)


# What each kind takes, by hand


def test_serverless_is_billed_for_each_answer_rounded_up_to_a_millisecond():
    # 450 MiB with room for requests: 1,024 MB, which brings 1/1.73 vCPU. An answer of 5 ms and 2 ms of HTTP, all of it
    # processor time, takes 7 * 1.73 = 12.11 ms there: 13 ms are billed. One a second never finds it cold.
    # 86,400 * 0.013 s * 1 GiB * 0.00002 USD = 0.022464 USD a day, * 365/12
    found = rows(per_day=86_400)["serverless"]
    assert (found.memory_mb, found.max_concurrency) == (1024, 5)
    assert found.month.cost_usd.value == pytest.approx(0.022464 * 365 / 12)


def test_serverless_takes_energy_for_its_containers_and_for_the_work():
    # one container, kept all day: 86,400 s and 86,400 * 0.01211 = 1,046.3 s of answers, 1 GiB
    #   memory   (86,400 + 1,046.3) s / 3,600 * 0.000392 kWh                        = 0.0095219 kWh
    #   idle     (86,400 * 0.5 + 1,046.3) s * 0.5780 vCPU * 0.74 W = 18,926 J       = 0.0052573 kWh
    #   work     86,400 * 0.007 s * (3.50 - 0.74) W = 1,669.2 J                     = 0.0004637 kWh
    # together 0.0152429 kWh * 1.14 PUE = 0.0173769 kWh a day
    found = rows(per_day=86_400)["serverless"]
    assert found.month.energy_kwh.value == pytest.approx(0.0173769 * 365 / 12, rel=1e-4)


def test_an_instance_that_is_always_awake_takes_its_price_and_power_all_month():
    # c5.large, 730 h: 0.102 USD/h. 2 vCPU at 604.8 s / 172,800 s load: 2 * (0.65 + 0.0035 * 3.61) = 1.32527 W,
    # 4 GiB * 0.392 W = 1.568 W; 2.89327 W * 730 h * 1.14 = 2.40778 kWh; * 379.069 g + 2 * 0.48 g/h * 730 h = 1,613.5 g
    found = rows(per_day=86_400)["realtime"]
    assert (found.instance_type, found.copies) == ("ml.c5.large", 1)
    assert found.month.cost_usd.value == pytest.approx(0.102 * 730)
    assert found.month.energy_kwh.value == pytest.approx(2.40778, rel=1e-4)
    assert found.month.carbon_g.value == pytest.approx(1613.5, rel=1e-4)


def test_an_instance_that_sleeps_is_billed_for_window_and_waking_after_each_call():
    # 2 calls a day far apart: each keeps it up for 15 min and 300.6 s of waking. A call in that time adds nothing.
    found = rows(per_day=2)["realtime"]
    window_s = 900 + 300.6
    assert found.month.cost_usd.value == pytest.approx(2 * window_s / 3600 * 0.102 * 365 / 12, rel=0.02)
    assert found.sleeps == "after 15 min without a call"


def test_an_asynchronous_request_costs_its_objects_in_s3_too():
    both = rows(per_day=1_000_000)
    extra = both["async"].month.cost_usd.value - both["realtime"].month.cost_usd.value
    assert extra == pytest.approx(1_000_000 * 0.0000108 * 365 / 12)


def test_a_batch_job_is_billed_for_its_start_and_for_the_days_requests():
    # m5.large, 2 vCPU: 150 s and 100,000 * 0.007 s / 2 = 350 s a day: 500 s * 0.115 USD/h
    found = rows(per_day=100_000, kind="batch")["batch"]
    assert found.instance_type == "ml.m5.large"
    assert found.month.cost_usd.value == pytest.approx(500 / 3600 * 0.115 * 365 / 12)


def test_a_shared_instance_is_paid_by_memory():
    def cost(others_mb: float) -> float:
        choice = choose(LARGE, 500, others=others_mb, instance="ml.m5.2xlarge")
        return next(row for row in choice.rows if row.kind == "shared").usd

    assert cost(0) == pytest.approx(rows(LARGE, 500, instance="ml.m5.2xlarge")["realtime"].usd)
    assert cost(4500) == pytest.approx(cost(0) / 2)
    assert cost(13_500) == pytest.approx(cost(0) / 4)


def test_high_availability_is_two_instances_that_never_sleep():
    found = rows(per_day=1, availability="high")
    assert (found["realtime"].copies, found["realtime"].sleeps) == (2, "never")
    assert found["realtime"].month.cost_usd.value == pytest.approx(2 * 0.102 * 730)
    assert [kind for kind, row in found.items() if row.meets] == ["realtime", "shared"]


def test_nobody_calls_and_nothing_is_taken():
    found = rows(per_day=0)
    assert {row.usd for row in found.values()} == {0}
    assert choose(per_day=0).kind == "serverless"


def test_every_band_holds_its_value_and_every_kind_its_cold_start():
    for model in (SMALL, LARGE, UNTOLD):
        for per_day in (0, 1, 100, 10_000, 10_000_000):
            for row in rows(model, per_day).values():
                assert row.month.energy_kwh.low <= row.month.energy_kwh.value <= row.month.energy_kwh.high
                assert row.cold_start_s.low > 0
                assert 0 <= row.cold_share <= 1


def test_the_image_with_pytorch_starts_later():
    own, exported = rows(UNTOLD), rows(SMALL)
    assert all(own[kind].cold_start_s.value > exported[kind].cold_start_s.value for kind in own)


# What does not fit


@pytest.mark.parametrize(
    ("model", "per_day", "fields", "kind", "field"),
    [
        pytest.param(SMALL, 500, {"p95_latency": 0.5}, "async", "serve.p95_latency", id="S3 takes longer than the SLA"),
        pytest.param(SMALL, 500, {"p95_latency": 0.012}, "serverless", "serve.p95_latency", id="it has half a vCPU"),
        pytest.param(SMALL, 50, {"cold_start": "avoid"}, "serverless", "serve.cold_start", id="rare calls start cold"),
        pytest.param(SMALL, None, {"cold_start": "avoid"}, "serverless", "serve.cold_start", id="who knows how rare"),
        pytest.param(SMALL, 500, {"availability": "high"}, "async", "serve.availability", id="async has no two copies"),
        pytest.param(SMALL, 500, {"instance": "ml.c5.large"}, "serverless", "serve.instance", id="one is named"),
        pytest.param(SMALL, 500, {"memory_mb": 2048}, "realtime", "serve.memory_mb", id="a serverless size is named"),
        pytest.param(SMALL, 500, {"max_payload_mb": 5}, "serverless", "serve.max_payload_mb", id="5 MB are too many"),
        pytest.param(SMALL, 500, {"max_payload_mb": 50}, "realtime", "serve.max_payload_mb", id="50 MB take a queue"),
        pytest.param(SMALL, 500, {}, "batch", "serve.kind", id="nobody asked for files"),
        pytest.param(
            Model(memory_mib=9000, cpu_s=1, answer_s=1), 500, {}, "serverless", "model.memory_mib", id="too large"
        ),
        pytest.param(
            Model(memory_mib=1500, cpu_s=0.1, answer_s=0.1), 500, {"memory_mb": 1024}, "serverless",
            "serve.memory_mb", id="too large for the size asked for",
        ),
        pytest.param(LARGE, 500, {"instance": "ml.c5.large"}, "realtime", "serve.instance", id="the instance is small"),
        pytest.param(
            Model(memory_mib=500, cpu_s=90, answer_s=90, slow_answer_s=100), 50, {}, "realtime", "model.latency_ms",
            id="nobody waits longer than a minute",
        ),
        pytest.param(LARGE, 30_000_000, {}, "serverless", "traffic.busiest_hour", id="more than 200 at once"),
        pytest.param(
            LARGE, 1_000_000, {"max_copies": 1, "p95_latency": 2}, "realtime", "serve.max_copies", id="too few copies"
        ),
    ],
)  # fmt: skip
def test_a_kind_that_does_not_fit_names_the_field(model, per_day, fields, kind, field):
    row = rows(model, per_day, **fields)[kind]
    assert field in fields_of(row)
    assert not row.meets
    assert all(each.why for each in row.excluded)


def test_no_kind_is_left_out_without_a_field_of_the_spec_the_model_or_the_traffic():
    known = {f"serve.{name}" for name in ServeSpec.model_fields} | {"model.memory_mib", "model.latency_ms"}
    generator = random.Random(4)
    for _ in range(150):
        fields = {
            "cold_start": generator.choice(["allowed", "avoid"]),
            "p95_latency": generator.choice([None, 0.02, 2]),
        }
        fields |= {"max_payload_mb": generator.choice([None, 1, 5, 500])}
        model = Model(memory_mib=10 ** generator.uniform(1, 6), cpu_s=0.1, answer_s=0.1, slow_answer_s=0.2)
        for row in rows(model, 10 ** generator.uniform(0, 9), **fields).values():
            assert row.meets == (not row.excluded)
            assert set(fields_of(row)) <= known | {"traffic.busiest_hour"}
            assert row.month is not None or row.excluded


def test_a_request_that_takes_minutes_is_served_asynchronously():
    slow = Model(memory_mib=500, cpu_s=90, answer_s=90, slow_answer_s=100)
    assert choose(slow, 20).kind == "async"


def test_a_model_that_nothing_holds_is_refused():
    with pytest.raises(NoFeasibleInstanceError, match="no kind of serving"):
        choose(Model(memory_mib=10**6, cpu_s=1, answer_s=1))


def test_a_kind_that_cannot_hold_the_model_is_refused_though_it_is_asked_for():
    with pytest.raises(NoFeasibleInstanceError, match=r"serverless .* model\.memory_mib"):
        choose(Model(memory_mib=9000, cpu_s=1, answer_s=1), kind="serverless")


def test_when_no_kind_meets_everything_the_best_one_serves_and_says_what_it_misses():
    choice = choose(SMALL, 500, p95_latency=0.001)
    assert choice.kind in ("serverless", "realtime")
    assert "serve.p95_latency" in choice.reason


# Sizes


@pytest.mark.parametrize(
    ("model", "size"),
    [
        pytest.param(SMALL, 1024, id="450 MiB"),
        pytest.param(LARGE, 5120, id="4,500 MiB"),
        pytest.param(Model(), 4096, id="nothing known"),
        pytest.param(Model(memory_mib=500), 2048, id="loaded, never asked: twice"),
        pytest.param(Model(memory_mib=4000), 6144, id="twice would be too much, once is not"),
    ],
)
def test_the_memory_size_follows_from_the_measured_model(model, size):
    assert rows(model)["serverless"].memory_mb == size


def test_the_instance_is_the_cheapest_that_holds_the_model_and_its_busiest_hour():
    # 0.252 s of processor * 100 a second * ... 864,000 a day: 24 a second in the busiest hour, 6.05 cores, at 60 % 10.1
    found = rows(LARGE, 864_000)["realtime"]
    machine = catalog.instance(found.instance_type)
    assert found.copies * machine.vcpu * 0.6 >= 24 * 0.252
    assert machine.memory_gib * 1024 * 0.8 >= 4500
    assert rows(LARGE, 500)["realtime"].instance_type == "ml.m5.large"
    assert rows(SMALL, 500)["realtime"].instance_type == "ml.c5.large"


def test_there_is_room_for_the_requests_of_the_busiest_hour_and_no_more_than_aws_allows():
    # 2,592,000 a day: 72 a second in the busiest hour; an answer that 1 in 20 exceeds takes 0.402 s (5 GiB bring more
    # than a vCPU): 28.9 in flight, + 3 * 5.38 = 45.1
    assert rows(LARGE, 2_592_000)["serverless"].max_concurrency == 46
    assert rows(LARGE, 10**8)["serverless"].max_concurrency == 200
    assert rows(SMALL, 10)["serverless"].max_concurrency == 5


def test_other_instance_types_are_named_for_when_the_first_is_not_to_be_had():
    found = rows(LARGE, 500)["realtime"]
    assert found.instance_type not in found.instance_types
    assert len(found.instance_types) == 3


def test_what_inference_recommender_measured_takes_the_place_of_the_estimate():
    # 2.4 requests a second in the busiest hour; one instance was measured to answer 60 a minute, of which 60 % are used
    found = [
        {"EndpointConfiguration": {"InstanceType": "ml.c5.large"}, "Metrics": {"MaxInvocations": 60}},
        {"EndpointConfiguration": {"InstanceType": "ml.m5.large"}, "Metrics": {"MaxInvocations": 30}},
        {"EndpointConfiguration": {"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}}, "Metrics": {}},
    ]
    told = dict(serving_sizes.machines_for(serving_model.recommended(SMALL, found), traffic.expected(86_400), asked()))
    copies = {machine.name: count for machine, count in told.items()}
    assert (copies["ml.c5.large"], copies["ml.m5.large"], copies["ml.c5.xlarge"]) == (4, 8, 1)


def test_a_type_that_was_measured_goes_before_one_that_was_not_and_one_too_slow_is_left_out():
    found = [
        {"EndpointConfiguration": {"InstanceType": "ml.c5.large"}, "Metrics": {"MaxInvocations": 0}},
        {"EndpointConfiguration": {"InstanceType": "ml.m5.xlarge"}, "Metrics": {"MaxInvocations": 600}},
    ]
    told = serving_sizes.machines_for(serving_model.recommended(SMALL, found), traffic.expected(500), asked())
    assert told[0][0].name == "ml.m5.xlarge"
    assert "ml.c5.large" not in [machine.name for machine, _ in told]


def test_where_nothing_answered_in_time_the_estimates_stay():
    found = [{"EndpointConfiguration": {"InstanceType": "ml.c5.large"}, "Metrics": {"MaxInvocations": 0}}]
    assert serving_model.recommended(SMALL, found) == SMALL


def sized(size_mb: int, per_minute: float | str, latency_us: float | str) -> dict:
    metrics = {"MaxInvocations": per_minute, "ModelLatency": latency_us}
    return {"EndpointConfiguration": {"ServerlessConfig": {"MemorySizeInMB": size_mb}}, "Metrics": metrics}


@pytest.mark.parametrize(
    ("found", "size_mb"),
    [
        pytest.param([sized(1024, 600, 90e3), sized(2048, 1200, 40e3)], 2048, id="twice the memory, less than half"),
        pytest.param([sized(1024, 600, 90e3), sized(2048, 700, 80e3)], 1024, id="hardly faster for twice the price"),
        pytest.param([sized(1024, 600, 80e3), sized(2048, 1200, 40e3)], 1024, id="the same price: the smaller one"),
        pytest.param([sized(1024, 0, 900e3), sized(2048, 900, 500e3)], 2048, id="too slow for what was asked"),
        pytest.param([sized(1024, "NaN", "NaN"), sized(2048, 9, 9e3)], 2048, id="a figure that is not available"),
    ],
)
def test_the_serverless_size_is_the_one_whose_answers_cost_least(found, size_mb):
    model = serving_model.recommended(SMALL, found)
    assert rows(model, 500)["serverless"].memory_mb == size_mb
    assert rows(model, 500, memory_mb=3072)["serverless"].memory_mb == 3072, "what is asked for goes before"


def test_types_that_cannot_scale_that_need_other_images_or_that_are_wasted_are_never_chosen():
    for model in (SMALL, LARGE, UNTOLD):
        for per_day in (1, 10_000, 10_000_000):
            for row in rows(model, per_day).values():
                for name in (row.instance_type, *row.instance_types):
                    assert name is None or catalog.instance(name).serves_ebb


def test_what_hosts_is_a_hosting_type_and_what_transforms_is_a_transform_type():
    model = botocore.session.get_session().get_service_model("sagemaker")
    known = {each.name for each in catalog.hosting()}
    assert known <= set(model.shape_for("ProductionVariantInstanceType").enum)
    offered = {rows(each, 500, kind="batch")["batch"].instance_type for each in (SMALL, LARGE, UNTOLD)}
    assert offered <= set(model.shape_for("TransformInstanceType").enum)


# Which one


@pytest.mark.parametrize(
    ("model", "per_day", "fields", "kind"),
    [
        pytest.param(SMALL, None, {}, "serverless", id="nothing known: what takes nothing"),
        pytest.param(SMALL, 500, {}, "serverless", id="some calls"),
        pytest.param(LARGE, 1_000_000, {}, "realtime", id="many heavy calls"),
        pytest.param(SMALL, 50, {"cold_start": "avoid"}, "realtime", id="rare calls that must not wait"),
        pytest.param(SMALL, None, {"cold_start": "avoid"}, "realtime", id="unknown calls that must not wait"),
        pytest.param(SMALL, 86_400, {"cold_start": "avoid"}, "serverless", id="it never gets cold"),
        pytest.param(SMALL, 500, {"availability": "high"}, "realtime", id="two copies"),
        pytest.param(SMALL, 500, {"max_payload_mb": 100}, "async", id="large requests"),
        pytest.param(SMALL, 500, {"kind": "shared"}, "shared", id="asked for"),
        pytest.param(SMALL, 500, {"kind": "batch"}, "batch", id="files"),
    ],
)
def test_the_kind_that_is_chosen(model, per_day, fields, kind):
    choice = choose(model, per_day, **fields)
    assert choice.kind == kind
    assert choice.reason
    assert choice.row.possible


def test_a_kind_asked_for_by_hand_goes_before_that_of_the_spec():
    choice = choose(by_hand="realtime", kind="async")
    assert (choice.kind, choice.reason) == ("realtime", "asked for by hand")
    assert choose(by_hand="auto", kind="async").kind == "async"


def test_neighbours_make_a_shared_instance_the_leanest():
    seen = days(*[1_000_000] * 3)
    assert choose(LARGE, seen=seen).kind == "realtime"
    assert choose(LARGE, seen=seen, others=8000).kind == "shared"


def test_estimates_within_the_noise_are_decided_by_the_price():
    near = choose(LARGE, 50_000)
    one, other = (row for row in near.rows if row.kind in ("serverless", "realtime"))
    assert other.kwh < one.kwh * 1.25 or one.kwh < other.kwh * 1.25
    assert near.kind == min((one, other), key=lambda row: row.usd).kind


def test_on_the_same_machines_more_traffic_never_makes_serverless_relatively_better():
    generator = random.Random(1)
    for _ in range(60):
        cpu_s = 10 ** generator.uniform(-4, 0)
        model = Model(
            memory_mib=generator.uniform(50, 5500), cpu_s=cpu_s, answer_s=cpu_s * generator.uniform(1, 2),
            own_code=generator.random() < 0.3,
        )  # fmt: skip
        window = generator.choice([60, 300, 900, 3600])
        before = 0.0
        for quarter in range(33):
            found = rows(model, 10 ** (quarter / 4), idle_after=window, instance="ml.m5.24xlarge")
            if found["realtime"].copies > 1:
                break
            ratio = found["serverless"].kwh / found["realtime"].kwh
            assert ratio >= before * (1 - 1e-9), (model, quarter)
            before = ratio


# Moving


SINCE = NOW - timedelta(days=30)


def test_a_model_moves_when_its_traffic_has_changed_for_days():
    risen = days(*[5_000] * 4, *[1_000_000] * 4)
    choice = choose(LARGE, seen=risen, current=Current("serverless", SINCE))
    assert (choice.kind, choice.moves) == ("realtime", True)
    assert "on each of the last 3 days" in choice.reason


def test_and_back_when_it_has_gone():
    # the last week still holds two busy days, on which an instance is the leanest
    falling = days(*[1_000_000] * 9, *[2_000] * 5)
    assert choose(LARGE, seen=falling, current=Current("realtime", SINCE)).kind == "realtime"
    fallen = days(*[1_000_000] * 7, *[2_000] * 7)
    choice = choose(LARGE, seen=fallen, current=Current("realtime", SINCE))
    assert (choice.kind, choice.moves) == ("serverless", True)


@pytest.mark.parametrize(
    ("seen", "current", "why"),
    [
        pytest.param(days(1_000_000, 1_000_000), Current("serverless", SINCE), "fewer than 3 days", id="two days"),
        pytest.param(
            days(*[1_000_000] * 7), Current("serverless", NOW - timedelta(days=6)), "less than 7 days", id="just moved"
        ),
        pytest.param(
            days(*[1_000_000] * 5, 100), Current("serverless", SINCE), "not on each of the last 3", id="a quiet day"
        ),
        pytest.param(traffic.expected(1_000_000), Current("serverless", SINCE), "fewer than", id="only expected"),
        pytest.param(days(*[98_000] * 14), Current("serverless", SINCE), "margin", id="little to gain"),
    ],
)
def test_a_model_stays_where_it_is_and_says_why(seen, current, why):
    choice = choose(LARGE, seen=seen, current=current)
    assert (choice.kind, choice.moves) == (current.kind, False)
    assert why in choice.reason


def test_a_move_that_is_not_paid_back_within_a_week_is_not_made():
    # A call a week: an instance takes four times the energy of serverless, and still next to nothing.
    seldom = days(*[0, 0, 0.15] * 4)
    choice = choose(SMALL, seen=seldom, current=Current("async", SINCE))
    assert choice.kind == "async"
    assert "days save" in choice.reason or "not on each" in choice.reason
    often = days(*[0.15] * 14)
    choice = choose(SMALL, seen=often, current=Current("async", SINCE))
    assert (choice.kind, "days save" in choice.reason) == ("async", True)


def test_a_kind_that_no_longer_meets_the_spec_is_left_at_once():
    choice = choose(SMALL, seen=days(500), current=Current("serverless", NOW), availability="high")
    assert (choice.kind, choice.moves) == ("realtime", True)
    assert "serve.availability" in choice.reason


def test_a_new_deployment_without_calls_yet_is_no_reason_to_leave_a_kind_that_must_not_start_cold():
    choice = choose(SMALL, None, current=Current("serverless", NOW), cold_start="avoid")
    assert (choice.kind, choice.moves) == ("serverless", False)
    rare = choose(SMALL, seen=days(20), current=Current("serverless", NOW), cold_start="avoid")
    assert (rare.kind, rare.moves) == ("realtime", True)


def test_a_kind_that_the_spec_names_is_not_left():
    choice = choose(LARGE, seen=days(*[2_000] * 14), current=Current("realtime", SINCE), kind="realtime")
    assert (choice.kind, choice.moves) == ("realtime", False)


OFFICE = (*[0.2] * 7, *[2.0] * 11, *[0.5] * 6)


def moves_of(series: list[float], kind: str) -> list[tuple[int, str]]:
    """Decide every day on the last fortnight, as a daily check would, and return when it moved and where."""
    current, moved = Current(kind, SINCE), []
    for day in range(1, len(series) + 1):
        seen = days(*series[max(0, day - 14) : day], shape=OFFICE)
        choice = choose(LARGE, seen=seen, current=current)
        if choice.moves:
            moved.append((day, choice.kind))
        current = Current(choice.kind, NOW - timedelta(days=day - moved[-1][0]) if moved else SINCE)
    return moved


@pytest.mark.parametrize(
    ("noise", "most"),
    [pytest.param(0.3, 1, id="a third up or down"), pytest.param(0.6, 2, id="up to four times from day to day")],
)
@pytest.mark.parametrize("level", [60_000, 80_000, 120_000])
@pytest.mark.parametrize("begin", ["serverless", "realtime"])
def test_a_noisy_series_around_the_break_even_does_not_flap(begin, level, noise, most):
    for seed in range(2):
        generator = random.Random(seed)
        series = [level * generator.uniform(1 - noise, 1 + noise) for _ in range(60)]
        assert len(moves_of(series, begin)) <= most


def test_a_rise_moves_a_model_once_and_a_fall_brings_it_back_once():
    generator = random.Random(7)
    series = [level * generator.uniform(0.7, 1.3) for level in [3_000] * 20 + [800_000] * 20 + [3_000] * 25]
    moved = moves_of(series, "serverless")
    assert [kind for _, kind in moved] == ["realtime", "serverless"]
    assert 20 < moved[0][0] <= 28
    assert 40 < moved[1][0] <= 48


# What is kept


def test_the_decision_goes_into_the_ledger_and_comes_back_with_its_table():
    choice = choose(SMALL, 500)
    decision = choice.decision()
    assert decision["what"] == "kind of serving"
    assert [row["kind"] for row in decision["table"]] == list(serving_kinds.KINDS)
    assert len(json.dumps(decision)) < 12_000
    (item,) = ledger.decision_items("run", "select", [decision])
    assert ledger.from_item(item)["table"] == json.loads(json.dumps(decision["table"]))


def test_what_was_assumed_is_said():
    assert any("nobody has timed it" in each for each in choose(UNTOLD).assumed)
    assert any("Service Quotas" in each for each in choose(LARGE, 2_592_000).assumed)
    assert not any("Service Quotas" in each for each in choose(SMALL, 500).assumed)
    assert choose(SMALL, 500, idle_after=900, others=100).assumed == ()
    assert not any("sleeps" in each for each in choose(SMALL, 500, availability="high").assumed)


def test_a_model_is_read_from_compiles_report():
    measured = {
        "end_to_end_latency_ms": {"p50": 2.0, "p95": 4.0, "p99": 9.0}, "latency_ms": {"p50": 1.0, "p99": 3.0},
        "cpu_ms_per_prediction": 1.5, "memory_mib": 70.6, "image": "jobs",
    }  # fmt: skip
    read = Model.of(measured)
    assert (read.answer_s, read.slow_answer_s, read.cpu_s, read.memory_mib) == (0.002, 0.004, 0.0015, 70.6)
    assert read.own_code
    assert not Model.of({"memory_mib": 500}).timed


def test_no_job_is_given_a_type_that_only_hosts():
    model = botocore.session.get_session().get_service_model("sagemaker")
    jobs = {each.name for each in catalog.instances()}
    assert jobs <= set(model.shape_for("TrainingInstanceType").enum)
    assert {each.name for each in catalog.hosting()} - jobs >= {"ml.c5.large", "ml.c7g.large", "ml.t2.medium"}
