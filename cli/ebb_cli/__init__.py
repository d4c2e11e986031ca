"""The `ebb` command: drop a table, watch its run, ask why, call the model. Thin: it reads the ledger and calls AWS."""
