"""What happens each minute of the cloud's time: metrics of instances, components and queues; instances that go.

CPUUtilization is that of the process that stands for the instances, shared among them; 100 is one core. A process that
was asleep because the clock was put forward has used what it has used. MemoryUtilization is a share of the instance.
Source: https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html
"""

from ministack.core.responses import request_scope

from ebb_local.sagemaker import async_queue, capacity, components, fleets, metrics, state, variants


def tick() -> None:
    """Publish a minute of every endpoint, in every account and Region."""
    for account, region, _, record in state.everywhere(state.endpoints):
        with request_scope(account, region):
            if record["EndpointStatus"] not in ("Creating", "Failed", "Deleting"):
                _endpoint(record)
    for account, region, _, record in state.everywhere(state.inference_components):
        with request_scope(account, region):
            if record["_current"]:
                _component(record)
    for account, region, _, record in state.everywhere(state.training_jobs):
        with request_scope(account, region):
            if record["TrainingJobStatus"] == "InProgress" and record["SecondaryStatus"] == "Training":
                _training_job(record)
    metrics.flush()


def _endpoint(record: state.Record) -> None:
    servers = fleets.of(record["EndpointArn"])
    for entry in record["_variants"]:
        if variants.serverless(entry) or not entry["current"]:
            continue
        dimensions = {"EndpointName": record["EndpointName"], "VariantName": variants.name(entry)}
        server = servers.get(variants.name(entry))
        cpu, memory_mb = server.usage() if server else (0.0, 0.0)
        size = capacity.size(entry["variant"]["InstanceType"])
        for _ in range(entry["current"]):
            metrics.put(dimensions, {
                "CPUUtilization": (cpu / entry["current"], "Percent"),
                "MemoryUtilization": (min(100.0, memory_mb / size.memory_mb * 100), "Percent"),
            }, namespace=metrics.INSTANCES)  # fmt: skip
    if record.get("AsyncInferenceConfig"):
        async_queue.publish(record)
    if record["EndpointStatus"] == "InService":
        components.release_instances(record)


def _component(record: state.Record) -> None:
    for server in fleets.of(record["InferenceComponentArn"]).values():
        cpu, memory_mb = server.usage()
        wanted = record["_specification"]["ComputeResourceRequirements"]
        cores = wanted.get("NumberOfCpuCoresRequired") or 1.0
        metrics.put({"InferenceComponentName": record["InferenceComponentName"]}, {
            "CPUUtilizationNormalized": (cpu / cores / record["_current"], "Percent"),
            "MemoryUtilizationNormalized": (min(100.0, memory_mb / wanted["MinMemoryRequiredInMb"] * 100), "Percent"),
        }, namespace=metrics.COMPONENTS)  # fmt: skip


def _training_job(record: state.Record) -> None:
    """Publish that each machine of a job runs. How busy it is is not measured: one core, assumed."""
    for number in range(1, record["ResourceConfig"].get("InstanceCount", 1) + 1):
        host = {"Host": f"{record['TrainingJobName']}/algo-{number}"}
        metrics.put(host, {"CPUUtilization": (100.0, "Percent")}, namespace=metrics.TRAINING)
