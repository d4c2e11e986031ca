"""Request bodies: one pure function per AWS API action, named after it. Nothing here decides anything."""

from ebb.requests.alarms import put_metric_alarm
from ebb.requests.builds import start_build
from ebb.requests.compilation import compilation_job, create_compilation_job
from ebb.requests.components import create_inference_component
from ebb.requests.features import create_feature_group, forget_features, publish_features
from ebb.requests.glue import create_job, start_job_run, update_job
from ebb.requests.hosting import (
    create_async_endpoint_config,
    create_component_endpoint_config,
    create_endpoint,
    create_endpoint_config,
    create_model,
    update_endpoint,
)
from ebb.requests.jobs import create_processing_job, create_training_job
from ebb.requests.registry import also_compiled, create_model_package, create_model_package_group
from ebb.requests.roles import create_role, put_role_policy
from ebb.requests.transforms import create_transform_job
from ebb.requests.tuning import create_hyper_parameter_tuning_job, list_trials

__all__ = [
    "also_compiled",
    "compilation_job",
    "create_async_endpoint_config",
    "create_compilation_job",
    "create_component_endpoint_config",
    "create_endpoint",
    "create_endpoint_config",
    "create_feature_group",
    "create_hyper_parameter_tuning_job",
    "create_inference_component",
    "create_job",
    "create_model",
    "create_model_package",
    "create_model_package_group",
    "create_processing_job",
    "create_role",
    "create_training_job",
    "create_transform_job",
    "forget_features",
    "list_trials",
    "publish_features",
    "put_metric_alarm",
    "put_role_policy",
    "start_build",
    "start_job_run",
    "update_endpoint",
    "update_job",
]
