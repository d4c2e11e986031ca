"""Queues survive a restart on another port, messages included."""

import boto3
from ministack.services import sqs

from contract.support import free_port
from ebb_local import lifecycle


def test_ministack_builds_queue_urls_from_the_names_that_are_replaced():
    assert sqs._queue_url_for_account("1", "q") == f"http://{sqs.DEFAULT_HOST}:{sqs.DEFAULT_PORT}/1/q"
    assert f"{sqs.DEFAULT_HOST}:{sqs.DEFAULT_PORT}" == sqs._CANONICAL_NETLOC


def test_a_queue_is_found_by_name_and_arn_after_a_restart_on_another_port(tmp_path):
    def queue_client(server: lifecycle.Server):
        return boto3.client("sqs", endpoint_url=server.endpoint_url, region_name=server.region,
                            aws_access_key_id="test", aws_secret_access_key="test")  # fmt: skip

    try:
        first = queue_client(lifecycle.start(tmp_path, free_port()))
        first.send_message(QueueUrl=first.create_queue(QueueName="letters")["QueueUrl"], MessageBody="hello")
        lifecycle.stop(tmp_path)
        again = queue_client(lifecycle.start(tmp_path, free_port()))
        url = again.get_queue_url(QueueName="letters")["QueueUrl"]
        assert again.receive_message(QueueUrl=url)["Messages"][0]["Body"] == "hello"
    finally:
        lifecycle.stop(tmp_path)
