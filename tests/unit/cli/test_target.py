"""Which cloud a command speaks to."""

from pathlib import Path

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from ebb_cli import target as targets
from ebb_cli.problems import CommandError
from ebb_local import lifecycle

SERVER = lifecycle.Server("http://127.0.0.1:4747", 1, 4747, "us-east-1", "000000000000", Path("home"))


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lifecycle, "running", lambda home: SERVER)


def test_a_running_embedded_cloud_is_found_by_itself(embedded):
    found = targets.find()
    assert (found.embedded, found.endpoint_url, found.account) == (True, "http://127.0.0.1:4747", "000000000000")
    assert found.name == "embedded cloud http://127.0.0.1:4747"


def test_the_embedded_cloud_never_gets_the_users_own_keys(embedded, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAREALKEY")
    assert targets.find().session.get_credentials().access_key == "test"


def test_its_own_url_names_it_as_well(embedded):
    assert targets.find(endpoint_url="http://127.0.0.1:4747").embedded


def test_a_profile_means_aws_even_while_an_embedded_cloud_runs(embedded, monkeypatch, tmp_path):
    config = tmp_path / "config"
    config.write_text("[profile work]\nregion = eu-north-1\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with mock_aws():
        found = targets.find(profile="work")
    assert (found.embedded, found.region, found.profile) == (False, "eu-north-1", "work")
    assert found.name == f"AWS account {found.account} region eu-north-1"


def test_without_an_embedded_cloud_the_default_session_is_aws():
    with mock_aws():
        found = targets.find(region="eu-west-1", stack="mine")
    assert (found.embedded, found.endpoint_url, found.region, found.stack) == (False, None, "eu-west-1", "mine")


def test_an_endpoint_url_of_the_environment_is_told(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:5000")
    monkeypatch.setattr(boto3.Session, "client", _sts_at("http://localhost:5000"))
    assert "http://localhost:5000" in targets.find().name


def _sts_at(url: str):
    class Sts:
        class meta:
            endpoint_url = url

        def get_caller_identity(self):
            return {"Account": "123456789012"}

    return lambda *_, **__: Sts()


def test_without_any_target_the_remedy_is_told(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(CommandError) as told:
        targets.find()
    assert "not running" in told.value.message
    assert "ebb up" in told.value.remedy


def test_a_missing_stack_is_told_with_the_command_that_deploys_it(embedded):
    found = targets.find()
    with Stubber(found.client("cloudformation")) as stubbed:
        stubbed.add_client_error("describe_stacks", "ValidationError", "Stack with id ebb does not exist")
        with pytest.raises(CommandError, match="no stack 'ebb'") as told:
            _ = found.outputs
    assert told.value.remedy == "ebb up deploys it."


def test_another_stack_is_none_that_ebb_up_deploys(embedded):
    found = targets.find(stack="other")
    with Stubber(found.client("cloudformation")) as stubbed:
        stubbed.add_client_error("describe_stacks", "ValidationError", "Stack with id other does not exist")
        with pytest.raises(CommandError, match="no stack 'other'") as told:
            _ = found.outputs
    assert told.value.remedy == "Leave out --stack other: ebb up deploys the stack ebb."
