"""Several replicas' metrics are one exposition: each sample labelled, each family declared once."""

from octavo_operator.exposition import merge

A = """# HELP vllm:num_requests_running Running.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m",engine="0"} 1.0
# HELP t Time.
# TYPE t histogram
t_bucket{le="0.1"} 1.0
t_bucket{le="+Inf"} 2.0
t_count 2.0
t_sum 0.5
up 1
"""


def test_samples_are_labelled_and_grouped_by_family():
    merged = merge({"a-0": A, "a-1": A.replace(" 1.0", " 7.0")})
    lines = merged.splitlines()
    assert lines.count("# TYPE t histogram") == lines.count("# HELP t Time.") == 1
    assert 'vllm:num_requests_running{model_name="m",engine="0",replica="a-0"} 1.0' in lines
    assert 'vllm:num_requests_running{model_name="m",engine="0",replica="a-1"} 7.0' in lines
    assert 'up{replica="a-0"} 1' in lines
    family = lines[lines.index("# HELP t Time.") :]
    assert [line.split("{")[0] for line in family if line.startswith("t_")] == [
        "t_bucket", "t_bucket", "t_count", "t_sum", "t_bucket", "t_bucket", "t_count", "t_sum",
    ]  # fmt: skip


def test_the_page_is_read_by_prometheus_own_parser():
    from prometheus_client.parser import text_string_to_metric_families

    families = {f.name: f for f in text_string_to_metric_families(merge({"x": A, "y": A}))}
    assert {s.labels["replica"] for s in families["t"].samples} == {"x", "y"}
    assert len(families["vllm:num_requests_running"].samples) == 2


def test_nothing_merges_to_nothing():
    assert merge({}) == merge({"a": ""}) == ""
