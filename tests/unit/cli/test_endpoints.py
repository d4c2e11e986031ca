"""Where models are reached, what it costs, and an endpoint woken or put to sleep by hand."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from ebb import addresses
from ebb.addresses import Address, IdlePolicy
from ebb.aws.ledger import Ledger as Book
from ebb_cli import endpoints

NOW = datetime.now(UTC)
PETS = Address(
    address="ebb-pets",
    project="pets",
    kind="realtime",
    endpoint_name="ebb-pets--realtime",
    component="ebb-pets--g3",
    instance_type="ml.m5.large",
    awake_usd_per_hour=0.115,
    policy=IdlePolicy(idle_after_s=900),
    last_request_at=NOW - timedelta(hours=3),
)


@pytest.fixture
def book(target) -> Book:
    """The ledger, written as the functions write it."""
    found = Book.__new__(Book)
    found._table, found._answered_at = target.session.resource("dynamodb").Table("ledger"), None
    return found


@pytest.fixture
def machines(target) -> dict[str, str]:
    """The two machines that wake and put to sleep."""
    states, made = target.session.client("stepfunctions"), {}
    definition = json.dumps({"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 600, "End": True}}})
    for name in ("ScaleToZero", "WakeEndpoint"):
        role = "arn:aws:iam::123456789012:role/m"
        arn = states.create_state_machine(name=name, definition=definition, roleArn=role)["stateMachineArn"]
        made[name] = target.outputs[f"{name}StateMachineArn"] = arn
    return made


def started(target, arn: str) -> list[tuple[str, dict]]:
    states = target.client("stepfunctions")
    return [
        (each["name"], json.loads(states.describe_execution(executionArn=each["executionArn"])["input"]))
        for each in states.list_executions(stateMachineArn=arn)["executions"]
    ]


def change(book: Book, to: str, **fields) -> None:
    at = book.address("ebb-pets")
    generation, state = at.generation, at.state
    assert book.apply(
        addresses.change("ebb-pets", expected=state, generation=generation, to=to, now=NOW, fields=fields)
    )


def test_an_empty_cloud_is_told_in_a_sentence(ebb, target):
    assert ebb("endpoints").stdout.startswith("No endpoints yet")
    assert json.loads(ebb("endpoints", "--json").stdout) == []


def test_ebbs_own_delay_at_the_last_wake_is_told(ebb, book):
    book.apply(addresses.put(PETS, now=NOW))
    assert json.loads(ebb("endpoints", "--json").stdout)[0]["called_after_s"] is None
    change(book, "asleep")
    change(book, "awake", called_after_s=0.61)
    assert json.loads(ebb("endpoints", "--json").stdout)[0]["called_after_s"] == 0.61


def test_each_address_is_listed_with_what_it_costs_awake_and_never_asleep(ebb, book):
    book.apply(addresses.put(PETS, now=NOW))
    book.apply(addresses.put(Address(address="ebb-cats", project="cats", kind="batch"), now=NOW))
    change(book, "falling-asleep")
    change(book, "asleep", reason="no call within 15 min")
    cats, pets = json.loads(ebb("endpoints", "--json").stdout)
    assert (cats["kind"], cats["endpoint_name"], cats["sleeps"]) == ("batch", None, False)
    assert (pets["state"], pets["reason"]) == ("asleep", "no call within 15 min")
    assert (pets["endpoint_name"], pets["component"]) == ("ebb-pets--realtime", "ebb-pets--g3")
    assert (pets["awake_usd_per_hour"], round(pets["always_on_usd_per_month"], 2)) == (0.115, 83.95)
    assert datetime.fromisoformat(pets["last_call_at"]) == PETS.last_request_at
    told = ebb("endpoints").stdout
    assert "asleep since" in told
    assert "15 min 00 s" in told
    assert "no call within 15 min" in told


@pytest.mark.parametrize(
    ("address", "told"),
    [
        pytest.param(PETS, "15 min 00 s", id="a fixed window"),
        pytest.param(PETS.model_copy(update={"policy": IdlePolicy()}), "as it is used", id="learned"),
        pytest.param(PETS.model_copy(update={"policy": IdlePolicy(sleeps=False)}), "never", id="kept awake"),
        pytest.param(PETS.model_copy(update={"kind": "serverless"}), "-", id="serverless has nothing to put to sleep"),
    ],
)
def test_when_an_endpoint_sleeps(address, told):
    assert endpoints._window(endpoints._document(address, None)) == told


LONG = PETS.model_copy(
    update={
        "address": "ebb-" + "customer-churn-" * 3 + "north",
        "project": "customer-churn-" * 3 + "north",
        "endpoint_name": "ebb-" + "customer-churn-" * 3 + "north--realtime",
        "awake_usd_per_hour": 32.77,
    }
)


def test_the_table_fits_a_hundred_columns_and_says_where_the_rest_is(ebb, book):
    for each in (PETS, LONG, LONG.model_copy(update={"address": LONG.address[:-5] + "south"})):
        book.apply(addresses.put(each, now=NOW))
    lines = ebb("endpoints").stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert "ebb-pets" in lines[3]
    assert [line.split()[0][-5:] for line in lines[1:3]] == ["north", "south"], "cut in the middle, they stay two"
    assert "ebb endpoints --wide" in lines[-1]
    wide = ebb("endpoints", "--wide").stdout
    assert LONG.address in wide
    assert "ebb-pets--realtime / ebb-pets--g3 on 1 x ml.m5.large" in wide
    assert len(wide.splitlines()) == 4


@pytest.mark.parametrize("width", [100, 80, 60])
def test_a_narrow_terminal_has_fewer_columns_and_no_broken_words(width):
    rows = [endpoints._cells(endpoints._document(each, NOW)) for each in (PETS, LONG)]
    columns, cells, left_out = endpoints.fitting(rows, width)
    assert left_out
    widest = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    assert sum(widest) + 2 * (len(widest) - 1) <= width
    assert {"address", "kind", "state", "USD/month awake"} <= set(columns)
    assert cells[0][0] == "ebb-pets"


def test_where_all_fits_nothing_is_left_out():
    columns, cells, left_out = endpoints.fitting([endpoints._cells(endpoints._document(PETS, NOW))], 100)
    assert not left_out
    assert dict(zip(columns, cells[0], strict=True))["sleeps after"] == "15 min 00 s"


def test_one_address_is_told_in_full(ebb, book):
    book.apply(addresses.put(PETS, now=NOW))
    book.apply(addresses.put(Address(address="ebb-cats", project="cats", kind="batch"), now=NOW))
    told = ebb("endpoints", "pets").stdout
    assert "ebb-cats" not in told
    for part in ("ebb-pets--realtime", "ebb-pets--g3", "ml.m5.large", "15 min 00 s", "0.115"):
        assert part in told
    assert json.loads(ebb("endpoints", "pets", "--json").stdout)["component"] == "ebb-pets--g3"
    assert ebb("endpoints", "pest").exit_code == 2


def test_the_last_call_is_the_later_of_what_the_front_door_noted_and_what_was_measured(ebb, target, book):
    book.apply(addresses.put(PETS, now=NOW))
    moment = (NOW - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    dimensions = [{"Name": "InferenceComponentName", "Value": "ebb-pets--g3"}]
    data = {"MetricName": "InvocationsPerCopy", "Dimensions": dimensions, "Timestamp": moment, "Value": 2}
    target.client("cloudwatch").put_metric_data(Namespace="AWS/SageMaker", MetricData=[data])
    (pets,) = json.loads(ebb("endpoints", "--json").stdout)
    assert datetime.fromisoformat(pets["last_call_at"]) > PETS.last_request_at


def test_what_sleeps_is_woken_by_the_machine_that_every_request_would_start(ebb, target, book, machines):
    book.apply(addresses.put(PETS, now=NOW))
    change(book, "falling-asleep")
    change(book, "asleep")
    for _ in range(2):
        assert "ebb-pets is waking" in ebb("wake", "pets").stdout
    (found,) = started(target, machines["WakeEndpoint"])
    assert found == (
        "wake-ebb-pets-g3",
        {"address": "ebb-pets", "generation": 3, "reason": "asked by hand"},
    )


def test_what_is_awake_is_not_woken(ebb, target, book, machines):
    book.apply(addresses.put(PETS, now=NOW))
    assert "is awake" in ebb("wake", "pets").stdout
    assert not started(target, machines["WakeEndpoint"])


def test_whoever_waits_for_a_wake_that_fails_is_told_why(ebb, book, machines, monkeypatch):
    book.apply(addresses.put(PETS, now=NOW))
    change(book, "falling-asleep")
    change(book, "asleep")

    def fails(_: float) -> None:
        change(book, "failed", reason="no capacity for ml.m5.large")

    monkeypatch.setattr(endpoints.time, "sleep", fails)
    done = ebb("wake", "pets", "--wait")
    assert done.exit_code == 1
    assert "no capacity for ml.m5.large" in done.stderr


def test_what_is_put_to_sleep_by_hand_is_judged_as_ever(ebb, target, book, machines, monkeypatch):
    book.apply(addresses.put(PETS, now=NOW))
    monkeypatch.setattr(endpoints.time, "sleep", lambda _: (change(book, "falling-asleep"), change(book, "asleep")))
    done = ebb("sleep", "pets", "--wait")
    assert "ebb-pets is asleep" in done.stdout
    ((name, given),) = started(target, machines["ScaleToZero"])
    assert name.startswith("sleep-ebb-pets-g1-")
    assert {key: given[key] for key in ("address", "generation", "reason")} == {
        "address": "ebb-pets",
        "generation": 1,
        "reason": "asked by hand",
    }


def test_what_stays_awake_because_it_is_used_says_so(ebb, target, book, machines, monkeypatch):
    book.apply(addresses.put(PETS, now=NOW))
    states = target.client("stepfunctions")

    def decided(_: float) -> None:
        (found,) = states.list_executions(stateMachineArn=machines["ScaleToZero"])["executions"]
        states.stop_execution(executionArn=found["executionArn"])

    monkeypatch.setattr(endpoints.time, "sleep", decided)
    done = ebb("sleep", "pets", "--wait")
    assert done.exit_code == 1
    assert "ebb-pets is awake" in done.stderr


def steps(target, monkeypatch, *told: dict) -> None:
    """Let the running execution have decided so, one step after the other."""
    states, left = target.client("stepfunctions"), list(told)

    def history(*, executionArn: str, reverseOrder: bool, maxResults: int) -> dict:
        step = left.pop(0) if len(left) > 1 else left[0]
        output = json.dumps({"StatusCode": 200, "Payload": step})
        decided = {"timestamp": NOW, "type": "TaskSucceeded", "taskSucceededEventDetails": {"output": output}}
        return {"events": [{"timestamp": NOW, "type": "WaitStateEntered"}, decided]}

    monkeypatch.setattr(states, "get_execution_history", history)


def test_who_waits_is_told_on_stderr_for_what_and_until_when(ebb, target, book, machines, monkeypatch):
    book.apply(addresses.put(PETS, now=NOW))
    used = {"outcome": "wait", "reason": "called 3 min ago, less than 15 min", "wait_s": 720}
    idle = {"outcome": "work", "reason": "no call within 15 min", "wait_s": 150}
    steps(target, monkeypatch, used, used, idle)
    looks = [lambda: None, lambda: change(book, "falling-asleep"), lambda: change(book, "asleep")]
    monkeypatch.setattr(endpoints.time, "sleep", lambda _: looks.pop(0)())
    done = ebb("sleep", "pets", "--wait")
    until = (NOW + timedelta(seconds=720)).astimezone().strftime("%H:%M:%S")
    assert done.stderr.count(f"waiting for ebb-pets: called 3 min ago, less than 15 min, until {until}") == 1
    assert "waiting for ebb-pets: no call within 15 min, until" in done.stderr
    assert "waiting" not in done.stdout
    assert done.stdout.endswith("ebb-pets is asleep.\n")


def test_whose_history_may_not_be_read_waits_all_the_same(ebb, target, book, machines, monkeypatch):
    book.apply(addresses.put(PETS, now=NOW))

    def denied(**_):
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetExecutionHistory")

    monkeypatch.setattr(target.client("stepfunctions"), "get_execution_history", denied)
    monkeypatch.setattr(endpoints.time, "sleep", lambda _: (change(book, "falling-asleep"), change(book, "asleep")))
    done = ebb("sleep", "pets", "--wait")
    assert (done.exit_code, done.stderr.count("waiting for ebb-pets")) == (0, 1)


def test_programs_read_one_document(ebb, target, book, machines, monkeypatch):
    book.apply(addresses.put(PETS, now=NOW))
    started_ = json.loads(ebb("sleep", "pets", "--json").stdout)
    assert (started_["address"], started_["state"]) == ("ebb-pets", "awake")
    assert started_["execution_arn"].startswith(machines["ScaleToZero"].replace("stateMachine", "execution"))
    assert json.loads(ebb("wake", "pets", "--json").stdout)["execution_arn"] is None, "it is awake"
    steps(target, monkeypatch, {"reason": "idle"})
    monkeypatch.setattr(
        endpoints.time, "sleep", lambda _: (change(book, "falling-asleep"), change(book, "asleep", reason="idle"))
    )
    asleep = json.loads(ebb("sleep", "pets", "--wait", "--json").stdout)
    assert (asleep["state"], asleep["reason"]) == ("asleep", "idle")
    waking = json.loads(ebb("wake", "pets", "--json").stdout)
    assert waking["execution_arn"].endswith(":wake-ebb-pets-g3")


def test_programs_too_are_told_why_it_stays_awake(ebb, target, book, machines, monkeypatch):
    book.apply(addresses.put(PETS, now=NOW))
    monkeypatch.setattr(endpoints.executions, "is_running", lambda *_: False)
    found = {"output": json.dumps({"outcome": "keep", "reason": "the tag ebb:keep keeps it"}), "status": "SUCCEEDED"}
    monkeypatch.setattr(target.client("stepfunctions"), "describe_execution", lambda **_: found)
    done = ebb("sleep", "pets", "--wait", "--json")
    assert done.exit_code == 1
    assert (json.loads(done.stdout)["state"], json.loads(done.stdout)["reason"]) == (
        "awake",
        "the tag ebb:keep keeps it",
    )
    assert "ebb-pets is awake: the tag ebb:keep keeps it." in done.stderr


def test_a_wake_that_ends_without_waking_is_not_waited_for_for_ever(ebb, target, book, machines, monkeypatch):
    book.apply(addresses.put(PETS, now=NOW))
    change(book, "falling-asleep")
    change(book, "asleep")
    found = {"status": "FAILED", "error": "EndpointUnreadableError", "cause": "describe_endpoint: AccessDenied"}
    monkeypatch.setattr(target.client("stepfunctions"), "describe_execution", lambda **_: found)
    done = ebb("wake", "pets", "--wait")
    assert done.exit_code == 1
    assert "ebb-pets is asleep: describe_endpoint: AccessDenied." in done.stderr


def test_a_sleep_that_is_killed_and_taken_up_by_another_execution_is_waited_for(
    ebb, target, book, machines, monkeypatch
):
    book.apply(addresses.put(PETS, now=NOW))
    monkeypatch.setattr(endpoints.executions, "is_running", lambda *_: False)
    change(book, "falling-asleep")
    monkeypatch.setattr(endpoints, "known", lambda *_: PETS)
    monkeypatch.setattr(endpoints.time, "sleep", lambda _: change(book, "asleep"))
    assert "ebb-pets is asleep." in ebb("sleep", "pets", "--wait").stdout


def test_asked_for_twice_in_a_minute_the_second_is_waited_for(ebb, target, book, machines, monkeypatch):
    """The name of the first is taken: the second has one of its own, and its outcome is the one that is told."""
    book.apply(addresses.put(PETS, now=NOW))
    monkeypatch.setattr(endpoints.addresses, "sleep_execution", lambda *_: "sleep-ebb-pets-g1")  # the same minute
    first = json.loads(ebb("sleep", "pets", "--json").stdout)["execution_arn"]
    target.client("stepfunctions").stop_execution(executionArn=first)
    second = json.loads(ebb("sleep", "pets", "--json").stdout)["execution_arn"]
    assert second == f"{first}-r1"


def test_one_that_falls_asleep_is_told_that_it_is_wanted(ebb, target, book, machines):
    book.apply(addresses.put(PETS, now=NOW))
    change(book, "falling-asleep")
    assert "ebb-pets is waking" in ebb("wake", "pets").stdout
    ((name, _),) = started(target, machines["WakeEndpoint"])
    assert name == "wake-ebb-pets-g2"


@pytest.mark.parametrize("kind", ["serverless", "batch"])
def test_what_costs_nothing_idle_is_not_put_to_sleep(ebb, target, book, machines, kind):
    book.apply(addresses.put(PETS.model_copy(update={"kind": kind}), now=NOW))
    assert "nothing of it runs while nobody asks" in ebb("sleep", "pets").stdout
    assert not started(target, machines["ScaleToZero"])


@pytest.mark.parametrize("command", ["wake", "sleep"])
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(ebb, book, machines, command):
    book.apply(addresses.put(PETS, now=NOW))
    done = ebb(command, "pest")
    assert done.exit_code == 2
    assert "Did you mean pets?" in done.stderr
