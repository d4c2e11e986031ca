"""Queues publish how many messages wait, which an alarm on a dead-letter queue watches; MiniStack publishes nothing.

Published together with the evaluation of alarms (on AWS: every minute while the queue is active).
Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
"""

import time

from ministack.services import cloudwatch, sqs


def publish() -> None:
    """Record the visible and the invisible messages of every queue that holds any."""
    now_s = time.time()
    for queue in list(sqs._queues.values()):
        waiting = queue["messages"]
        if not waiting:
            continue
        visible = sum(message["visible_at"] <= now_s for message in waiting)
        for name, count in (("Visible", visible), ("NotVisible", len(waiting) - visible)):
            metric = f"ApproximateNumberOfMessages{name}"
            cloudwatch.record_metric("AWS/SQS", metric, count, "Count", {"QueueName": queue["name"]})
