"""A dashboard: metrics that change all the time, and viewers who say nothing: `python -m benchmarks.dashboard`."""
