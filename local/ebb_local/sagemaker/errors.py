"""Errors that the API answers with, under AWS's names."""


class ServiceError(Exception):
    """A request that SageMaker refuses: AWS's error code, AWS's text, and the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400, **members: object) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.members = code, message, status, members


def validation_exception(message: str) -> ServiceError:
    """Return the error of a request whose values AWS does not accept."""
    return ServiceError("ValidationException", message)


def not_implemented(what: str) -> ServiceError:
    """Return the refusal of something that AWS does and the embedded cloud does not: loud, and by name."""
    return ServiceError("UnknownOperationException", f"{what} is not implemented by the embedded cloud")


class JobFailure(Exception):
    """The job ends as Failed with this FailureReason."""


class HostingFailure(Exception):
    """A container cannot serve, or no instance is to be had; the text is the FailureReason."""
