from report_runs import finished  # noqa: F401
