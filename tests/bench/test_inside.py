"""The table of what an inspection costs."""

from bench.inside import table


def test_the_table_has_each_figure_and_its_baseline():
    said = table(
        {
            "machine": {"processor": "A", "busy_before": 0.0, "load_before": 0.5},
            "beside": {
                "streams": 16,
                "characters_per_s": 50_000.0,
                "share_kept": 0.81,
                "its_limits": (0.79, 0.83),
                "ratio_of_cpu": 1.5,
                "server_cpu_us": {"alone": 30.0, "beside": 45.0},
                "inspected_tokens_per_s": 4_000.0,
            },
            "trace": {
                "100000": {"before_mib": 200.0, "most_mib": 210.0, "s": 9.0},
                "1000000": {"before_mib": 210.0, "most_mib": 211.5, "s": 90.0},
            },
        }
    )
    assert "| 0.81× the throughput (0.79 to 0.83), 45 µs" in said
    assert "| 50,000 characters/s, 30 µs |" in said
    assert "| 212 MiB, +1.5 | 210 MiB with 100,000 |" in said
