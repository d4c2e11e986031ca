"""The embedded cloud: AWS on loopback, to which the unmodified template is deployed by the unmodified `sam deploy`.

The base is MiniStack, started in this process and completed through its registries and functions: each gap
that Ebb meets is one small module in `ebb_local.gaps`, and its contract test fails when MiniStack changes under it.
"""
