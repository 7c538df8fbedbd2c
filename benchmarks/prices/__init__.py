"""The parts of benchmarks.price_list: what is priced, how it is measured, how it is shown."""
