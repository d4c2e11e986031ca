"""Training jobs run as processes with the layout, statuses, credentials and ends that AWS gives them."""

import json
import subprocess
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from contract.sagemaker.lab import Lab, channel
from contract.support import allow, wait_until

WRITES_A_MODEL = """
    import json, os, pathlib, sys
    root = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
    config = json.loads((root / "input/config/hyperparameters.json").read_text())
    print("training with", config["seed"], sys.argv[1] == f"--root={root}", flush=True)
    seen = {
        "files": sorted(p.relative_to(root / "input/data").as_posix() for p in root.glob("input/data/data/**/*.csv")),
        "channels": json.loads((root / "input/config/inputdataconfig.json").read_text()),
        "host": json.loads((root / "input/config/resourceconfig.json").read_text())["current_host"],
        "variables": sorted(os.environ),
        "where": os.environ["WHERE"] == str(root / "model"),
    }
    (root / "model/nested").mkdir()
    (root / "model/nested/model.json").write_text(json.dumps(seen))
    (root / "output/data/extra.txt").write_text("more")
"""
SLEEPS = "import time\nprint('asleep', flush=True)\ntime.sleep(60)\n"


def test_a_job_trains_and_stores_its_model(lab: Lab) -> None:
    lab.put("rows/a.csv", "1")
    lab.put("rows/deep/b.csv", "2")
    request = lab.training(WRITES_A_MODEL, HyperParameters={"seed": "7"}, Environment={"WHERE": "/opt/ml/model"})
    request["InputDataConfig"].append(channel("data", f"s3://{lab.bucket}/rows"))
    lab.sagemaker.create_training_job(**request)

    job = lab.trained(request["TrainingJobName"])

    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Completed", job.get("FailureReason")
    passed = [entry["Status"] for entry in job["SecondaryStatusTransitions"]]
    assert passed == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert job["BillableTimeInSeconds"] == job["TrainingTimeInSeconds"] >= 1
    assert job["TrainingStartTime"] <= job["TrainingEndTime"]
    output = f"{request['TrainingJobName']}/out/{request['TrainingJobName']}/output"
    assert job["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{lab.bucket}/{output}/model/"
    seen = json.loads(lab.get(f"{output}/model/nested/model.json"))
    assert seen["files"] == ["data/a.csv", "data/deep/b.csv"]
    assert seen["channels"]["data"]["TrainingInputMode"] == "File"
    assert seen["host"] == "algo-1"
    assert seen["where"], "/opt/ml in environment values is the base directory"
    assert not [name for name in seen["variables"] if name.startswith(("SM_", "EBB_"))]
    assert {"TRAINING_JOB_NAME", "TRAINING_JOB_ARN", "AWS_SESSION_TOKEN"} <= set(seen["variables"])
    assert lab.get(f"{output}/data/extra.txt") == "more"
    lines = lab.log_lines("TrainingJobs", f"{request['TrainingJobName']}/algo-1-")
    assert lines == ["training with 7 True"]


def test_a_model_is_packed_unless_compression_is_none(lab: Lab) -> None:
    script = "import os, pathlib\npathlib.Path(os.environ['SAGEMAKER_BASE_DIR'], 'model/a').write_text('x')\n"
    job = lab.train(script, OutputDataConfig={"S3OutputPath": f"s3://{lab.bucket}/packed"})
    assert lab.keys("packed/") == [f"packed/{job['TrainingJobName']}/output/model.tar.gz"]


TALKS_TO_ITS_PEER = """
    import json, os, pathlib, socket, time
    root = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
    config = json.loads((root / "input/config/resourceconfig.json").read_text())
    leads = config["current_host"] == config["hosts"][0]
    if leads:
        with socket.create_server((config["hosts"][0], 29400)) as server:
            peer = server.accept()[0]
            print("heard", peer.recv(99).decode(), flush=True)
        (root / "model/from").write_text(config["current_host"])
    else:
        for _ in range(200):
            try:
                with socket.create_connection((config["hosts"][0], 29400)) as client:
                    client.sendall(config["current_host"].encode())
                break
            except OSError:
                time.sleep(0.1)
"""


def test_the_machines_of_a_job_reach_each_other_and_nobody_else(lab: Lab) -> None:
    two = {"InstanceCount": 2, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 5}
    job = lab.train(TALKS_TO_ITS_PEER, ResourceConfig=two, EnableNetworkIsolation=True)
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert job["ResourceConfig"]["InstanceCount"] == 2
    assert lab.log_lines("TrainingJobs", f"{job['TrainingJobName']}/algo-1-") == ["heard 127.0.0.2"]


def test_a_machine_that_fails_ends_the_job_for_all(lab: Lab) -> None:
    script = """
        import json, os, pathlib, sys, time
        root = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
        config = json.loads((root / "input/config/resourceconfig.json").read_text())
        if config["current_host"] == config["hosts"][0]:
            time.sleep(300)
        (root / "output/failure").write_text("the second could not go on")
        sys.exit(3)
    """
    two = {"InstanceCount": 2, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 5}
    job = lab.train(script, ResourceConfig=two)
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"] == "AlgorithmError: the second could not go on, exit code: 3"


def test_a_manifest_names_the_objects_to_download(lab: Lab) -> None:
    lab.put("left/x/1.csv", "1")
    lab.put("left/x/2.csv", "2")
    uri = lab.put("left/manifest.json", json.dumps([{"prefix": f"s3://{lab.bucket}/left/"}, "x/2.csv"]))
    script = """
        import os, pathlib
        root = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
        print([p.relative_to(root).as_posix() for p in root.glob("input/data/data/**/*") if p.is_file()])
    """
    request = lab.training(script)
    request["InputDataConfig"].append(channel("data", uri, "ManifestFile"))
    lab.sagemaker.create_training_job(**request)
    job = lab.trained(request["TrainingJobName"])
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert lab.log_lines("TrainingJobs", request["TrainingJobName"]) == ["['input/data/data/x/2.csv']"]


def test_the_failure_file_is_the_failure_reason(lab: Lab) -> None:
    script = """
        import os, pathlib, sys
        pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "output/failure").write_text("column x is empty")
        sys.exit(3)
    """
    job = lab.train(script)
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"] == "AlgorithmError: column x is empty, exit code: 3"
    assert "ModelArtifacts" not in job or not job["ModelArtifacts"].get("S3ModelArtifacts")


def test_stopping_ends_the_process_and_keeps_the_model(lab: Lab) -> None:
    script = """
        import os, pathlib, signal, sys, time
        root = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
        def save(*_):
            (root / "model/kept").write_text("saved on SIGTERM")
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        print("ready", flush=True)
        time.sleep(60)
    """
    request = lab.training(script)
    name = request["TrainingJobName"]
    lab.sagemaker.create_training_job(**request)
    wait_until(lambda: lab.sagemaker.describe_training_job(TrainingJobName=name)["SecondaryStatus"] == "Training")
    wait_until(lambda: lab.log_lines("TrainingJobs", name), timeout_s=5)  # while it runs
    lab.sagemaker.stop_training_job(TrainingJobName=name)
    job = lab.trained(name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert lab.get(f"{name}/out/{name}/output/model/kept") == "saved on SIGTERM"
    with pytest.raises(ClientError, match="rejected because the training job is in status Stopped"):
        lab.sagemaker.stop_training_job(TrainingJobName=name)


def test_a_process_that_ignores_the_end_is_killed_at_max_runtime(lab: Lab) -> None:
    script = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)\n"
    job = lab.train(script, StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert job["TrainingTimeInSeconds"] < 20


def test_a_spot_interruption_goes_on_from_the_checkpoint(lab: Lab) -> None:
    script = """
        import os, pathlib, time
        folder = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "checkpoints")
        found = sorted(p.name for p in folder.iterdir())
        print("found", found, flush=True)
        if not found:
            (folder / "epoch-1").write_text("weights")
            time.sleep(60)
    """
    request = lab.training(
        script,
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 90},
        CheckpointConfig={"S3Uri": f"s3://{lab.bucket}/checkpoints/"},
    )
    name = request["TrainingJobName"]
    lab.sagemaker.create_training_job(**request)
    wait_until(lambda: lab.keys("checkpoints/") == ["checkpoints/epoch-1"])
    assert lab.send("Ebb.InterruptSpot", {"job": name}, "ebb") == {"status": 200}
    job = lab.trained(name)
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert "Interrupted" in [entry["Status"] for entry in job["SecondaryStatusTransitions"]]
    assert lab.log_lines("TrainingJobs", name) == ["found []", "found ['epoch-1']"]


def test_state_changes_are_events_with_the_describe_fields(lab: Lab) -> None:
    sqs = lab.cloud.client("sqs")
    for url in lab.events_of("SageMaker Training Job State Change"):
        job = lab.train("print('done')")
        seen: list[dict] = []

        def final(url: str = url, seen: list[dict] = seen, name: str = job["TrainingJobName"]) -> bool:
            received = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            seen += [json.loads(message["Body"]) for message in received]
            statuses = [e["detail"]["TrainingJobStatus"] for e in seen if e["detail"]["TrainingJobName"] == name]
            return "Completed" in statuses

        wait_until(final)
    event = next(event for event in seen if event["detail"]["TrainingJobStatus"] == "Completed")
    assert event["source"] == "aws.sagemaker"
    assert event["resources"] == [job["TrainingJobArn"]]
    assert event["detail"]["CreationTime"] == pytest.approx(job["CreationTime"].timestamp() * 1000, abs=1)


def test_a_job_cannot_read_what_its_role_may_not(lab: Lab) -> None:
    lab.s3.create_bucket(Bucket="other-project")
    lab.s3.put_object(Bucket="other-project", Key="secret.csv", Body=b"1")
    uri = "s3://other-project/secret.csv"
    request = lab.training("print('never runs')")
    request["InputDataConfig"].append(channel("data", uri))
    with pytest.raises(ClientError, match=f'No S3 objects found under S3 URL "{uri}"') as refused:
        lab.sagemaker.create_training_job(**request)
    assert '"s3:ListBucket" permissions on bucket "other-project"' in str(refused.value)

    listing_only = lab.role(allow("s3:ListBucket", "arn:aws:s3:::other-project"))
    lab.sagemaker.create_training_job(**request | {"RoleArn": listing_only})
    job = lab.trained(request["TrainingJobName"])
    assert job["FailureReason"].startswith("ClientError: Data download failed:AccessDenied (403)")


def test_a_role_without_log_permissions_leaves_no_lines_and_trains(lab: Lab) -> None:
    bucket = f"arn:aws:s3:::{lab.bucket}"
    role = lab.role(allow("s3:*", [bucket, f"{bucket}/*"]), *lab.pull(), given=False)
    job = lab.train("print('unheard')", RoleArn=role)
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert lab.log_lines("TrainingJobs", job["TrainingJobName"]) == []


def test_network_isolation_leaves_no_credentials_and_no_network(lab: Lab) -> None:
    script = f"""
        import os, socket
        print("keys", [name for name in os.environ if name.startswith("AWS_") and "REGION" not in name])
        try:
            socket.create_connection(("127.0.0.1", {lab.cloud.server.port}), timeout=2)
            print("connected")
        except OSError:
            print("no network")
    """
    namespaces = ["unshare", "--user", "--map-root-user", "--net", "--", "true"]
    network = "no network" if subprocess.run(namespaces, capture_output=True).returncode == 0 else "connected"
    job = lab.train(script, EnableNetworkIsolation=True)
    assert lab.log_lines("TrainingJobs", job["TrainingJobName"]) == ["keys []", network]


def test_an_isolated_job_still_reaches_itself_over_loopback(lab: Lab) -> None:
    script = """
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        socket.create_connection(server.getsockname(), timeout=2)
        print("reached")
    """
    job = lab.train(script, EnableNetworkIsolation=True)
    assert lab.log_lines("TrainingJobs", job["TrainingJobName"]) == ["reached"]


def test_metrics_are_read_from_the_log(lab: Lab) -> None:
    request = lab.training("print('loss=2.5')\nprint('loss=0.5')")
    request["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "loss", "Regex": "loss=([0-9.]+)"}]
    lab.sagemaker.create_training_job(**request)
    job = lab.trained(request["TrainingJobName"])
    assert [(metric["MetricName"], metric["Value"]) for metric in job["FinalMetricDataList"]] == [("loss", 0.5)]


def test_metrics_of_the_log_arrive_in_cloudwatch_under_the_jobs_name_and_what_is_no_number_does_not(lab: Lab) -> None:
    request = lab.training("print('loss=2.5')\nprint('loss=nan')\nprint('loss=0.5')")
    request["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "loss", "Regex": r"loss=(\S+)"}]
    lab.sagemaker.create_training_job(**request)
    job = lab.trained(request["TrainingJobName"])
    began = job["TrainingStartTime"]  # by the cloud's clock, which other tests put forward

    def published() -> list[dict[str, Any]]:
        return lab.cloud.client("cloudwatch").get_metric_statistics(
            Namespace="/aws/sagemaker/TrainingJobs",
            MetricName="loss",
            Dimensions=[{"Name": "TrainingJobName", "Value": job["TrainingJobName"]}],
            StartTime=began - timedelta(hours=1),
            EndTime=began + timedelta(hours=1),
            Period=3600,
            Statistics=["Minimum", "Maximum", "SampleCount"],
        )["Datapoints"]

    wait_until(published, timeout_s=60)
    points = published()
    assert sum(point["SampleCount"] for point in points) == 2
    assert (min(point["Minimum"] for point in points), max(point["Maximum"] for point in points)) == (0.5, 2.5)


def test_jobs_are_listed_newest_first_and_paged(lab: Lab) -> None:
    names = [lab.train("pass", name=f"listed-{index}")["TrainingJobName"] for index in (1, 2)]
    first = lab.sagemaker.list_training_jobs(NameContains="listed-", MaxResults=1)
    assert [row["TrainingJobName"] for row in first["TrainingJobSummaries"]] == names[:0:-1]
    second = lab.sagemaker.list_training_jobs(NameContains="listed-", MaxResults=1, NextToken=first["NextToken"])
    assert [row["TrainingJobName"] for row in second["TrainingJobSummaries"]] == names[:1]
    assert "NextToken" not in second
