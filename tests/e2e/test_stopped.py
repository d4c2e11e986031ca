"""A script that only prints its metric is stopped from outside by an alarm, and the run goes on with what it saved."""

import shutil
from pathlib import Path

from .conftest import Cloud, Ebb
from .test_tasks import SCRIPTS

FOR_EVER = """
import itertools, time
for step in itertools.count():  # as a script does that was given too many epochs
    print(f"step {step} val_accuracy={0.97}", flush=True)
    time.sleep(0.2)
"""
SPEC = """
task: custom
train:
  hyperparameters: {epochs: 12}
  max_runtime: 20m
  stop: {metric_regex: 'val_accuracy=([0-9.]+)', target: 0.95}
compress: {methods: [quantize]}
"""


def test_a_script_that_reaches_its_target_is_stopped_by_its_alarm_and_its_best_model_is_shipped(
    ebb: Ebb, cloud: Cloud, tmp_path: Path
):
    folder = tmp_path / "penguins"
    shutil.copytree(SCRIPTS / "custom_export", folder)
    shutil.copyfile(SCRIPTS / "penguins.csv", folder / "penguins.csv")
    with (folder / "train.py").open("a") as file:
        file.write(FOR_EVER)
    (tmp_path / "pipeline.yaml").write_text(SPEC)

    run = ebb.drop(folder, "stopped", "--spec", tmp_path / "pipeline.yaml")

    assert run["status"] == "succeeded", run
    assert run["deployed"], "what the script had saved when it was stopped is served"
    train = next(each for each in run["stages"] if each["stage"] == "train")
    assert train["stopped"]["rule"] == "target"
    assert train["stopped"]["numbers"]["best"] == 0.97
    assert train["stopped"]["saved"]["at_most_s"] > 900, "of the 20 minutes"
    job = cloud.client("sagemaker").describe_training_job(TrainingJobName=train["job_name"])
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
    left = cloud.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{cloud.stack}-{train['job_name']}")
    assert left["MetricAlarms"] == []
    assert "train.stop.target is 0.95" in ebb("why", run["run_id"]).stdout
    assert "stopped" in ebb("show", run["run_id"]).stdout
