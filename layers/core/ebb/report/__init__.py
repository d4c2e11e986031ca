"""The report of a run: one HTML page that needs no network, made of the run's record alone. Pure.

`view` chooses and words what is shown, `charts` finds where the marks of a plot stand, `greener` says what would take
less, `page` renders. `ebb.aws.closing` writes the page beside run.json when a run ends, whatever became of it.
"""
