"""Request bodies of plans and deployments against botocore's models: enums, patterns and lengths too."""

import json
from dataclasses import replace
from fnmatch import fnmatchcase

import botocore.session
import pytest

from aws_shapes import assert_valid, problems
from ebb import deployment, names
from ebb.errors import InvalidSpecError
from ebb.requests import forget_features, jobs, publish_features, roles
from ebb.sources import Source
from ebb.spec import PipelineSpec
from worked_run import ARTIFACTS, NOW, STACK, built_plan, built_selection, candidate, facts, moment

LONGEST_PROJECT = "a" * 20
LONGEST_RUN = f"{LONGEST_PROJECT}-20261123093000-3f9a1c07be"
LONGEST_SPEC = PipelineSpec.model_validate(
    {
        "task": "tabular-classification",
        "data": {"target": "価" * 200, "uri": "s3://" + "b" * 63 + "/" + "k" * 1000},
        "train": {"metric": "balanced_accuracy", "target": 0.123456789, "epochs": 10000, "instance": "ml.m5.12xlarge"},
        "retrain": {"schedule": f"cron({'1' * 200})", "drift": {"psi": 0.123456}, "deadline": "24h"},
        "serve": {"p95_latency": "50ms", "requests_per_day": 10**9},
    }
)
LONGEST_SCRIPT = PipelineSpec.model_validate(
    {
        "task": "custom",
        "data": {"uri": "s3://" + "b" * 63 + "/" + "k" * 1000},
        "train": {
            "source": "s3://" + "b" * 63 + "/" + "k" * 1000 + ".tar.gz",
            "entry_point": "e" * 190 + ".py",
            "hyperparameters": {f"p{n}": '"' * 31 for n in range(20)},  # quotation marks take the most room
        },
    }
)
PLANS = [
    pytest.param({}, id="the worked run"),
    pytest.param({"spec": PipelineSpec.model_validate({"train": {"spot": False}})}, id="on demand"),
    pytest.param({"spec": PipelineSpec.model_validate({"train": {"instance": "ml.g5.xlarge"}})}, id="on a GPU"),
    pytest.param({"spec": PipelineSpec.model_validate({"train": {"instance": "ml.trn1.2xlarge"}})}, id="on Trainium"),
    pytest.param(
        {"run_id": LONGEST_RUN, "project": LONGEST_PROJECT, "attempt": 99, "spec": LONGEST_SPEC}, id="longest"
    ),
    pytest.param(
        {"run_id": LONGEST_RUN, "project": LONGEST_PROJECT, "attempt": 99, "spec": LONGEST_SCRIPT},
        id="longest with a script",
    ),
]
ACTIONS = {
    "process": "CreateProcessingJob",
    "train": "CreateTrainingJob",
    "compress": "CreateTrainingJob",
    "compile": "CreateProcessingJob",
}


@pytest.mark.parametrize("changes", PLANS)
@pytest.mark.parametrize(("stage", "action"), ACTIONS.items())
def test_job_requests_are_valid_for_sagemaker(changes, stage, action):
    assert_valid("sagemaker", action, built_plan(**changes)[stage]["request"])


@pytest.mark.parametrize("changes", PLANS)
def test_role_requests_are_valid_for_iam(changes):
    for role in built_plan(**changes)["roles"]:
        assert_valid("iam", "CreateRole", role["create"])
        assert_valid("iam", "PutRolePolicy", role["policy"])


def test_registry_requests_are_valid():
    selection = built_selection()
    assert_valid("sagemaker", "CreateModelPackageGroup", selection["package_group"])
    assert_valid("sagemaker", "CreateModelPackage", selection["package"])


@pytest.mark.parametrize(
    ("task", "image", "takes", "framework"),
    [
        pytest.param("tabular-regression", "serve", "text/csv", "ONNX", id="rows"),
        pytest.param("image-classification", "serve", "image/png", "ONNX", id="pictures"),
        pytest.param("text-classification", "serve", "text/plain", "ONNX", id="texts"),
        pytest.param("custom", "serve", "application/x-npy", "ONNX", id="what a script exported"),
        pytest.param("custom", "jobs", "application/x-npy", "PYTORCH", id="what a script left as it is"),
    ],
)
def test_the_registry_is_told_what_the_model_takes_and_is_made_with(task, image, takes, framework):
    shipped = candidate("student", ("distill", "compile"), image=image)
    body = deployment.package(STACK, built_plan(), task=task, candidate=shipped, metric=None, comparison=None)
    assert_valid("sagemaker", "CreateModelPackage", body)
    told = body["InferenceSpecification"]
    assert takes in told["SupportedContentTypes"]
    assert "application/json" in set(told["SupportedContentTypes"]) & set(told["SupportedResponseMIMETypes"])
    assert told["Containers"][0]["Framework"] == framework
    known = botocore.session.get_session().get_service_model("sagemaker").shape_for("Framework").enum
    assert framework in known


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param({"ProcessingJobName": "a_b"}, "does not match", id="a name with an underscore"),
        pytest.param({"ProcessingJobName": "a" * 64}, "64", id="a name too long"),
        pytest.param({"Environment": {"EBB_SETTINGS": "x" * 257}}, "more than 256", id="settings too long"),
        pytest.param({"StoppingCondition": {"MaxRuntimeInSeconds": 0}}, "0", id="no time at all"),
        pytest.param({"Colour": "blue"}, "Colour", id="an unknown member"),
    ],
)
def test_the_check_itself_finds_what_is_wrong(change, problem):
    body = built_plan()["process"]["request"] | change
    assert any(problem in found for found in problems("sagemaker", "CreateProcessingJob", body))


