"""Lambda: look at the whole account, judge it, and start what puts to sleep, wakes, stops or moves. Changes nothing."""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import sweep
from ebb.aws import account, serving_hours, sweeping
from ebb.aws.clients import client
from ebb.aws.ledger import Ledger
from ebb.events import SCHEDULE, SweepRequested
from ebb.reaping import Policy
from ebb.settings import SweepSettings
from ebb.sweep import Start
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_parser
def handler(asked: SweepRequested, context: LambdaContext) -> dict[str, Any]:
    """Answer with the counts and with what could not be read; the report lies in the artifact bucket."""
    settings, now = SweepSettings.from_env(), asked.now
    policy, book = Policy(stack=settings.stack, foreign=settings.manages_foreign), Ledger(settings.ledger_table)
    before, reader = sweeping.last_report(settings.artifact_bucket), account.Reader(client)
    machines = (settings.scale_to_zero_arn, settings.wake_endpoint_arn)
    lists = sweep.lists(before, now, asked=asked.asked_by != SCHEDULE)
    seen = reader.seen(table=settings.ledger_table, stack=settings.stack, machines=machines, lists=lists)
    looks = sweep.looks(seen, before.memory, policy, now=now)
    done = sweep.judge(reader.looked(seen, looks), before.memory, policy, now=now, deferred=looks.deferred)
    moves: list[Start] = []
    daily = before.daily
    if sweep.is_daily(before, now):
        models = sweeping.models_of_kind_auto(book, seen.known or ())
        moves, daily = sweep.moves(models, reader.calls_per_day(models, until=now), before.daily, now=now)
    listed_at = now if seen.is_whole else before.listed_at
    report = sweeping.act(done, moves, settings, book, daily=daily, listed_at=listed_at)
    report = serving_hours.told(report, before.hours, seen.known, settings.ledger_table, now=now)
    logger.info("swept", extra={"counts": report.counts, "calls": reader.calls, "unread": len(report.unread)})
    return sweeping.keep(settings.artifact_bucket, report, reader.calls)
