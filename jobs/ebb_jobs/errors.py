"""Errors that a job raises on purpose. Their text becomes the job's failure reason."""


class JobError(Exception):
    """The job cannot go on; the message says why in one line and holds no value of the data."""


class InputMissingError(JobError):
    """A channel or file that the stage needs is not there. A retry does not help."""


class DivergedError(JobError):
    """Training produced no finite loss, even with a smaller learning rate."""


class BundleError(JobError):
    """A finished bundle does not answer as the model that it was made from."""
