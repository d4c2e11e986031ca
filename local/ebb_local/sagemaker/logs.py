"""Log lines of containers, in CloudWatch Logs while the container runs.

On AWS the job's role writes them: without `logs:CreateLogStream` and `logs:PutLogEvents` there are none, and the job
runs all the same. Source: https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html
"""

import logging
import threading
import time

from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import cloudwatch_logs

from ebb_local import authorization

logger = logging.getLogger("ebb.sagemaker.logs")

_FLUSH_EVERY_S = 0.5
_BATCH_LINES = 1_000
_MAX_LINE_CHARACTERS = 200_000  # CloudWatch Logs takes 256 KiB an event


class LogStream:
    """One log stream. Lines are sent in batches, every half second while there are any."""

    def __init__(self, group: str, stream: str, principal: str) -> None:
        self.group, self.stream = group, stream
        self._scope = (get_account_id(), get_region())
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._waiting: list[dict] = []
        self._timer: threading.Timer | None = None
        self._allowed = self._open(principal)

    @property
    def arn(self) -> str:
        """The stream's ARN, which errors of endpoints name."""
        account, region = self._scope
        return f"arn:aws:logs:{region}:{account}:log-group:{self.group}"

    def write(self, line: str) -> None:
        """Take one line. CloudWatch Logs keeps no empty ones."""
        if not self._allowed or not line.strip():
            return
        event = {"timestamp": int(time.time() * 1000), "message": line[:_MAX_LINE_CHARACTERS]}
        with self._lock:
            self._waiting.append(event)
            if self._timer is None:
                self._timer = threading.Timer(_FLUSH_EVERY_S, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Send what waits."""
        with self._sending:
            with self._lock:
                lines, self._waiting, self._timer = self._waiting, [], None
            with request_scope(*self._scope):
                for start in range(0, len(lines), _BATCH_LINES):
                    batch = {"logGroupName": self.group, "logStreamName": self.stream}
                    cloudwatch_logs._put_log_events({**batch, "logEvents": lines[start : start + _BATCH_LINES]})

    def _open(self, principal: str) -> bool:
        account, region = self._scope
        group_arn = f"arn:aws:logs:{region}:{account}:log-group:{self.group}"
        stream_arn = f"{group_arn}:log-stream:{self.stream}"
        needed = [("logs:CreateLogStream", stream_arn), ("logs:PutLogEvents", stream_arn)]
        if self.group not in cloudwatch_logs._log_groups:
            needed.insert(0, ("logs:CreateLogGroup", f"{group_arn}:log-stream:"))
        for action, resource in needed:
            if not authorization.is_allowed(action, resource, principal=principal):
                logger.warning("%s may not %s on %s: no log lines", principal, action, resource)
                return False
        cloudwatch_logs._create_log_group({"logGroupName": self.group})
        cloudwatch_logs._create_log_stream({"logGroupName": self.group, "logStreamName": self.stream})
        return True
