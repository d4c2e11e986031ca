"""What a script prints of its metric: what is remembered, and what is told aloud because CloudWatch takes no NaN."""

import pytest

from ebb_jobs.curves import NOT_A_NUMBER, Curve, broken


def test_the_best_value_so_far_is_remembered_and_of_many_a_sample():
    curve = Curve("loss=([0-9.]+)", "minimize")
    for number in range(200):
        curve.hear(f"epoch {number} loss={200 - number}.5")
    curve.hear("epoch 200 loss=99.0")
    told = curve.fields()
    assert (told["count"], told["best"], len(told["best_so_far"])) == (201, 1.5, 64)
    assert told["best_so_far"] == sorted(told["best_so_far"], reverse=True)
    assert told["best_so_far"][-1] == 1.5


@pytest.mark.parametrize("regex", [r"val_loss=([0-9.]+)", r"val_loss=(\S+)", r"val_loss=(?P<value>[^\]( ]+)( |$)*"])
@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-inf"])
def test_what_is_no_number_is_told_aloud_so_that_an_alarm_hears_it(regex: str, text: str, capsys):
    curve = Curve(regex, "minimize")
    curve.hear("val_loss=1.5 ")
    curve.hear(f"val_loss={text} ")
    curve.hear("something else")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{NOT_A_NUMBER} 1"]
    assert curve.fields()["not_numbers"] == 1
    assert curve.values == [1.5]


@pytest.mark.parametrize(
    ("regex", "line"), [(r"a\(b=(x[)(]|[0-9]+)", "a(b=nan"), (r"(?:loss|cost)=([0-9.]+);", "cost=NaN;")]
)
def test_the_group_is_found_among_other_brackets(regex: str, line: str):
    assert broken(regex).search(line)


def test_where_no_metric_is_named_nothing_is_listened_to():
    assert Curve.of(None) is None
    assert Curve.of({"metric_regex": None, "budget": "1h"}) is None
