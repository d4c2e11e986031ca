"""`make conformance`: what is written down about a target, and how two targets are compared."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import conformance
from conformance import Result

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.e2e.test_drop" name="test_a" time="1.26"/>
<testcase classname="tests.e2e.test_drop" name="test_b" time="2">
  <failure message="status is failed&#10;more">x</failure>
</testcase>
<testcase classname="tests.e2e.test_restart" name="test_c" time="0">
  <skipped message="only the embedded cloud restarts"/>
</testcase>
</testsuite></testsuites>"""


def result(
    target: str, tests: dict | None = None, observed: dict | None = None, cost_usd: float | None = 0.5
) -> Result:
    about = {"at": "2026-11-23T10:00:00+00:00", "commit": "abc1234"}
    return Result(target, about, tests or {}, observed or {}, cost_usd)


def test_every_test_of_a_report_is_listed_with_its_outcome_and_reason(tmp_path):
    (tmp_path / "report.xml").write_text(JUNIT)
    assert conformance.outcomes(tmp_path / "report.xml") == {
        "test_drop::test_a": {"outcome": "passed", "seconds": 1.3},
        "test_drop::test_b": {"outcome": "failed", "seconds": 2.0, "reason": "status is failed"},
        "test_restart::test_c": {"outcome": "skipped", "seconds": 0.0, "reason": "only the embedded cloud restarts"},
    }


def test_a_shape_holds_names_and_types_and_no_value():
    described = {
        "Name": "secret",
        "Count": 3,
        "On": True,
        "Tags": [{"Key": "a"}, {"Key": "b", "Value": "c"}],
        "Gone": None,
    }
    assert conformance.shape(described) == {
        "Name": "string",
        "Count": "number",
        "On": "boolean",
        "Tags": [{"Key": "string", "Value": "string"}],
        "Gone": "null",
    }


def test_members_of_a_list_share_one_shape():
    stages = [{"name": "images", "job": None}, {"name": "train", "job": "j"}, {"name": "compile", "job": "k"}]
    assert conformance.shape(stages) == [{"name": "string", "job": "null or string"}]


def test_differences_name_the_test_the_field_and_the_side():
    here = result(
        "embedded",
        {"t::one": {"outcome": "passed"}, "t::two": {"outcome": "passed"}},
        {"DescribeEndpoint": {"EndpointName": "string", "Extra": "string", "Variants": [{"Weight": "number"}]}},
    )
    there = result(
        "aws",
        {"t::one": {"outcome": "passed"}, "t::two": {"outcome": "failed", "reason": "no quota"}},
        {"DescribeEndpoint": {"EndpointName": "string", "Variants": [{"Weight": "string", "New": "string"}]}},
    )
    assert conformance.differences(here, there) == [
        "test t::two: passed embedded, failed on AWS (no quota)",
        "DescribeEndpoint.Extra: only embedded",
        "DescribeEndpoint.Variants[].New: only on AWS",
        'DescribeEndpoint.Variants[].Weight: "number" embedded, "string" on AWS',
    ]


def test_equal_targets_have_no_differences_and_an_empty_list_is_none():
    here = result("embedded", {"t::one": {"outcome": "passed"}}, {"Describe": {"Alarms": []}})
    there = result("aws", {"t::one": {"outcome": "passed"}}, {"Describe": {"Alarms": [{"Name": "string"}]}})
    assert conformance.differences(here, there) == []


@pytest.mark.parametrize(
    ("cap", "embedded", "told"),
    [
        pytest.param(None, result("embedded"), "say how much", id="no cap is no permission to spend"),
        pytest.param(9.0, None, "without a profile first", id="nothing says what the tests cost"),
        pytest.param(2.0, result("embedded"), "expected to cost 2.50 USD", id="a cap that the tests would exceed"),
    ],
)
def test_a_real_account_is_refused_without_a_sufficient_cost_cap(cap, embedded, told):
    with pytest.raises(conformance.RefusedError, match=told):
        conformance.check_cap(cap, embedded)


def test_a_sufficient_cap_is_taken():
    assert conformance.check_cap(3.0, result("embedded")) == 3.0


def test_both_results_make_a_page_of_differences_and_one_makes_none(tmp_path):
    result("embedded", {"t::one": {"outcome": "passed"}}).write(tmp_path / "embedded.json")
    assert conformance.compare(tmp_path) is None
    result("aws", {"t::one": {"outcome": "failed", "reason": "denied"}}, cost_usd=1.25).write(tmp_path / "aws.json")
    page = conformance.compare(tmp_path)
    assert page is not None
    text = page.read_text()
    assert "1 differences" in text
    assert "1.2500 USD" in text
    assert "t::one: passed embedded, failed on AWS (denied)" in text


def test_without_a_cap_nothing_is_started_and_the_status_is_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["conformance.py", "--profile", "p", "--out", str(tmp_path)])
    monkeypatch.setattr(conformance, "run", lambda *_: pytest.fail("started"))
    assert conformance.main() == 2
    assert "--cost-cap-usd" in capsys.readouterr().err


def test_the_tests_are_told_one_profile_one_stack_and_the_cap(tmp_path, monkeypatch):
    result("embedded").write(tmp_path / "embedded.json")
    told = {}

    def run(target, out, environment, arguments):
        told.update(environment, target=target)
        return result("aws"), 0

    monkeypatch.setattr(conformance, "run", run)
    options = ["--profile", "p", "--region", "eu-north-1", "--cost-cap-usd", "4", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["conformance.py", *options])
    assert conformance.main() == 0
    assert told == {
        "target": "aws",
        "EBB_CONFORMANCE_PROFILE": "p",
        "EBB_CONFORMANCE_REGION": "eu-north-1",
        "EBB_STACK": "ebb-conformance",
        "EBB_COST_CAP_USD": "4.0",
    }


def test_in_a_test_run_for_a_profile_no_other_credential_is_left(monkeypatch):
    script = "import os, conftest; print(sorted(name for name in os.environ if name.startswith('AWS_')))"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "AWS_ACCESS_KEY_ID": "somebody's",
        "AWS_SESSION_TOKEN": "somebody's",
        "AWS_REGION": "us-west-2",
        "AWS_CONFIG_FILE": "config",
        "EBB_CONFORMANCE_PROFILE": "p",
        "EBB_CONFORMANCE_REGION": "eu-north-1",
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['AWS_CONFIG_FILE', 'AWS_DEFAULT_REGION', 'AWS_PROFILE']"
