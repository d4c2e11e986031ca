"""Ebb's decisions, as pure functions over data. Only `ebb.aws` talks to AWS."""
