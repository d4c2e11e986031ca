"""The spec: what may be asked for, and how an error tells where and what to write instead."""

from datetime import timedelta

import pytest

from ebb import spec, spec_values
from ebb.errors import InvalidSpecError

FILE = "cancer/pipeline.yaml"


def parse(text: str) -> spec.PipelineSpec:
    return spec.parse(text.encode(), file=FILE)


def refused(text: str | bytes):
    with pytest.raises(InvalidSpecError) as caught:
        spec.parse(text if isinstance(text, bytes) else text.encode(), file=FILE)
    return caught.value.rejection


def test_an_empty_spec_asks_for_the_defaults():
    asked = parse("")
    assert asked.task is None
    assert asked.train.max_runtime == timedelta(hours=1)
    assert asked.compress.max_metric_drop == 0.01


def test_everything_that_a_user_may_write_today():
    asked = parse(
        """
        task: tabular-classification
        data: {target: label, mode: append}
        train: {metric: accuracy, target: 0.98, max_runtime: 2h, spot: false, instance: ml.m5.xlarge, epochs: 20}
        compress: {max_metric_drop: 0.02, methods: [quantize]}
        serve: {kind: realtime, p95_latency: 50ms, cold_start: allowed, requests_per_day: 500, idle_after: 15m,
                availability: normal, instance: ml.c5.large, max_copies: 4, watch: 10m, queue_for: 2h,
                max_payload_mb: 5}
        retrain: {schedule: rate(7 days), drift: {psi: 0.2}, deadline: 24h}
        carbon: {budget: 500g, signal: average}
        """
    )
    assert asked.serve.p95_latency == timedelta(milliseconds=50)
    assert (asked.carbon.budget.carbon, asked.carbon.budget.per) == (500, "run")
    assert asked.retrain.deadline == timedelta(days=1)


def test_spot_capacity_for_a_script_that_promises_no_checkpoints_is_refused_with_what_to_do():
    with pytest.raises(InvalidSpecError, match="SM_CHECKPOINT_DIR") as refused:
        parse("task: custom\ntrain: {spot: true}\n")
    assert "spot: false" in str(refused.value.rejection.as_dict())
    for accepted in ("{spot: true, checkpoints: true}", "{spot: false}", "{entry_point: fit.py}"):
        asked = parse(f"task: custom\ntrain: {accepted}\n")
        assert spec.PipelineSpec.model_validate(asked.resolved()) == asked
    assert parse("train: {spot: true}\n").train.spot, "our own recipes keep checkpoints"


def test_several_machines_may_train_a_network():
    assert parse("train: {instances: 2}\n").train.instances == 2
    assert parse("train: {instances: 2, rungs: [linear, net]}\n").train.instances == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("train: {instances: 0}\n", "train.instances", id="none"),
        pytest.param("train: {instances: 9}\n", "train.instances", id="more than are allowed"),
        pytest.param("train: {instances: 2, rungs: [trees]}\n", "add one of small-net, net, encoder", id="trees"),
        pytest.param("train: {instances: 2, instance: ml.trn1.2xlarge}\n", "not shared between", id="trainium"),
        pytest.param("task: custom\ntrain: {instances: 2}\n", "of your own runs on one machine", id="a script"),
        pytest.param("train: {instances: 2, source: s3://bucket/x/train.py}\n", "on one machine", id="a source"),
    ],
)
def test_what_several_machines_cannot_share_is_refused(text, told):
    with pytest.raises(InvalidSpecError) as refused:
        parse(text)
    assert told in str(refused.value)


def test_a_script_that_says_so_may_have_several_machines():
    asked = parse("task: custom\ntrain: {instances: 3, distributed: true}\n")
    assert (asked.train.instances, asked.asks_for_script) == (3, ["distributed"])


def test_only_rungs_of_the_ladder_may_be_named():
    assert parse("train: {rungs: [linear, trees]}\n").train.rungs == ("linear", "trees")
    with pytest.raises(InvalidSpecError, match="small-net"):
        parse("train: {rungs: [forest]}\n")