def test_long_settings_travel_in_pieces_that_join_again():
    settings = {"sources": {f"project/data/part-{n}-ü.csv": "0" * 64 for n in range(50)}}
    pieces = jobs.settings_environment(settings)
    assert list(pieces) == [f"EBB_SETTINGS_{n}" for n in range(len(pieces))]
    assert max(map(len, pieces.values())) <= 256
    assert json.loads("".join(pieces.values())) == settings


def test_settings_that_fit_nowhere_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        jobs.settings_environment({"x": "y" * 30_000})


def test_the_largest_drop_that_is_accepted_fits_the_job():
    many = tuple(
        Source(bucket=STACK.landing_bucket, key=f"cancer/data/part-{n:05}.csv", size_bytes=1, etag="e", sha256="0" * 64)
        for n in range(195)
    )
    assert_valid("sagemaker", "CreateProcessingJob", built_plan(sources=many, spec=LONGEST_SPEC)["process"]["request"])


def test_a_retry_registers_the_same_bundle_once():
    def token(**changes) -> str:
        plan = built_plan(**changes)
        compared = built_selection()["comparison"]
        student = candidate("student", ("distill", "compile"))
        package = deployment.package(
            STACK, plan, task="tabular-classification", candidate=student, metric="accuracy", comparison=compared
        )
        return package["ClientToken"]

    compiled = dict.fromkeys(names.STAGES, 1)
    assert token(attempt=2, finished=compiled) == token(attempt=1)
    assert token(attempt=2) != token(attempt=1), "compiled anew, it is another bundle"


def test_spot_jobs_keep_checkpoints_and_may_wait():
    request = built_plan()["train"]["request"]
    assert request["EnableManagedSpotTraining"] is True
    assert request["StoppingCondition"]["MaxWaitTimeInSeconds"] >= request["StoppingCondition"]["MaxRuntimeInSeconds"]
    assert request["CheckpointConfig"]["S3Uri"].endswith("/checkpoints/train")


@pytest.mark.parametrize(("train", "spot"), [({}, False), ({"checkpoints": True}, True)])
def test_a_script_gets_spot_capacity_only_when_it_promises_checkpoints(train, spot):
    asked = PipelineSpec.model_validate({"task": "custom", "train": train})
    assert built_plan(spec=asked)["train"]["request"]["EnableManagedSpotTraining"] is spot


def test_jobs_have_no_network_and_encrypt_what_they_keep():
    plan = built_plan()
    for stage in ACTIONS:
        text = json.dumps(plan[stage]["request"])
        assert '"EnableNetworkIsolation": true' in text
        assert text.count(STACK.data_key_arn) == 2, "volume and output"


# ---- Roles: what a job may do ----


def statements(kind: str, project: str = "cancer") -> list[dict]:
    return json.loads(roles.put_role_policy(STACK, project, kind)["PolicyDocument"])["Statement"]


@pytest.mark.parametrize("kind", ["process", "train", "compress", "compile", "model", "recommend", "features"])
def test_no_action_is_a_wildcard_and_every_permission_names_its_source(kind):
    for statement in statements(kind):
        for action in statement["Action"]:
            assert "*" not in action
            assert roles.PERMISSION_SOURCES[action].startswith("https://docs.aws.amazon.com/")


@pytest.mark.parametrize("kind", ["process", "train", "compress", "compile", "model", "recommend", "features"])
def test_only_what_has_no_resource_is_allowed_on_all(kind):
    everywhere = {action for each in statements(kind) if each["Resource"] == ["*"] for action in each["Action"]}
    assert everywhere <= {"cloudwatch:PutMetricData", "ecr:GetAuthorizationToken"}


