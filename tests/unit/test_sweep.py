"""The sweep's judgement: who is a candidate, what disagrees with the ledger, what is left alone, and how often."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ebb import addresses, scaling_wake, sweep
from ebb.addresses import Address, IdlePolicy
from ebb.reaping import Policy, Resource
from ebb.sweep import Daily, Described, Finding, Listed, Report, Seen

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CLOSED, OPEN = Policy(stack="ebb"), Policy(stack="ebb", foreign=True)
ALLOWED = {"ebb:sleep": "allowed"}
HOURS = ALLOWED | {"ebb:budget-hours": "8"}


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def address(state: str = "awake", **more: Any) -> Address:
    given = {
        "address": "ebb-wine",
        "project": "wine",
        "kind": "async",
        "state": state,
        "generation": 4,
        "endpoint_name": "ebb-wine--async",
        "in_service_since": ago(days=9),
        "changed_at": ago(days=9),
        "awake_usd_per_hour": 0.115,
    }
    return Address.model_validate(given | more)


def listed(name: str = "ebb-wine--async", **more: Any) -> Listed:
    given = {"name": name, "arn": "arn", "status": "InService", "created_at": ago(days=9), "modified_at": ago(days=9)}
    return Listed.model_validate(given | more)


def described(**more: Any) -> Described:
    given = {"name": "theirs", "kind": "classic", "instance_type": "ml.m5.large", "tags": ALLOWED}
    return Described.model_validate(given | more)


def seen(*, at: Address | None = None, **more: Any) -> Seen:
    """An account with one address, quiet and with a heartbeat, unless told otherwise."""
    name = at.component or at.endpoint_name if at else "theirs"
    given: dict[str, Any] = {
        "endpoints": (listed(at.endpoint_name) if at else listed("theirs"),),
        "called": frozenset(),
        "beating": frozenset({name}),
        "known": (at,) if at else (),
        "ringing": {},
        "running": frozenset(),
    }
    return Seen.model_validate(given | more)


def judged(account: Seen, policy: Policy = CLOSED, memory: dict[str, Finding] | None = None, now: datetime = NOW):
    return sweep.judge(account, memory or {}, policy, now=now)


QUIET = address()
COMPONENT = address(kind="realtime", component="ebb-wine--g4", endpoint_name="ebb-wine--realtime")


@pytest.mark.parametrize(
    ("account", "machine"),
    [
        pytest.param(seen(at=QUIET), "scale_to_zero", id="a heartbeat and no call in three hours"),
        pytest.param(seen(at=COMPONENT), "scale_to_zero", id="a component is judged by its own metrics"),
        pytest.param(seen(at=QUIET, called={"ebb-wine--async"}), None, id="one call"),
        pytest.param(seen(at=QUIET, beating=set()), None, id="silence of everything proves nothing"),
        pytest.param(seen(at=QUIET, called=None), None, id="calls that could not be read are not silence"),
        pytest.param(seen(at=QUIET, beating=None), None, id="nor is a heartbeat that could not be read"),
        pytest.param(seen(at=QUIET, endpoints=None), None, id="nor a list of endpoints"),
        pytest.param(seen(at=QUIET, endpoints=()), None, id="an endpoint that is not there is not put to sleep"),
        pytest.param(seen(at=QUIET, endpoints=(listed(status="Updating"),)), None, id="nor one that is changing"),
        pytest.param(seen(at=QUIET, endpoints=(listed(modified_at=ago(hours=2)),)), None, id="updated two hours ago"),
        pytest.param(seen(at=address(last_request_at=ago(hours=1))), None, id="the front door saw a call"),
        pytest.param(seen(at=address(changed_at=ago(hours=1))), None, id="it woke an hour ago"),
        pytest.param(seen(at=address(policy=IdlePolicy(sleeps=False))), None, id="availability high never sleeps"),
        pytest.param(seen(at=address(kind="serverless")), None, id="a serverless endpoint has nothing to put to sleep"),
        pytest.param(
            seen(at=address(changed_at=ago(hours=1)), ringing={"ebb-wine-idle": ago(minutes=20)}),
            "scale_to_zero",
            id="its idle alarm went off and nothing came of it",
        ),
        pytest.param(
            seen(at=address(changed_at=ago(hours=1)), ringing={"ebb-wine-idle": ago(minutes=1)}),
            None,
            id="an alarm of a minute ago is on its way",
        ),
        pytest.param(
            seen(at=address("asleep", wanted_at=ago(minutes=3), changed_at=ago(hours=1))),
            "wake_endpoint",
            id="somebody waits",
        ),
        pytest.param(seen(at=address("asleep", changed_at=ago(hours=1))), None, id="asleep, and nobody waits"),
        pytest.param(
            seen(at=address("asleep", changed_at=ago(hours=1)), ringing={"ebb-wine-wake": ago(minutes=4)}),
            "wake_endpoint",
            id="its wake alarm went off and nothing came of it",
        ),
        pytest.param(
            seen(at=address("failed", wanted_at=ago(minutes=30), changed_at=ago(minutes=20))),
            "wake_endpoint",
            id="a wake that failed is tried again for who waits",
        ),
        pytest.param(
            seen(at=address("failed", wanted_at=ago(minutes=30), changed_at=ago(minutes=2))),
            None,
            id="but not at once",
        ),
        pytest.param(
            seen(at=address("asleep", kind="classic", changed_at=ago(hours=9))),
            "wake_endpoint",
            id="called asleep and in service: somebody made it again",
        ),
        pytest.param(
            seen(at=address("asleep", changed_at=ago(hours=9))),
            "wake_endpoint",
            id="called asleep, and its instances run",
        ),
        pytest.param(
            seen(at=address("asleep", changed_at=ago(hours=3))),
            None,
            id="a heartbeat from before it fell asleep is none",
        ),
        pytest.param(
            seen(at=address("failed", changed_at=ago(hours=9))),
            "wake_endpoint",
            id="a wake that failed and left instances running",
        ),
        pytest.param(seen(at=address("failed", changed_at=ago(hours=9)), beating=set()), None, id="failed, at zero"),
        pytest.param(
            seen(at=address("asleep", changed_at=ago(hours=1), prewake_at=NOW + timedelta(minutes=22))),
            "wake_endpoint",
            id="to be woken before the sweep after this one could do it",
        ),
        pytest.param(
            seen(at=address("asleep", changed_at=ago(hours=1), prewake_at=NOW + timedelta(minutes=40))),
            None,
            id="to be woken, but the next sweep comes before that",
        ),
        pytest.param(
            seen(at=address("asleep", changed_at=ago(days=5), prewake_at=ago(hours=1)), beating=set()),
            "wake_endpoint",
            id="it should have been woken an hour ago, while no sweep ran",
        ),
        pytest.param(
            seen(at=address("waking", changed_at=ago(minutes=30), worked_by="arn:dead"), running={"wake-ebb-wine-g4"}),
            "wake_endpoint",
            id="another execution runs for it, and not the one that works on it",
        ),
        pytest.param(
            seen(at=address("falling-asleep", changed_at=ago(minutes=30))),
            "scale_to_zero",
            id="falling asleep, and nobody works on it",
        ),
        pytest.param(
            seen(at=address("waking", changed_at=ago(minutes=30))), "wake_endpoint", id="waking, and nobody works on it"
        ),
        pytest.param(
            seen(at=address("waking", changed_at=ago(minutes=30), worked_by="arn:x"), running={"arn:x"}),
            None,
            id="waking, and its execution runs",
        ),
        pytest.param(
            seen(at=address("falling-asleep", changed_at=ago(minutes=30), worked_by="arn:x"), running={"arn:x"}),
            None,
            id="falling asleep, and who works on it runs",
        ),
        pytest.param(
            seen(at=address("waking", changed_at=ago(minutes=30)), running=None),
            None,
            id="what runs could not be read",
        ),
        pytest.param(seen(at=address("waking", changed_at=ago(minutes=5))), None, id="waking takes minutes"),
    ],
)
def test_an_address(account, machine):
    done = judged(account)
    assert [start.machine for start in done.starts] == ([machine] if machine else [])
    for start in done.starts:
        assert start.input["address"] == "ebb-wine"
        assert start.input["generation"] == 4


USED, SLEEPING = address(changed_at=ago(hours=1)), address("asleep", changed_at=ago(hours=1))
LONG_ASLEEP = address("asleep", changed_at=ago(hours=9))


@pytest.mark.parametrize(
    ("account", "action"),
    [
        pytest.param(seen(at=USED, ringing=None), "unread", id="its idle alarm may have stood in ALARM for long"),
        pytest.param(seen(at=USED, ringing={}), None, id="no alarm stands in ALARM"),
        pytest.param(seen(at=USED, listed=False), None, id="alarms were not asked for in this sweep"),
        pytest.param(seen(at=QUIET, ringing=None), "sleep", id="metrics alone tell that it is idle"),
        pytest.param(seen(at=SLEEPING, ringing=None), "unread", id="its wake alarm may have stood in ALARM for long"),
        pytest.param(seen(at=SLEEPING, ringing={}), None, id="asleep, and no wake alarm stands in ALARM"),
        pytest.param(
            seen(at=address("asleep", changed_at=ago(hours=1), wanted_at=ago(minutes=3)), ringing=None),
            "wake",
            id="who waits is seen to without the alarms",
        ),
        pytest.param(
            seen(at=address(changed_at=ago(hours=1), origin="foreign", kind="classic"), ringing=None),
            None,
            id="an endpoint of others has no alarm of Ebb's",
        ),
        pytest.param(seen(at=LONG_ASLEEP, beating=None), "unread", id="called asleep, and it may run"),
        pytest.param(seen(at=LONG_ASLEEP, endpoints=None), "unread", id="called asleep, and it may be there"),
        pytest.param(seen(at=LONG_ASLEEP, beating=set()), None, id="asleep, and nothing runs"),
    ],
)
def test_what_is_not_known_is_told_and_is_not_nothing(account, action):
    assert [each.action for each in judged(account).findings] == ([action] if action else [])


@pytest.mark.parametrize(
    ("account", "blind"),
    [
        pytest.param(seen(called=None), 1, id="calls"),
        pytest.param(seen(beating=None), 1, id="heartbeats"),
        pytest.param(seen(known=None), 1, id="the ledger"),
        pytest.param(seen(called=None, listed=False), None, id="not asked for"),
        pytest.param(seen(), None, id="all was read"),
    ],
)
def test_endpoints_of_others_that_could_not_be_judged_are_counted(account, blind):
    assert judged(account, OPEN).counts.get("not judged") == blind


@pytest.mark.parametrize(
    ("account", "policy", "action"),
    [
        pytest.param(seen(), CLOSED, "protected", id="by default nothing that Ebb did not make"),
        pytest.param(seen(described=(described(),)), CLOSED, "protected", id="its tag alone is not enough"),
        pytest.param(seen(described=(described(),)), OPEN, "sleep", id="parameter and tag together are"),
        pytest.param(seen(described=(described(tags={}),)), OPEN, "protected", id="the parameter alone is not"),
        pytest.param(seen(described=(described(tags=ALLOWED | {"ebb:keep": "y"}),)), OPEN, "keep", id="a tag keeps it"),
        pytest.param(seen(described=(described(tags=None),)), OPEN, "unread", id="tags that could not be read"),
        pytest.param(
            seen(described=(described(tags=ALLOWED | {"aws:cloudformation:stack-name": "s"}),)),
            OPEN,
            "protected",
            id="CloudFormation would miss what is deleted",
        ),
        pytest.param(
            seen(described=(described(kind="realtime", components=3),)), OPEN, "protected", id="several components"
        ),
        pytest.param(
            seen(described=(described(tags=ALLOWED | {"ebb:stack": "ebb"}),)),
            OPEN,
            "keep",
            id="ours, but not in the ledger",
        ),
        pytest.param(seen(described=(described(kind="serverless"),)), OPEN, None, id="serverless costs nothing idle"),
        pytest.param(seen(called={"theirs"}), OPEN, None, id="one that is called is not even looked at"),
        pytest.param(seen(beating=set()), OPEN, None, id="nor is one of which nothing is known"),
        pytest.param(seen(known=None), OPEN, None, id="without the ledger any endpoint may be ours"),
    ],
)
def test_an_endpoint_that_ebb_did_not_make(account, policy, action):
    done = judged(account, policy)
    assert [found.action for found in done.findings] == ([action] if action else [])
    assert [start.machine for start in done.starts] == (["scale_to_zero"] if action == "sleep" else [])
    assert [at.origin for at in done.put] == (["foreign"] if action == "sleep" else [])


def test_a_foreign_endpoint_that_slept_once_stays_when_the_parameter_is_taken_back():
    account = seen(at=address(origin="foreign", kind="classic"))
    assert judged(account, OPEN).starts
    assert not judged(account, CLOSED).starts
    assert judged(account, CLOSED).findings[0].action == "protected"


def test_only_candidates_are_looked_at_one_by_one():
    account = seen(
        endpoints=(listed("quiet"), listed("busy"), listed("dark"), listed("new", modified_at=ago(hours=1))),
        called={"busy"},
        beating={"quiet", "busy", "new"},
    )
    assert [each.name for each in sweep.looks(account, {}, OPEN, now=NOW).endpoints] == ["quiet"]
    assert sweep.looks(account, {}, CLOSED, now=NOW).endpoints == (), "what is not managed needs no look"


def test_more_candidates_than_a_sweep_takes_are_left_to_the_next_one_and_told():
    names = [f"e{number}" for number in range(9)]
    account = seen(endpoints=tuple(map(listed, names)), beating=set(names))
    found = sweep.looks(account, {}, OPEN, now=NOW, most=4)
    assert (len(found.endpoints), found.deferred) == (4, 5)


def test_a_candidate_that_was_refused_is_asked_about_later_and_later():
    account, memory, asked = seen(at=QUIET), {}, []
    for quarter in range(4 * 72):
        now = NOW + timedelta(minutes=15 * quarter)
        account = seen(at=QUIET)
        done = judged(account, memory=memory, now=now)
        memory = {each.key: each for each in done.findings}
        asked += [quarter / 4] if done.starts else []
    assert asked == [0, 1, 3, 7, 15, 31, 55], "hours: pauses double up to a day"


def test_one_that_was_called_since_is_asked_about_at_once_when_it_falls_silent_again():
    first = judged(seen(at=QUIET))
    called = judged(seen(at=QUIET, called={"ebb-wine--async"}), memory={each.key: each for each in first.findings})
    again = judged(seen(at=QUIET), memory={each.key: each for each in called.findings}, now=NOW + timedelta(minutes=30))
    assert (len(first.starts), len(called.starts), len(again.starts)) == (1, 0, 1)


def test_who_waits_comes_first_and_then_what_saves_most(monkeypatch):
    monkeypatch.setattr(sweep, "MOST_STARTS", 2)
    cheap = address(address="ebb-a", endpoint_name="a", awake_usd_per_hour=0.1)
    dear = address(address="ebb-b", endpoint_name="b", awake_usd_per_hour=9)
    waits = address("asleep", address="ebb-c", endpoint_name="c", wanted_at=ago(minutes=9), changed_at=ago(hours=1))
    account = seen(
        known=(cheap, dear, waits), endpoints=(listed("a"), listed("b"), listed("c")), beating={"a", "b", "c"}
    )
    done = judged(account)
    assert [start.input["address"] for start in done.starts] == ["ebb-c", "ebb-b"]
    assert done.deferred == 1


def test_a_repeat_of_the_same_sweep_starts_executions_of_the_same_names():
    names = [[start.name for start in judged(seen(at=QUIET)).starts] for _ in range(2)]
    assert names[0] == names[1]
    assert all(len(name) <= 80 for name in names[0])


def test_an_unused_notebook_is_found_and_a_used_one_is_not_mentioned():
    usual = {"kind": "notebook", "arn": "arn", "status": "InService", "instance_type": "ml.t3.medium"}
    old = Resource.model_validate(
        usual | {"name": "old", "keys": {"NotebookInstanceName": "old"}, "since": ago(days=9), "tags": HOURS}
    )
    new = Resource.model_validate(
        usual | {"name": "new", "keys": {"NotebookInstanceName": "new"}, "since": ago(hours=1), "tags": HOURS}
    )
    done = judged(seen(endpoints=(), resources=(old, new)), OPEN)
    (found,) = done.findings
    assert (found.kind, found.name, found.action) == ("notebook", "old", "stop")
    assert found.usd_per_month == pytest.approx(0.05 * 730)
    assert done.starts[0].machine == "reap_resources"


# ---- once a day: models whose traffic has changed ----


def test_the_first_look_at_a_models_traffic_only_remembers_it():
    starts, daily = sweep.moves([QUIET], {"ebb-wine": 40}, None, now=NOW)
    assert (starts, daily.calls) == ([], {"ebb-wine": 40})


@pytest.mark.parametrize(
    ("before", "now", "moves"),
    [
        pytest.param(1000, 1100, False, id="a tenth more"),
        pytest.param(1000, 1600, True, id="three fifths more"),
        pytest.param(1000, 100, True, id="a tenth of it"),
        pytest.param(0, 4, False, id="a few calls are chance"),
        pytest.param(0, 400, True, id="a dead model that is used"),
    ],
)
def test_a_model_whose_traffic_changed_is_looked_at_again(before, now, moves):
    earlier = Daily(at=ago(days=1), calls={"ebb-wine": before})
    starts, daily = sweep.moves([QUIET], {"ebb-wine": now}, earlier, now=NOW)
    assert [start.input["project"] for start in starts] == (["wine"] if moves else [])
    assert daily.calls["ebb-wine"] == (now if moves else before), "drifting slowly adds up until it counts"
    for start in starts:
        assert start.machine == "deploy_model"
        assert start.input["kind"] == "auto"
        assert start.input["reason"]


def test_calls_that_could_not_be_read_move_nothing():
    earlier = Daily(at=ago(days=1), calls={"ebb-wine": 1000})
    starts, daily = sweep.moves([QUIET], {}, earlier, now=NOW)
    assert (starts, daily.calls) == ([], {"ebb-wine": 1000})


def test_the_day_is_that_of_the_event():
    earlier = Report(daily=Daily(at=datetime(2026, 11, 22, 23, 59, tzinfo=UTC)))
    assert sweep.is_daily(Report(), NOW)
    assert sweep.is_daily(earlier, datetime(2026, 11, 23, 0, 1, tzinfo=UTC))
    assert not sweep.is_daily(earlier, datetime(2026, 11, 22, 23, 59, 30, tzinfo=UTC))


def test_who_is_woken_ahead_is_woken_at_its_moment_and_for_this_sleep_only():
    at = address("asleep", changed_at=ago(days=4), prewake_at=NOW + timedelta(minutes=20))
    (start,) = judged(seen(at=at, beating=set())).starts
    assert start.input == {"address": "ebb-wine", "generation": 4, "reason": scaling_wake.PREWAKE}
    assert start.name != addresses.wake_execution("ebb-wine", 4), "a request must be free to wake it before"