def test_a_resolved_spec_reads_back_as_itself():
    asked = parse("serve: {p95_latency: 50ms}\ncarbon: {budget: 2kg}\n")
    assert spec.PipelineSpec.model_validate(asked.resolved()) == asked


@pytest.mark.parametrize("task", spec_values.TASKS)
def test_every_task_may_be_asked_for(task):
    assert parse(f"task: {task}").task == task


def test_compression_tries_every_method_unless_told_otherwise():
    assert parse("").compress.methods == ("distill", "prune", "quantize")


def test_a_script_comes_with_its_place_its_file_and_what_it_is_called_with():
    asked = parse(
        """
        task: custom
        data: {uri: "s3://lake/shots/"}
        train:
          source: s3://lake/code/trainer.tar.gz
          entry_point: fit.py
          hyperparameters: {epochs: 5, lr: 0.01, optimizer: adam, amsgrad: true}
        """
    )
    assert asked.train.hyperparameters == {"epochs": 5, "lr": 0.01, "optimizer": "adam", "amsgrad": True}
    assert spec.PipelineSpec.model_validate(asked.resolved()) == asked


@pytest.mark.parametrize(
    ("text", "line", "message", "remedy"),
    [
        pytest.param(
            "task: image-classification\ntrain:\n  epochs: 2\n  metric: rmse\n",
            4,
            "train.metric: rmse does not fit image-classification",
            "use accuracy",
            id="images are judged as classes are",
        ),
        pytest.param(
            "task: tabular-regression\ntrain: {metric: accuracy}\n",
            2,
            "train.metric",
            "use rmse",
            id="numbers as errors",
        ),
        pytest.param(
            "task: custom\ntrain: {metric: accuracy}\n", 2, "train.metric", "remove it", id="a script names its metric"
        ),
        pytest.param(
            "task: custom\ntrain: {epochs: 3}\n", 2, "train.epochs", "train.hyperparameters", id="and its epochs"
        ),
        pytest.param(
            "train: {source: s3://lake/train.py}\ndata: {target: y}\n",
            2,
            "data.target",
            "remove it",
            id="a script, asked for by its place, finds its target itself",
        ),
        pytest.param(
            "task: text-classification\ntrain:\n  hyperparameters: {lr: 1}\n",
            3,
            "train.hyperparameters",
            "task: custom",
            id="hyperparameters without a script",
        ),
        pytest.param(
            "task: tabular-regression\ndata: {input: words}\n",
            2,
            "data.input",
            "text-classification",
            id="tables have no single input",
        ),
        pytest.param(
            "data:\n  target: words\n  input: words\n", 3, "data.input", "two different columns", id="input is target"
        ),
        pytest.param(
            "train: {pretrained: s3://lake/minilm/}\n",
            1,
            "train.pretrained",
            "task: text-classification",
            id="an encoder of no task",
        ),
        pytest.param(
            "task: image-classification\ntrain: {pretrained: s3://lake/minilm/}\n",
            2,
            "train.pretrained",
            "reads texts",
            id="an encoder for pictures",
        ),
        pytest.param(
            "task: text-classification\ntrain: {rungs: [linear], pretrained: s3://lake/minilm/}\n",
            2,
            "train.pretrained",
            "add encoder there",
            id="an encoder that the rungs leave out",
        ),
        pytest.param(
            "task: text-classification\ntrain: {tune: {jobs: 2}, pretrained: s3://lake/minilm/}\n",
            2,
            "train.pretrained",
            "jobs: 1",
            id="an encoder that no trial would try",
        ),
        pytest.param(
            "train: {rungs: [linear, encoder]}\n",
            1,
            "train.rungs",
            "train.pretrained",
            id="the rung without an encoder",
        ),
        pytest.param(
            "train: {pretrained: s3://lake/minilm/model.safetensors}\n",
            1,
            "train.pretrained",
            "the folder that config.json lies in",
            id="one file of an encoder",
        ),
        pytest.param(
            "train: {source: s3://lake/train.exe}\n", 1, "train.source", "train.py", id="a source that is no script"
        ),
        pytest.param(
            "train: {entry_point: ../train.py}\n", 1, "train.entry_point", "without folders", id="a path as entry point"
        ),
        pytest.param(
            "train: {hyperparameters: [1]}\n", 1, "train.hyperparameters", "{epochs: 5", id="a list of hyperparameters"
        ),
        pytest.param(
            "train: {hyperparameters: {a b: 1}}\n", 1, "'a b' is no name", "letters", id="a hyperparameter's bad name"
        ),
        pytest.param(
            "train: {hyperparameters: {a: [1]}}\n", 1, "the value of a", "true or false", id="a nested hyperparameter"
        ),
        pytest.param(
            "train: {hyperparameters: {seed: 123456789012345678}}\n",
            1,
            "the number of seed",
            "quotation marks",
            id="a number that JSON rounds",
        ),
        pytest.param(
            "train: {hyperparameters: {a: .nan}}\n", 1, "the number of a", "quotation marks", id="a number that is none"
        ),
        pytest.param(
            "train: {hyperparameters: {a: " + "x" * 1600 + "}}\n",
            1,
            "train.hyperparameters",
            "use a file",
            id="more than SageMaker carries",
        ),
    ],
)
def test_fields_that_do_not_fit_each_other_name_the_field_and_its_line(text, line, message, remedy):
    rejection = refused(text)
    assert (rejection.code, rejection.line, rejection.file) == ("spec-invalid-field", line, FILE)
    assert rejection.column in rejection.message
    assert message in rejection.message
    assert remedy in rejection.remedy


