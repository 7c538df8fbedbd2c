"""The tables of docs/serving.md, out of committed results:  python -m benchmarks.service_tables"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.page_blocks import fill, table
from benchmarks.service.contenders import CONTENDERS
from benchmarks.service.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "serving.md"
RESULTS = ROOT / "benchmarks" / "results"
PEERS = ("litserve", "mlserver", "bentoml", "ray")
_MISSING = "Not measured yet.\n"


def blocks() -> dict[str, str]:
    """Name of the mark -> what belongs between its two ends."""
    record = _read("service.json")
    workloads: dict[str, Any] = record.get("workloads", {})
    made = {
        f"service: {name}": _workload(workloads[name]) if name in workloads else _MISSING
        for name in WORKLOADS
    }
    made["service: neighbours"] = _neighbours(workloads)
    made["service: goals"] = _goals(workloads)
    made["service: half load"] = _half_load(_read("service_half_load.json"))
    made["service: overload"] = _overload(_read("service_overload.json"))
    made["service: decoding"] = _decoding(_read("image_decoding.json"))
    made["service: swaps"] = _swaps(_read("service_swaps.json"))
    made["service: soak"] = _soak(_read("service_soak.json"))
    return made


def filled(page: str) -> str:
    """The page with every block of today."""
    return fill(page, blocks(), "docs/serving.md")


def _read(name: str) -> dict[str, Any]:
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else {}


def _load(found: Mapping[str, Any]) -> str:
    return f"{found['environment']['load_average']:g}"


def _workload(found: Mapping[str, Any]) -> str:
    bare = found["bare"]["cpu_milliseconds"]
    about = (
        f"{found['model']}, {found['scores']} scores, {found['threads']} thread(s) an inference, "
        f"at most {found['batch_rows']} inputs a batch; load average {_load(found)} "
        f"before the run, commit {found['environment']['commit']}. The bare session takes "
        f"{bare:.2f} ms of CPU a request, one request at a time.\n\n"
    )
    rows: list[list[str]] = []
    for name, contender in found["contenders"].items():
        version = found["versions"][name]
        title = CONTENDERS[name].title + (f" {version}" if name in PEERS else "")
        for concurrency, load in contender["load"].items():
            rows.append(
                [
                    title,
                    concurrency,
                    f"{load['cpu_milliseconds']:.2f}",
                    f"{load['cpu_milliseconds'] / bare:.2f}",
                    f"{load['requests_per_second']:.0f}",
                    f"{load['p50_milliseconds']:.0f}",
                    f"{load['p99_milliseconds']:.0f}",
                    f"{contender['resident_mib']:.0f}",
                    f"{contender['ready_seconds']:.1f}",
                ]
            )
    header = [
        "",
        "at once",
        "CPU ms",
        "of bare",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "MiB",
        "ready s",
    ]
    left_out = "".join(
        f"\n{CONTENDERS[name].title}: no figures, {why}.\n"
        for name, why in found["failures"].items()
    )
    return about + table(header, rows) + left_out


def _goals(workloads: Mapping[str, Any]) -> str:
    """Ours beside the plain application, the bare session and the best peer."""
    rows: list[list[str]] = []
    for found in workloads.values():
        bare, contenders = found["bare"]["cpu_milliseconds"], found["contenders"]
        if not {"oodscore", "torch"} <= set(contenders):
            continue
        for concurrency, ours in contenders["oodscore"]["load"].items():
            own = ours["cpu_milliseconds"]
            plain = contenders["torch"]["load"][concurrency]["cpu_milliseconds"]
            peers = {
                name: contenders[name]["load"][concurrency]["cpu_milliseconds"]
                for name in PEERS
                if name in contenders
            }
            best = min(peers, key=lambda name: peers[name], default=None)
            rows.append(
                [
                    found["title"],
                    concurrency,
                    f"{100 * own / plain:.0f} %",
                    f"{100 * bare / plain:.0f} %",
                    f"{own - bare:+.2f}",
                    f"{peers[best] - bare:+.2f} ({CONTENDERS[best].title})" if best else "",
                    f"{100 * ours['requests_per_second'] * _bare_seconds(found):.0f} %",
                ]
            )
    header = [
        "",
        "at once",
        "of the plain application",
        "bare session of it",
        "ms above bare",
        "best peer's",
        "of the bare session's rate",
    ]
    return table(header, rows)


def _bare_seconds(found: Mapping[str, Any]) -> float:
    """Of the whole machine for a request, all its processors running the bare session."""
    return 1 / found["bare"]["requests_per_second"]


def _half_load(found: Mapping[str, Any]) -> str:
    if not found:
        return _MISSING
    rows = [
        [
            f"{row['title']}: {name}",
            f"{load['requests_per_second']:.0f}",
            f"{row['inference_milliseconds']:.1f}",
            *(
                f"{load[measured][key]:.1f}"
                for key in ("p50", "p99")
                for measured in ("milliseconds", "bare_milliseconds")
            ),
            f"{load['milliseconds']['max']:.1f}",
        ]
        for row in found["workloads"].values()
        for name, load in row["loads"].items()
    ]
    header = ["", "requests/s", "inference, nothing beside, ms"]
    header += ["p50 ms", "bare", "p99 ms", "bare", "max ms"]
    idle = max(row["idle_share_of_a_processor"] for row in found["workloads"].values())
    said = f"Load average {_load(found)} at the end; idle, {100 * idle:.1f} % of a processor."
    return f"{said}\n\n" + table(header, rows)


def _neighbours(workloads: Mapping[str, Any]) -> str:
    """Of the small network's run."""
    found = workloads.get("png-small")
    if found is None:
        return _MISSING
    rows = [
        [
            CONTENDERS[name].title,
            *(f"{lost['good_lost']} of {lost['of']}" for lost in contender["neighbours"].values()),
            ", ".join(
                map(
                    str,
                    sorted(
                        {
                            s
                            for lost in contender["neighbours"].values()
                            for s in lost["cut_answered"]
                        }
                    ),
                )
            ),
        ]
        for name, contender in found["contenders"].items()
    ]
    header = ["", "lost, header cut", "lost, body cut", "the cut image was answered"]
    return table(header, rows)


