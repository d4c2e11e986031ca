"""Whole runs that several tests look at."""

from __future__ import annotations

import pytest

from unit.jobs.stages import DATA, Pipeline, run_pipeline

NET = {"rungs": ["net"]}
"""The network alone: what cheaper rungs do instead of it is for the ladder's own tests."""


@pytest.fixture(scope="session")
def penguins(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A classification run of a network: categories, missing values, three classes."""
    return run_pipeline(tmp_path_factory.mktemp("penguins"), DATA / "penguins.csv", {"train": NET})


@pytest.fixture(scope="session")
def housing(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A regression run: a skewed target of wide scale, a category, missing values."""
    spec = {"data": {"target": "median"}, "train": {**NET, "max_runtime": 600.0}}
    return run_pipeline(tmp_path_factory.mktemp("housing"), DATA / "housing.csv", spec)
