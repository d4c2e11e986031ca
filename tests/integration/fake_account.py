"""The account behind the real SDK that the benchmark of the sweep uses, for tests."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "ebb_fake_account", Path(__file__).parents[2] / "benchmarks" / "fake_account.py"
)
_module = importlib.util.module_from_spec(_spec)
sys.modules["ebb_fake_account"] = _module
_spec.loader.exec_module(_module)
FakeAccount = _module.FakeAccount
ACCOUNT = _module.ACCOUNT
