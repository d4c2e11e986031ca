"""The one logger: JSON lines with the function's name and request id, level from LOG_LEVEL."""

from aws_lambda_powertools import Logger

logger = Logger(service="ebb")