@pytest.mark.parametrize(
    ("text", "line", "message", "remedy"),
    [
        pytest.param("data: {target: x}\nservee: {}\n", 2, "servee", "`serve`", id="a typo is guessed"),
        pytest.param(
            "data:\n  target: x\n  colour: y\n",
            3,
            "data.colour",
            "target, input, group, uri, mode",
            id="known fields are told",
        ),
        pytest.param(
            "task: video\n", 1, "task", "image-classification, text-classification, custom", id="no such task"
        ),
        pytest.param(
            "serve: {kind: edge}\n",
            1,
            "serve.kind",
            "auto, serverless, async, realtime, shared, batch",
            id="no such kind",
        ),
        pytest.param(
            "compress: {methods: [sparsify]}\n", 1, "methods", "distill, prune, quantize", id="no such method"
        ),
        pytest.param("train: {tune: 5}\n", 1, "train.tune", "{trials: 20", id="a search is true or fields"),
        pytest.param("train: {tune: {trials: 1}}\n", 1, "train.tune.trials", "2 to 100", id="a search of one fit"),
        pytest.param(
            "train: {tune: {trial: 8}}\n", 1, "train.tune.trial", "`trials`", id="a misspelt field of a search"
        ),
        pytest.param(
            "train: {tune: {trials: 2, jobs: 4}}\n", 1, "train.tune.trials", "fewer jobs", id="more jobs than trials"
        ),
        pytest.param(
            "train: {max_runtime: 1h, tune: {budget: 2h}}\n",
            1,
            "train.tune.budget",
            "train.max_runtime",
            id="a search longer than its job",
        ),
        pytest.param(
            "task: custom\ntrain: {tune: true}\n", 2, "train.tune", "ranges: {lr:", id="a script without ranges"
        ),
        pytest.param(
            "task: text-classification\ntrain: {tune: {ranges: {lr: {min: 1, max: 2}}}}\n",
            2,
            "train.tune.ranges",
            "task: custom",
            id="ranges of a recipe that Ebb knows",
        ),
        pytest.param(
            "task: custom\ntrain: {tune: {ranges: {lr: {min: 2, max: 1}}}}\n",
            2,
            "train.tune.ranges.lr",
            "min and max",
            id="a range upside down",
        ),
        pytest.param(
            "task: custom\ntrain: {tune: {ranges: {lr: {min: 0, max: 1, scale: log}}}}\n",
            2,
            "train.tune.ranges.lr",
            "above 0",
            id="the logarithm of nothing",
        ),
        pytest.param(
            f"task: custom\ntrain: {{tune: {{ranges: {{lr: {{values: [a, {'b' * 257}]}}}}}}}}\n",
            2,
            "train.tune.ranges.lr",
            "256 characters",
            id="a value longer than a tuning job takes",
        ),
        pytest.param(
            'task: custom\ntrain: {tune: {ranges: {lr: {values: [a, "b\\nc"]}}}}\n',
            2,
            "train.tune.ranges.lr",
            "one line",
            id="a value of two lines",
        ),
        pytest.param(
            f"task: custom\ntrain: {{tune: {{ranges: {{{'l' * 257}: {{min: 1, max: 2}}}}}}}}\n",
            2,
            "train.tune.ranges",
            "256 characters",
            id="a name longer than a tuning job takes",
        ),
        pytest.param(
            "data: {features: birds}\ntrain: {tune: {jobs: 2, ranges: {lr: {min: 1, max: 2}}}}\n",
            2,
            "train.tune.ranges",
            "of tables are known",
            id="ranges for features, which are tables",
        ),
        pytest.param(
            "task: custom\ntrain: {tune: {ranges: {lr: {min: 1, max: 2, values: [1, 2]}}}}\n",
            2,
            "train.tune.ranges.lr",
            "either values",
            id="a range and values",
        ),
        pytest.param(
            "task: custom\ntrain: {tune: {ranges: {settings: {min: 1, max: 2}}}}\n",
            2,
            "train.tune.ranges",
            "otherwise",
            id="a name that is taken",
        ),
        pytest.param(
            "task: custom\ntrain: {hyperparameters: {lr: 1}, tune: {ranges: {lr: {min: 1, max: 2}}}}\n",
            2,
            "train.tune.ranges.lr",
            "remove it there",
            id="fixed and searched",
        ),
        pytest.param(
            "task: custom\ntrain: {tune: {ranges: {lr: {min: 1, max: 2}}, metric_regex: 'loss'}}\n",
            2,
            "train.tune.metric_regex",
            "one group",
            id="a metric that finds no number",
        ),
        pytest.param(
            "task: custom\ntrain: {tune: {ranges: {lr: {min: 1, max: 2}}, goal: minimize}}\n",
            2,
            "train.tune.goal",
            "metric_regex",
            id="a goal of Ebb's own metric",
        ),
        pytest.param("serve: {p95_latency: 50}\n", 1, "serve.p95_latency", "50ms", id="a duration needs its unit"),
        pytest.param("carbon: {budget: 5}\n", 1, "carbon.budget", "500g", id="a mass needs its unit"),
        pytest.param("train: {metric: speed}\n", 1, "train.metric", "accuracy", id="an unknown metric"),
        pytest.param("train: {instance: ml.z9.nano}\n", 1, "train.instance", "ml.m5.large", id="an unknown instance"),
        pytest.param(
            "serve: {memory_mb: 10}\n", 1, "serve.memory_mb", "1024", id="a memory size that AWS does not have"
        ),
        pytest.param(
            "train: {max_runtime: 10s}\n", 1, "train.max_runtime", "train.max_runtime", id="too short to train"
        ),
        pytest.param(
            "task: tabular-regression\ntrain: {metric: auc}\n",
            None,
            "does not fit",
            "rmse",
            id="a metric of the other task",
        ),
        pytest.param("data: {target: [\n", 2, "not YAML", "Mend", id="no YAML"),
        pytest.param("- a\n- b\n", 1, "not a mapping", "fields", id="a list"),
        pytest.param("data: &a {target: x}\n", None, "anchors", "Write the values out", id="anchors are refused"),
    ],
)
def test_an_error_names_field_line_and_remedy(text, line, message, remedy):
    rejection = refused(text)
    assert message in rejection.message
    assert remedy in rejection.remedy
    if line is not None:
        assert rejection.line == line
    assert rejection.file == FILE