@pytest.mark.parametrize("kind", ["process", "train", "compress", "compile", "model", "features"])
def test_objects_of_another_project_are_out_of_reach(kind):
    for statement in statements(kind):
        if statement["Action"][0].startswith("s3:"):
            places = statement["Resource"] + statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix", [])
            for place in places:
                shared = place.endswith((ARTIFACTS, STACK.landing_bucket)) or "jobs/*" in place
                assert shared or "/cancer/" in f"/{place}" or "/ebb-cancer/" in f"/{place}", place


def test_a_model_reads_what_waits_for_it_and_writes_only_answers_and_scores():
    by_sid = {each["Sid"]: each for each in statements("model")}
    assert f"arn:aws:s3:::{STACK.landing_bucket}/cancer/score/*" in by_sid["Read"]["Resource"]
    assert f"arn:aws:s3:::{ARTIFACTS}/requests/ebb-cancer/*" in by_sid["Read"]["Resource"]
    assert by_sid["Write"]["Resource"] == [
        f"arn:aws:s3:::{ARTIFACTS}/projects/cancer/runs/*/scored/*",
        f"arn:aws:s3:::{ARTIFACTS}/answers/ebb-cancer/*",
    ]


@pytest.mark.parametrize(
    ("uri", "readable"),
    [
        pytest.param("s3://lake/tables/wine/", "lake/tables/wine/*", id="a folder"),
        pytest.param(
            "s3://lake/tables/wine", "lake/tables/wine/*", id="a folder without its slash, not its neighbours"
        ),
        pytest.param("s3://lake/tables/wine.csv", "lake/tables/wine.csv", id="one object"),
        pytest.param(
            f"s3://{STACK.landing_bucket}/shared/d", f"{STACK.landing_bucket}/shared/d/*", id="beside projects"
        ),
        pytest.param("s3://lake/t*.csv", "lake/t${*}.csv", id="a star is a character"),
    ],
)
def test_data_elsewhere_is_granted_as_far_as_it_was_named(uri, readable):
    made = built_plan(spec=PipelineSpec.model_validate({"data": {"uri": uri}}))["roles"]
    assert [each["create"]["RoleName"] for each in made] == [f"ebb-cancer-{kind}" for kind in names.ROLE_KINDS]
    granted = json.loads(made[0]["policy"]["PolicyDocument"])["Statement"]
    reading, listing = (next(each for each in granted if each["Sid"] == f"{what}Data0") for what in ("Read", "List"))
    assert reading["Resource"] == [f"arn:aws:s3:::{readable}"]
    assert listing["Condition"]["StringLike"]["s3:prefix"] == [readable.partition("/")[2]]
    for other in made[1:]:
        assert "ReadData" not in other["policy"]["PolicyDocument"]


def test_what_was_read_before_elsewhere_stays_readable_object_by_object():
    spec = PipelineSpec.model_validate({"data": {"uri": "s3://lake/b/", "mode": "append"}})
    read = [Source(bucket="lake", key=key, size_bytes=1, etag="e", sha256=key) for key in ("a/old.csv", "b/new.csv")]
    policy = built_plan(spec=spec, sources=read)["roles"][0]["policy"]["PolicyDocument"]
    granted = next(each for each in json.loads(policy)["Statement"] if each["Sid"] == "ReadData0")
    assert granted["Resource"] == ["arn:aws:s3:::lake/b/*", "arn:aws:s3:::lake/a/old.csv"]


@pytest.mark.parametrize("uri", ["s3://lake/b/", "s3://" + "b" * 63 + "/" + "k" * 1000])
def test_what_is_granted_elsewhere_fits_the_policy_of_a_role_or_is_refused(uri):
    spec = PipelineSpec.model_validate({"data": {"uri": uri, "mode": "append"}})

    def granted(count: int) -> str:
        old = [Source(bucket="lake", key=f"a/{n}.csv", size_bytes=1, etag="e", sha256=f"{n}") for n in range(count)]
        return built_plan(spec=spec, sources=old)["roles"][0]["policy"]["PolicyDocument"]

    assert len(granted(50)) <= 10_240
    with pytest.raises(InvalidSpecError, match="one by one"):
        granted(300)


@pytest.mark.parametrize("project", ["c", "c-lt", LONGEST_PROJECT])
def test_a_load_test_reaches_what_is_named_after_it_and_nothing_that_serves(project):
    """AWS cuts the job's name at 40 characters for what it makes."""
    granted = [each for each in statements("recommend", project) if each["Sid"].startswith("Test")]
    assert len(granted) == 3

    def reached(name: str) -> set[str]:
        return {
            action
            for each in granted
            for action in each["Action"]
            if any(fnmatchcase(name, place.rpartition("/")[2]) for place in each["Resource"])
        }

    run_id = names.run_id(project, "drops", f"{project}/d.csv", "1", moment(NOW))
    made = names.load_test(run_id, 99)
    assert len(made) <= 64
    assert "sagemaker:DeleteModel" in reached(f"{made[:40].rstrip('-')}-0a1b2c3d")
    others = (project, f"{project}-lt", "c", "sm-epc")
    serving = {
        name
        for other in others
        for run in [names.execution(names.run_id(other, "drops", "k", "1", moment(NOW)), 1)]
        for address in [names.endpoint("ebb", other), names.endpoint(project, "lt"), names.endpoint(project, other)]
        for name in (run, f"{run}-0a1b2c", address, f"{address}--async", f"{address}--shared-ml-m5-large")
        if names.is_project(other)
    }
    assert not set().union(*map(reached, serving))


