"""Request bodies of image builds: StartBuild, as Step Functions takes it, with members that begin with a capital."""

from typing import Any

from ebb.images import Image

COMPUTE_TYPE = "BUILD_GENERAL1_MEDIUM"  # as template.yaml names it


def start_build(project: str, image: Image) -> dict[str, Any]:
    """Return the body of StartBuild for one image. The build's commands stand in the project, template.yaml.

    There is no IdempotencyToken: it would answer a repeat within five minutes with the build that has failed. Two
    builds of one image do no harm, because a build first looks for its tag and tags are immutable.
    """
    variables = {"IMAGE_URI": image.uri, "CONTEXT_URI": image.context_uri}
    if image.base_image:
        variables["BASE_IMAGE"] = image.base_image
    return {
        "ProjectName": project,
        "EnvironmentVariablesOverride": [
            {"Name": name, "Value": value, "Type": "PLAINTEXT"} for name, value in variables.items()
        ],
    }