def test_a_spec_that_is_not_utf8_names_the_line():
    assert refused(b"task: x\n\xff\xfe\n").line == 2


def test_a_huge_spec_is_not_even_read():
    assert refused(b"#" * 70_000).code == "spec-too-large"


def test_the_error_text_is_json_because_step_functions_carries_text_only():
    with pytest.raises(InvalidSpecError) as caught:
        parse("servee: {}")
    assert str(caught.value).startswith('{"code": "spec-unknown-field"')


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("data: {target: 2026-13-45}", "date", id="a date that does not exist"),
        pytest.param("train: {epochs: " + "9" * 5000 + "}", "number", id="a number of thousands of digits"),
        pytest.param("data: " + "[" * 5000, "nested", id="brackets nested without end"),
    ],
)
def test_text_that_yaml_itself_stumbles_over_is_refused(text, problem):
    with pytest.raises(InvalidSpecError) as caught:
        spec.parse(text.encode(), file="p/pipeline.yaml")
    assert caught.value.rejection.code == "spec-not-yaml"
    assert problem in caught.value.rejection.message
    assert caught.value.rejection.remedy


def test_a_duration_beyond_all_time_is_refused():
    with pytest.raises(InvalidSpecError, match=r"serve\.idle_after"):
        spec.parse(b"serve: {idle_after: 99999999999999999d}", file="p/pipeline.yaml")


