"""The List actions: filter, sort, page. They differ in the names of their members only."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from ebb_local.sagemaker.errors import validation_exception
from ebb_local.sagemaker.state import Record

_DEFAULT_PAGE = 100  # assumed where AWS documents 10: callers page anyway


def page(
    records: Iterable[Record], request: dict[str, Any], *, name: str, status: str = "", members: list[str]
) -> tuple[list[Record], dict[str, Any]]:
    """Return the page of summaries that a List request asks for, and the NextToken member when there is more."""
    found = [record for record in records if _matches(record, request, name, status)]
    by = {"Name": name, "Status": status}.get(request.get("SortBy", ""), "CreationTime")
    found.sort(key=lambda record: record.get(by, ""), reverse=request.get("SortOrder", "Descending") == "Descending")
    start = position(request)
    end = start + int(request.get("MaxResults") or _DEFAULT_PAGE)
    rows = [{key: record[key] for key in members if record.get(key) is not None} for record in found[start:end]]
    return rows, {"NextToken": str(end)} if end < len(found) else {}


def position(request: dict[str, Any]) -> int:
    """Return where the page begins that a request asks for."""
    try:
        return int(request.get("NextToken") or 0)
    except ValueError:
        raise validation_exception("Invalid NextToken") from None


def _matches(record: Record, request: dict[str, Any], name: str, status: str) -> bool:
    if request.get("NameContains", "") not in record.get(name, ""):
        return False
    if request.get("StatusEquals") and record.get(status) != request["StatusEquals"]:
        return False
    for member in ("CreationTime", "LastModifiedTime"):
        after, before = request.get(f"{member}After"), request.get(f"{member}Before")
        if after is not None and record.get(member, 0) < _seconds(after):
            return False
        if before is not None and record.get(member, 0) > _seconds(before):
            return False
    return True


def _seconds(moment: float | str) -> float:
    return moment if isinstance(moment, int | float) else datetime.fromisoformat(moment).timestamp()
