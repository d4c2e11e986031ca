"""Lambda: decide whether the costliest stage of a run begins now or waits for electricity that emits less."""

from typing import Any

from aws_lambda_powertools.utilities.parser import event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext

from ebb import accounting, ledger, signals, windows
from ebb.aws import clients, intensity, publishing
from ebb.aws.ledger import Ledger
from ebb.errors import AttemptOutdatedError
from ebb.footprint import Footprint
from ebb.settings import WindowSettings
from ebb.steps import WindowRequested
from ebb.telemetry import logger


@logger.inject_lambda_context
@event_parser
def handler(asked: WindowRequested, context: LambdaContext) -> dict[str, Any]:
    """Answer with run, or with wait and until when; the ledger learns what it was judged on."""
    settings, region = WindowSettings.from_env(), clients.region()
    wanted = windows.read(asked.window, asked.looks)
    providers = intensity.providers(settings, region, asked.window["signal"])
    known = signals.gather(providers, region, asked.now, windows.needed_until(wanted, asked.now))
    decision = windows.decide(known, wanted, asked.now)
    first, stage = asked.first or windows.first_look(decision), asked.window["stage"]
    told = windows.record(decision, wanted, known, stage, first)
    book = Ledger(settings.ledger_table)
    if not book.apply(ledger.change_run(asked.run_id, asked.attempt, {"window": windows.noted(decision, told, stage)})):
        raise AttemptOutdatedError(f"{asked.run_id} has ended or a newer attempt runs")
    book.put_decisions(asked.run_id, stage, [told], first=windows.DECISION_PLACE)
    _book(asked, windows.saving(decision, wanted, first), decision.source, settings)
    logger.info("decided", extra={"run_id": asked.run_id, "action": decision.action, "reason": decision.reason})
    return {"action": decision.action, "looks": asked.looks + 1, "first": first} | windows.until(decision)


def _book(asked: WindowRequested, saved: Footprint | None, source: str, settings: WindowSettings) -> None:
    """Enter what a wait that ends has saved into the footprint ledger; a repeat enters nothing."""
    if saved is None:
        return
    entry = accounting.avoided_entry(
        "waited",
        project=asked.project,
        id=f"{asked.run_id}#{asked.attempt}",
        at=asked.now,
        instead_of=f"{asked.window['stage']} and what follows it, begun when it was first looked at",
        would_have=saved,
        usage={
            "basis": "intensities as the signal told them at the first look and at the beginning",
            "measured": False,
        },
        coefficients=[{"name": "hourly intensity", "source": source, "year": str(asked.now.year), "confidence": "low"}],
        run_id=asked.run_id,
    )
    publishing.book(settings.ledger_table, [entry])
