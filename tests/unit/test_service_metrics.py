"""p-values are counted in bulk; what comes out is what counting them one by one gives."""

import numpy as np
from prometheus_client import CollectorRegistry, Histogram

from service.metrics import DetectorFacts, Metrics, ModelFacts

DETECTORS = ("energy", "msp")


def facts() -> ModelFacts:
    return ModelFacts(
        name="tiny",
        version="1",
        digest="d",
        provider="cpu",
        variant="fp32",
        created_unix_seconds=0.0,
        labels=("a", "b"),
        label_counts=None,
        detectors=[DetectorFacts(name, 199, 0.05) for name in DETECTORS],
        primary="energy",
    )


def test_counting_in_bulk_is_counting_one_by_one() -> None:
    metrics = Metrics(CollectorRegistry())
    model = metrics.add_model(facts())
    rng = np.random.default_rng(0)
    # on the edges of buckets too
    rows = np.concatenate([rng.random((600, 2)), [[0.0005, 1.0], [0.05, 0.1], [0.9, 0.02]]])
    for row in rows.tolist():
        model.add_p_values(DETECTORS, [row])
    model.add_p_values(("msp",), [[0.01]])
    columns = {"energy": rows[:, 0], "msp": np.append(rows[:, 1], 0.01)}
    value = metrics.registry.get_sample_value
    for name, column in columns.items():
        alone = CollectorRegistry()
        edges = [float(edge) for edge in metrics.p_value._upper_bounds]
        one_by_one = Histogram("h", "h", registry=alone, buckets=edges)
        for p_value in column.tolist():
            one_by_one.observe(p_value)
        bound = {"model": "tiny", "version": "1", "detector": name}
        for sample in next(iter(alone.collect())).samples:
            found = value(sample.name.replace("h_", "oodscore_p_value_"), bound | sample.labels)
            assert found is not None
            assert np.isclose(found, sample.value, rtol=1e-12)
        deciles = [
            value("oodscore_score_decile_total", bound | {"decile": str(d)}) for d in range(10)
        ]
        assert sum(d or 0 for d in deciles) == len(column)
        assert value("oodscore_detector_ood_total", bound) == (column <= 0.05 + 1e-9).sum()