def test_a_project_that_is_called_as_what_a_load_test_makes_is_none():
    assert not names.is_project("sm-epc")
    assert not names.is_project("sm-epc-birds")
    assert names.is_project("sm-ep")


def test_the_policy_of_a_role_does_not_depend_on_the_run():
    other = facts(run_id="cancer-20261201000000-000000", attempt=4)
    from ebb import plan

    assert plan.build(other, STACK)["roles"] == built_plan()["roles"]


@pytest.mark.parametrize("project", ["c", LONGEST_PROJECT])
def test_inline_policies_stay_within_iams_limit(project):
    # 10,240 characters for all inline policies of a role, white space not counted (IAM quotas).
    for kind in (*names.ROLE_KINDS, names.RECOMMEND):
        assert len(roles.put_role_policy(STACK, project, kind)["PolicyDocument"]) < 5_000


def test_only_the_process_role_may_decrypt_with_the_keys_of_external_data():
    key = "arn:aws:kms:eu-west-1:123456789012:key/theirs"
    stack = replace(STACK, external_data_key_arns=(key,))
    readers = {
        kind for kind in names.ROLE_KINDS if key in roles.put_role_policy(stack, "cancer", kind)["PolicyDocument"]
    }
    assert readers == {"process"}


# ---- Feature Store ----


@pytest.mark.parametrize("project", ["cancer-2", "cance", "cancer-cancer"])
def test_a_project_reaches_no_feature_group_and_no_table_of_another_one(project):
    def reached(service: str, kind: str, name: str) -> set[str]:
        return {
            action
            for statement in statements("features")
            for action in statement["Action"]
            for place in statement["Resource"]
            if action.startswith(service) and fnmatchcase(STACK.arn(service, f"{kind}/{name}"), place)
        }

    own, others = (names.feature_group("ebb", each, "0a1b2c3d") for each in ("cancer", project))
    assert reached("sagemaker", "feature-group", own) == {"sagemaker:DescribeFeatureGroup"}
    assert reached("sagemaker", "feature-group", others) == set()
    tables = [f"sagemaker_featurestore/{each.replace('-', '_')}_1795426210" for each in (own, others)]
    assert "glue:UpdateTable" in reached("glue", "table", tables[0])
    assert reached("glue", "table", tables[1]) == set()


def test_the_longest_names_fit_a_feature_group():
    assert len(names.feature_group("e" * 32, LONGEST_PROJECT, "0" * 8)) <= 64
    assert len(f"{LONGEST_RUN}-forget-{10**8 - 1}") <= 63


def test_the_job_that_published_is_asked_to_forget_with_its_own_code_role_and_machine():
    published = built_plan(spec=PipelineSpec.model_validate({"features": {"publish": True}}))
    job = publish_features(STACK, published, "ebb-cancer--0a1b2c3d", now=moment(NOW), retention_days=90)
    request = forget_features(job, "ebb-cancer--0a1b2c3d", "db.t", ["b", "a"], name="x", report_uri="s3://b/c")
    assert_valid("sagemaker", "CreateProcessingJob", request)
    assert {name: request[name] for name in ("RoleArn", "AppSpecification", "ProcessingResources")} == {
        name: job[name] for name in ("RoleArn", "AppSpecification", "ProcessingResources")
    }
    assert json.loads(request["Environment"]["EBB_SETTINGS"]) == {
        "action": "forget", "group": "ebb-cancer--0a1b2c3d", "table": "db.t", "runs": ["a", "b"],
    }  # fmt: skip
    assert [each["InputName"] for each in request["ProcessingInputs"]] == ["code"], "no rows travel"


@pytest.mark.parametrize(("days", "kept"), [(90, "2026-08-25"), (0, None)])
def test_rows_of_older_runs_go_with_the_next_one_unless_they_are_kept_for_ever(days, kept):
    published = built_plan(spec=PipelineSpec.model_validate({"features": {"publish": True}}))
    job = publish_features(STACK, published, "g", now=moment(NOW), retention_days=days)
    order = json.loads("".join(job["Environment"][name] for name in sorted(job["Environment"])))
    assert (order["keep_from"] or "None").startswith(str(kept))
