"""Drawing what dashboards show: parts of benchmarks.dashboard_pictures."""
