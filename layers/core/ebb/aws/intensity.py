"""Whom a stack asks what electricity emits: the providers of its settings, in the order in which they are asked."""

import json
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ebb.aws import storage
from ebb.aws.clients import client
from ebb.errors import ObjectMissingError, SignalUnavailableError
from ebb.settings import WindowSettings
from ebb.signals import Provider, Span
from ebb.signals.tables import AVERAGE, ForecastFile, Profile, Yearly
from ebb.signals.web import ElectricityMaps, UnitedKingdom


def providers(settings: WindowSettings, region: str, signal: str) -> list[Provider]:
    """Return who is asked, first those who know the weather: over HTTP, a file, a profile, and the yearly table last.

    Over HTTP only where the stack says so, and of the average signal, which is the one that they tell.
    """
    asked: list[Provider] = []
    if signal == AVERAGE and settings.electricity_maps_secret_arn:
        asked.append(_WithKey(settings.electricity_maps_secret_arn))
    if signal == AVERAGE and settings.asks_uk:
        asked.append(UnitedKingdom())
    asked.append(ForecastFile(_file(settings.artifact_bucket, f"carbon/{region}.json"), signal))
    if signal == AVERAGE:
        asked.append(Profile(_file(settings.artifact_bucket, f"carbon/{region}-hours.json")))
    return [*asked, Yearly()]


class _WithKey:
    """Electricity Maps with the key that Secrets Manager keeps, read when it is asked: it may have been renewed."""

    name = ElectricityMaps.name

    def __init__(self, secret_arn: str):
        self._secret_arn = secret_arn

    def spans(self, region: str, *when: Any) -> list[Span]:
        """Return its spans. Raises: SignalUnavailableError, also when the key cannot be read."""
        try:
            key = client("secretsmanager").get_secret_value(SecretId=self._secret_arn).get("SecretString", "").strip()
        except (ClientError, BotoCoreError) as error:
            raise SignalUnavailableError(f"its key could not be read ({_code(error)})") from error
        if not key or "\n" in key:
            raise SignalUnavailableError("its key is not one line of text")
        return list(ElectricityMaps(key).spans(region, *when))


def _file(bucket: str, key: str) -> Any:
    """Return what an operator has put there, None when it is nothing; of what is no JSON nothing is taken."""
    try:
        found = json.loads(storage.read(bucket, key))
    except ObjectMissingError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _code(error: ClientError | BotoCoreError) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__
