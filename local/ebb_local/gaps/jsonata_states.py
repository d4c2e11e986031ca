"""JSONata fields that MiniStack ignores or cannot evaluate.

- Parallel: Arguments, Output and Assign.
- Task: TimeoutSeconds as an expression.
- Succeed: Output.
Source: https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html and the page of each state.
"""

import contextvars
import copy
import threading
from typing import Any

from ministack.services import stepfunctions


def install() -> None:
    """Wrap the three kinds of states."""
    parallel, execute, output_path = (
        stepfunctions._run_parallel_branches,
        stepfunctions._execute_task,
        stepfunctions._apply_output_path,
    )

    def run_branches(state_def, raw_input, execution, ctx):
        if stepfunctions._state_query_language(state_def, ctx) != "JSONata":
            return parallel(state_def, raw_input, execution, ctx)
        branch_input = stepfunctions._apply_jsonata_arguments(state_def, raw_input, ctx)
        results = _run_each(state_def["Branches"], branch_input, execution, ctx)
        output = stepfunctions._apply_jsonata_output(state_def, raw_input, ctx, result=results, default=results)
        stepfunctions._apply_state_assign(state_def, raw_input, ctx, result=results)
        return output, stepfunctions._next_or_end(state_def)

    def execute_with_timeout(state_def, raw_input, execution, ctx):
        if isinstance(state_def.get("TimeoutSeconds"), str):
            seconds = stepfunctions._jsonata_state_field(state_def, "TimeoutSeconds", "number", raw_input, ctx)
            state_def = {**state_def, "TimeoutSeconds": seconds}
        return execute(state_def, raw_input, execution, ctx)

    def succeed_output(state_def, data, ctx=None):
        if state_def.get("Type") == "Succeed" and stepfunctions._state_query_language(state_def, ctx) == "JSONata":
            return stepfunctions._apply_jsonata_output(state_def, data, ctx, default=data)
        return output_path(state_def, data, ctx)

    stepfunctions._run_parallel_branches = run_branches
    stepfunctions._execute_task = execute_with_timeout
    stepfunctions._apply_output_path = succeed_output


def _run_each(branches: list[dict], branch_input: Any, execution: dict, ctx: dict) -> list:
    results: list = [None] * len(branches)
    errors: list[Exception | None] = [None] * len(branches)

    def run(index: int, branch: dict) -> None:
        try:
            # Each branch has variables of its own; those of the machine are visible in it.
            scope = copy.deepcopy(ctx)
            results[index] = stepfunctions._run_sub_machine(
                branch["States"], branch["StartAt"], branch_input, execution, scope
            )
        except Exception as error:
            errors[index] = error

    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(run, index, branch), daemon=True)
        for index, branch in enumerate(branches)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = next((error for error in errors if error is not None), None)
    if failed is not None:
        raise failed
    return results
