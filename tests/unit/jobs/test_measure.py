from ebb_jobs import measure


def contender(name, *, single_s, batch_s, cpu_s):
    return measure.Contender(
        name, None, single_s=[single_s], batch_s=[batch_s], end_to_end_s=[single_s], end_to_end_cpu_s=[cpu_s]
    )


def test_the_original_is_compared_by_its_best_form_for_each_figure():
    # Two threads answer a row 10 % sooner and burn twice the CPU for it; one thread does more rows in a second.
    one = contender("1 thread", single_s=0.0010, batch_s=0.002, cpu_s=0.001)
    two = contender("2 threads", single_s=0.0009, batch_s=0.004, cpu_s=0.002)
    figures, chosen = measure.best_figures([one, two])
    assert figures["latency_ms"]["p50"] == 0.9
    assert figures["cpu_ms_per_prediction"] == 1.0
    assert figures["throughput_rows_per_s"] == 16_000
    assert chosen == {"latency": "2 threads", "throughput": "1 thread", "energy": "1 thread"}
