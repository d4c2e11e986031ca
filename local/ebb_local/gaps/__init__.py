"""What MiniStack leaves open and Ebb needs: one module per gap, each with `install()`.

A gap replaces functions of MiniStack in its modules' namespaces; the last one installed is the outermost. Each has
a contract test in tests/contract that fails when MiniStack changes under it.
"""

import importlib

GAPS = (
    "clock",
    "loopback_tls",
    "gateway_decisions",
    "denial_texts",
    "resource_arns",
    "glue_catalog",
    "condition_keys",
    "unknown_services",
    "sessions",
    "lambda_errors",
    "lambda_starts",
    "lambda_workers",
    "lambda_logs",
    "lambda_async",
    "lambda_event_sources",
    "table_streams",
    "function_urls",
    "queue_urls",
    "bucket_encryption",
    "definitions",
    "sdk_errors",
    "sdk_services",
    "state_machine_roles",
    "sync_integrations",
    "execution_lifecycle",
    "jsonata_states",
    "data_limit",
    "rule_targets",
    "schedules",
    "pass_role",
    "encryption_keys",
    "alarm_actions",
    "alarm_evaluation",
    "cloudwatch_metrics",
    "embedded_metrics",
    "usage_metrics",
)


def install() -> None:
    """Close every gap, once, before the server listens."""
    for name in GAPS:
        importlib.import_module(f"{__name__}.{name}").install()
    importlib.import_module("ebb_local.persistence").install()