@pytest.mark.parametrize("kind", spec_values.SERVE_KINDS)
def test_every_kind_of_serving_may_be_asked_for(kind):
    assert parse(f"serve: {{kind: {kind}}}").serve.kind == kind


def test_without_a_word_about_it_an_endpoint_sleeps_as_its_traffic_says():
    asked = parse("").serve
    assert asked.idle_after is None
    assert asked.queue_for == timedelta(hours=1)


@pytest.mark.parametrize(
    ("serve", "field", "remedy"),
    [
        pytest.param(
            "availability: high, kind: serverless", "availability", "realtime", id="serverless keeps no copies"
        ),
        pytest.param("availability: high, kind: async", "availability", "realtime", id="async keeps no copies"),
        pytest.param("availability: high, kind: batch", "availability", "realtime", id="batch keeps no copies"),
        pytest.param("availability: high, idle_after: 1h", "idle_after", "remove one", id="high never sleeps"),
        pytest.param("availability: high, max_copies: 1", "max_copies", "2 or more", id="high needs two copies"),
        pytest.param(
            "availability: high, memory_mb: 2048", "memory_mb", "instance", id="high is no serverless endpoint"
        ),
        pytest.param("cold_start: avoid, kind: serverless", "cold_start", "auto", id="serverless starts cold"),
        pytest.param("cold_start: avoid, kind: batch", "cold_start", "auto", id="every batch job starts cold"),
        pytest.param("cold_start: avoid, idle_after: 1h", "idle_after", "cold_start: allowed", id="sleep starts cold"),
        pytest.param("kind: batch, p95_latency: 1s", "p95_latency", "another kind", id="batch answers no request"),
        pytest.param("kind: serverless, idle_after: 1h", "idle_after", "remove it", id="serverless has no sleep"),
        pytest.param("kind: batch, idle_after: 1h", "idle_after", "remove it", id="batch has no sleep"),
        pytest.param("kind: realtime, memory_mb: 2048", "memory_mb", "instance", id="an instance has its memory"),
        pytest.param("kind: shared, memory_mb: 2048", "memory_mb", "instance", id="a shared one too"),
        pytest.param("memory_mb: 2048, instance: ml.m5.large", "memory_mb", "one of the two", id="which of the two"),
        pytest.param(
            "kind: serverless, instance: ml.m5.large", "instance", "memory_mb", id="serverless has no machine"
        ),
        pytest.param("kind: serverless, max_copies: 2", "max_copies", "remove it", id="serverless has no copies"),
        pytest.param("kind: batch, watch: 5m", "watch", "remove it", id="nobody watches a batch job"),
        pytest.param("kind: serverless, max_payload_mb: 5", "max_payload_mb", "async", id="serverless takes 4 MB"),
        pytest.param("kind: realtime, max_payload_mb: 7", "max_payload_mb", "async", id="realtime takes 6 MB"),
        pytest.param("instance: ml.g5.xlarge", "instance", "accelerator", id="an accelerator would not be used"),
        pytest.param("instance: ml.c7g.large", "instance", "arm64", id="the images are not built for Graviton"),
        pytest.param("instance: ml.t2.medium", "instance", "scaled", id="a burstable type cannot sleep"),
        pytest.param("instance: ml.x9.huge", "instance", "ml.m5.large", id="an instance that nobody knows"),
        pytest.param("recommender: true, kind: batch", "recommender", "another kind", id="a load test of no endpoint"),
        pytest.param(
            "recommender: true, instance: ml.m5.large",
            "recommender",
            "one of the two",
            id="a load test of one instance",
        ),
        pytest.param("recommender: true, memory_mb: 2048", "recommender", "one of the two", id="a test of one size"),
        pytest.param("watch: 2h", "watch", "", id="nobody watches longer than AWS does"),
        pytest.param("queue_for: 7h", "queue_for", "", id="an asynchronous request waits six hours at most"),
    ],
)
def test_contradictions_about_serving_name_the_field_and_the_way_out(serve, field, remedy):
    rejection = refused(f"serve: {{{serve}}}\n")
    assert rejection.column == f"serve.{field}"
    assert rejection.line == 1
    assert remedy in rejection.remedy


