"""What holds for every test: nothing reaches a real account by accident, whatever the environment says."""

import os

import pytest

# At import, before any module makes a session: keys that no account knows, no profile, no file of the developer's.
# Only `make conformance`, told a profile and a cost cap, runs the end-to-end tests against an account: through that
# profile and through nothing else (keys in the environment would win over it).
PROFILE, REGION = os.environ.get("EBB_CONFORMANCE_PROFILE"), os.environ.get("EBB_CONFORMANCE_REGION")
FILES = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE") if PROFILE else ()
for name in [name for name in os.environ if name.startswith("AWS_") and name not in FILES]:
    del os.environ[name]
if PROFILE:
    os.environ.update({"AWS_PROFILE": PROFILE} | ({"AWS_DEFAULT_REGION": REGION} if REGION else {}))
else:
    os.environ.update(
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
    )
os.environ["POWERTOOLS_TRACE_DISABLED"] = "true"


@pytest.fixture(autouse=True)
def _same_environment_after_each_test(monkeypatch: pytest.MonkeyPatch):
    """Give back what a test changed in the environment, even by hand."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
