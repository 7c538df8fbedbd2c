"""How soon drift is found, and how often there is none: parts of benchmarks.drift_detection."""
