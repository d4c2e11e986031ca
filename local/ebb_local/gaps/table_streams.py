"""A table's stream is read as the function's role, and outlives a restart of the server.

MiniStack never asks the role. It keeps how far a mapping has read but not what the stream holds: after a restart the
reader would stand behind the end of an empty stream, and everything written from then on would be passed over.
Sources: https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-eventsourcemapping.html (execution role permissions),
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Streams.html (records are kept for 24 hours).
"""

import copy
import time
from typing import Any

from ministack.services import dynamodb, lambda_svc

from ebb_local import authorization

_ACTIONS = ("dynamodb:DescribeStream", "dynamodb:GetShardIterator", "dynamodb:GetRecords")
_RECORDS, _TRIMMED = "ebb_stream_records", "ebb_stream_trimmed"


def install() -> None:
    """Ask the role before a batch is handed over; save and restore what streams hold with the tables."""
    chosen, get_state, load = lambda_svc._apply_filter_criteria, dynamodb.get_state, dynamodb.load_persisted_state

    def chosen_as_role(records: list[dict], esm: dict) -> list[dict]:
        source = esm.get("EventSourceArn", "")
        kept = chosen(records, esm)
        if kept and ":dynamodb:" in source:
            _authorize(esm, source)
        return kept

    def state_with_streams() -> dict[str, Any]:
        return get_state() | {
            _RECORDS: copy.deepcopy(dynamodb._stream_records),
            _TRIMMED: copy.deepcopy(dynamodb._stream_trimmed),
        }

    def load_with_streams(data: dict[str, Any] | None) -> Any:
        done = load(data)
        if data:
            dynamodb._stream_records.update(data.get(_RECORDS, {}))
            dynamodb._stream_trimmed.update(data.get(_TRIMMED, {}))
        return done

    lambda_svc._apply_filter_criteria = chosen_as_role
    dynamodb.get_state, dynamodb.load_persisted_state = state_with_streams, load_with_streams


def _authorize(esm: dict, source: str) -> None:
    """Raise AccessDenied when the role may not read the stream; the mapping rests for a while, as on AWS."""
    found = lambda_svc._get_func_record_for_ref(esm["FunctionName"])
    config = found[1] or {}
    session = authorization.role_session(config.get("Role", ""), config.get("FunctionName", "function"))
    try:
        for action in _ACTIONS:
            authorization.authorize(action, source, principal=session)
    except authorization.AccessDenied as denied:
        esm["LastProcessingResult"] = f"PROBLEM: {denied}"
        lambda_svc._esm_backoff_until[esm["UUID"]] = time.time() + lambda_svc._ESM_BACKOFF_SECONDS
        raise