@pytest.mark.parametrize(
    "serve",
    [
        "availability: high",
        "availability: high, kind: shared, max_copies: 2",
        "cold_start: avoid",
        "cold_start: avoid, kind: async",
        "kind: async, max_payload_mb: 900, idle_after: 5m",
        "memory_mb: 2048, idle_after: 15m",
        "recommender: true, kind: serverless",
        "recommender: true, kind: realtime, p95_latency: 50ms",
    ],
)
def test_what_fits_together_is_accepted_and_reads_back_as_itself(serve):
    asked = parse(f"serve: {{{serve}}}")
    assert spec.PipelineSpec.model_validate(asked.resolved()) == asked
    assert asked.not_acted_on() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("data: {features: birds, uri: 's3://lake/x.csv'}", "data.uri", id="features and data"),
        pytest.param("data: {features: birds, target: x}", "data.target", id="a target of one's own"),
        pytest.param("data: {features: birds, mode: append}", "data.mode", id="features are not added to"),
        pytest.param("data: {features: birds}\nfeatures: {publish: true}", "features.publish", id="published already"),
        pytest.param("data: {features: Birds}", "name of a project", id="no project"),
        pytest.param("features: {share: birds}", "write all, or a list", id="one project without brackets"),
        pytest.param("task: text-classification\nfeatures: {share: all}", "those of tables", id="texts"),
        pytest.param("task: image-classification\ndata: {features: birds}", "those of tables", id="pictures"),
    ],
)
def test_features_that_cannot_be_had_are_refused(text, message):
    assert message in refused(text).message


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", False),
        ("features: {publish: true}", True),
        ("features: {share: [birds]}", True),
        ("features: {share: all}", True),
    ],
)
def test_what_is_shared_is_published(text, wanted):
    asked = spec.parse(text.encode(), file="pipeline.yaml")
    assert asked.features.wanted is wanted
    assert spec.PipelineSpec.model_validate(asked.resolved()) == asked
