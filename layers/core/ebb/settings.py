"""Settings: the resources that a function may use, named by its environment and read when it is called."""

import os
from dataclasses import dataclass
from typing import Self

from ebb.identity import jobs_hash


def _get(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise RuntimeError(f"the environment variable {name} is not set; template.yaml names what each function reads")
    return value


def _list(name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in os.environ.get(name, "").split(",") if part.strip())


@dataclass(frozen=True)
class UploadSettings:
    """What `on_upload` needs."""

    run_pipeline_arn: str
    score_data_arn: str

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment."""
        return cls(_get("RUN_PIPELINE_ARN"), _get("SCORE_DATA_ARN"))


@dataclass(frozen=True)
class ScheduleSettings:
    """What `on_schedule` needs."""

    sweep_account_arn: str

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment."""
        return cls(_get("SWEEP_ACCOUNT_ARN"))


@dataclass(frozen=True)
class ReapSettings:
    """What `decide_reaping` needs: whose resources are ours, whether others' tags count, where events are noted."""

    stack: str
    manages_foreign: bool
    ledger_table: str

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment."""
        return cls(_get("STACK_NAME"), _get("MANAGE_FOREIGN_ENDPOINTS") == "yes", _get("LEDGER_TABLE"))


@dataclass(frozen=True)
class SweepSettings(ReapSettings):
    """What `sweep_account` needs."""

    artifact_bucket: str
    deploy_model_arn: str
    reap_resources_arn: str
    scale_to_zero_arn: str
    wake_endpoint_arn: str

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment."""
        shared = ReapSettings.from_env()
        return cls(
            shared.stack,
            shared.manages_foreign,
            shared.ledger_table,
            _get("ARTIFACT_BUCKET"),
            _get("DEPLOY_MODEL_ARN"),
            _get("REAP_RESOURCES_ARN"),
            _get("SCALE_TO_ZERO_ARN"),
            _get("WAKE_ENDPOINT_ARN"),
        )

    def machine_arn(self, name: str) -> str:
        """Return the ARN of a state machine by the name of its definition."""
        return str(getattr(self, f"{name}_arn"))


@dataclass(frozen=True)
class RecordSettings:
    """What the functions need that only read and write the ledger and the runs' reports."""

    ledger_table: str
    artifact_bucket: str

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment."""
        return cls(_get("LEDGER_TABLE"), _get("ARTIFACT_BUCKET"))


@dataclass(frozen=True)
class CatalogSettings:
    """What `plan_table` needs."""

    ledger_table: str
    database: str

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment."""
        return cls(_get("LEDGER_TABLE"), _get("CATALOG_DATABASE"))


@dataclass(frozen=True)
class FeatureSettings:
    """What `plan_features` needs besides the stack: after how many days features of older runs go, 0 never."""

    retention_days: int

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment."""
        return cls(int(_get("FEATURE_RETENTION_DAYS")))


@dataclass(frozen=True)
class IdentifySettings:
    """What `identify_dataset` needs."""

    ledger_table: str
    artifact_bucket: str
    landing_bucket: str
    jobs_hash: str
    external_data_buckets: tuple[str, ...]

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment."""
        return cls(
            _get("LEDGER_TABLE"),
            _get("ARTIFACT_BUCKET"),
            _get("LANDING_BUCKET"),
            jobs_hash(_get("JOBS_URI")),
            _list("EXTERNAL_DATA_BUCKETS"),
        )


@dataclass(frozen=True)
class DoorSettings:
    """What `front_door` and `deliver_request` need."""

    stack: str
    ledger_table: str
    artifact_bucket: str
    requests_queue_url: str
    wake_endpoint_arn: str
    dead_letter_queue_url: str = ""  # only the delivery gives up

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment."""
        return cls(
            _get("STACK_NAME"),
            _get("LEDGER_TABLE"),
            _get("ARTIFACT_BUCKET"),
            _get("REQUESTS_QUEUE_URL"),
            _get("WAKE_ENDPOINT_ARN"),
            os.environ.get("REQUESTS_DEAD_LETTER_QUEUE_URL", ""),
        )


@dataclass(frozen=True)
class AlarmSettings:
    """What `on_alarm` needs."""

    stack: str
    ledger_table: str
    scale_to_zero_arn: str
    wake_endpoint_arn: str
    stop_training_arn: str

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment."""
        return cls(
            _get("STACK_NAME"),
            _get("LEDGER_TABLE"),
            _get("SCALE_TO_ZERO_ARN"),
            _get("WAKE_ENDPOINT_ARN"),
            _get("STOP_TRAINING_ARN"),
        )


@dataclass(frozen=True)
class TrainingSettings:
    """What `decide_training` needs."""

    stack: str
    ledger_table: str

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment."""
        return cls(_get("STACK_NAME"), _get("LEDGER_TABLE"))


@dataclass(frozen=True)
class WindowSettings:
    """What `choose_window` needs."""

    ledger_table: str
    artifact_bucket: str
    electricity_maps_secret_arn: str
    asks_uk: bool

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment; without a secret Electricity Maps is not asked."""
        return cls(
            _get("LEDGER_TABLE"),
            _get("ARTIFACT_BUCKET"),
            os.environ.get("ELECTRICITY_MAPS_SECRET_ARN", ""),
            _get("ASK_UK_CARBON_API") == "yes",
        )


@dataclass(frozen=True)
class ScalingSettings:
    """What `decide_scaling` and `plan_wake` need."""

    stack: str
    ledger_table: str
    artifact_bucket: str
    notifications_topic_arn: str
    manages_foreign: bool

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment."""
        return cls(
            _get("STACK_NAME"),
            _get("LEDGER_TABLE"),
            _get("ARTIFACT_BUCKET"),
            _get("NOTIFICATIONS_TOPIC_ARN"),
            _get("MANAGE_FOREIGN_ENDPOINTS") == "yes",
        )


@dataclass(frozen=True)
class StackSettings:
    """The deployed stack, as far as request bodies name it. Account, Region and partition are those of its key."""

    stack: str
    artifact_bucket: str
    data_key_arn: str
    serve_image_uri: str
    landing_bucket: str = ""
    jobs_uri: str = ""
    jobs_image_uri: str = ""
    job_boundary_arn: str = ""
    notifications_topic_arn: str | None = None
    ledger_table: str = ""
    external_data_key_arns: tuple[str, ...] = ()
    images_project: str = ""
    glue_security_configuration: str = ""
    jobs_context_uri: str = ""
    serve_context_uri: str = ""

    @classmethod
    def for_planning(cls) -> Self:
        """Read what `plan_pipeline` needs from the environment."""
        return cls(
            stack=_get("STACK_NAME"),
            artifact_bucket=_get("ARTIFACT_BUCKET"),
            data_key_arn=_get("DATA_KEY_ARN"),
            serve_image_uri=_get("SERVE_IMAGE_URI"),
            landing_bucket=_get("LANDING_BUCKET"),
            jobs_uri=_get("JOBS_URI"),
            jobs_image_uri=_get("JOBS_IMAGE_URI"),
            job_boundary_arn=_get("JOB_BOUNDARY_ARN"),
            ledger_table=_get("LEDGER_TABLE"),
            external_data_key_arns=_list("EXTERNAL_DATA_KEY_ARNS"),
            images_project=_get("IMAGES_PROJECT"),
            glue_security_configuration=_get("GLUE_SECURITY_CONFIGURATION"),
            # empty where the image is given ready
            jobs_context_uri=os.environ.get("JOBS_CONTEXT_URI", ""),
            serve_context_uri=os.environ.get("SERVE_CONTEXT_URI", ""),
        )

    @classmethod
    def for_features(cls) -> Self:
        """Read what `plan_features` needs from the environment."""
        return cls(
            stack=_get("STACK_NAME"),
            artifact_bucket=_get("ARTIFACT_BUCKET"),
            data_key_arn=_get("DATA_KEY_ARN"),
            serve_image_uri="",
            jobs_uri=_get("JOBS_URI"),
            jobs_image_uri=_get("JOBS_IMAGE_URI"),
            ledger_table=_get("LEDGER_TABLE"),
        )

    @classmethod
    def for_selection(cls) -> Self:
        """Read what `select_candidate`, `plan_deployment` and `plan_scoring` need from the environment."""
        return cls(
            stack=_get("STACK_NAME"),
            artifact_bucket=_get("ARTIFACT_BUCKET"),
            data_key_arn=_get("DATA_KEY_ARN"),
            serve_image_uri=_get("SERVE_IMAGE_URI"),
            jobs_image_uri=_get("JOBS_IMAGE_URI"),  # a model with its own code needs PyTorch where it is served
            ledger_table=_get("LEDGER_TABLE"),
            notifications_topic_arn=os.environ.get("NOTIFICATIONS_TOPIC_ARN") or None,
        )

    @property
    def partition(self) -> str:
        """The AWS partition, as ARNs name it."""
        return self.data_key_arn.split(":")[1]

    @property
    def region(self) -> str:
        """The Region in which everything runs."""
        return self.data_key_arn.split(":")[3]

    @property
    def account_id(self) -> str:
        """The account that owns everything."""
        return self.data_key_arn.split(":")[4]

    def arn(self, service: str, resource: str) -> str:
        """Return the ARN of a resource in this stack's account and Region."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account_id}:{resource}"
