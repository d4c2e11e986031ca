"""CloudWatch metrics and alarms in place of MiniStack's: exact dimensions, math, limits, paging, missing data, actions.

MiniStack keeps the alarms' records, composite alarms, history, tags and dashboards; `gaps/cloudwatch_metrics.py` and
`gaps/alarm_evaluation.py` put what is here into it.
"""