def _overload(found: Mapping[str, Any]) -> str:
    if not found:
        return _MISSING
    accepted, refused = found["accepted_milliseconds"], found["refused_milliseconds"]
    memory = found["memory_mib"]
    rows = [
        ["peak, closed loop", f"{found['peak_per_second']:.0f} requests/s"],
        ["offered", f"{found['offered_per_second']:.0f} requests/s"],
        [
            "answered",
            f"{found['good_per_second']:.0f} requests/s, "
            f"{100 * found['goodput']:.0f} % of the peak",
        ],
        [
            "p99 of the accepted",
            f"{accepted['p99']:.0f} ms; the deadline was {found['deadline_milliseconds']:.0f} ms",
        ],
        [
            "refused with 429",
            f"{found['statuses'].get('429', 0)}, p50 {refused['p50']:.0f} ms, "
            f"p99 {refused['p99']:.0f} ms"
            if refused
            else "none",
        ],
        ["found no connection", str(found["failures"].get("no free connection", 0))],
        [
            "memory before, highest, last",
            " / ".join(f"{memory[k]:.0f}" for k in ("before", "highest", "last")) + " MiB",
        ],
        ["throughput in the 2 s after", f"{100 * found['recovery']:.0f} % of the peak"],
    ]
    return f"Load average {_load(found)} before the run.\n\n" + table(["", ""], rows)


def _decoding(found: Mapping[str, Any]) -> str:
    names = list(found["costs"][0]["milliseconds"])
    rows = [
        [f"{row['format']}, {row['side']} pixels a side", *(f"{v:.3f}" for v in by.values())]
        for row in found["costs"]
        for by in (row["milliseconds"],)
    ]
    return table(["CPU ms an image", *names], rows)


def _swaps(found: Mapping[str, Any]) -> str:
    if not found:
        return _MISSING
    titles = {
        "before": "a minute without",
        "during": f"with {found['swaps']} new versions, one every {found['every_seconds']:g} s",
        "after": "a minute without",
    }
    rows = [
        [
            title,
            str(found[part]["answered"]),
            str(found[part]["lost"]),
            *(f"{found[part]['milliseconds'][key]:.0f}" for key in ("p50", "p99", "max")),
        ]
        for part, title in titles.items()
    ]
    about = (
        f"{found['workload']}, {found['requests_per_second']:.0f} requests/s. "
        f"Load average {_load(found)} at the end.\n\n"
    )
    return about + table(["", "answered", "lost", "p50 ms", "p99 ms", "max ms"], rows)


def _soak(found: Mapping[str, Any]) -> str:
    if not found:
        return _MISSING
    slices = found["slices"]
    memory = [each["resident_mib"] for each in slices]
    p99 = [each["milliseconds"]["p99"] for each in slices]
    lost = sum(sum(each["failures"].values()) + sum(each["others"].values()) for each in slices)
    answered = sum(each["answered"] for each in slices)
    threads = {each["threads"] for each in slices}
    return (
        f"{len(slices)} minutes at {found['offered_per_second']:.0f} requests/s, "
        f"{answered} answered, {lost} refused or failed. Memory after the first minute "
        f"{memory[0]:.0f} MiB, after the last {memory[-1]:.0f} MiB, highest {max(memory):.0f}; "
        f"threads {', '.join(map(str, sorted(threads)))}; p99 by the minute {min(p99):.0f} to "
        f"{max(p99):.0f} ms. Load average {_load(found)} at the end.\n"
    )


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
