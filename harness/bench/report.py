"""The report: everything that was measured and what was not, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.bench import arms, bars, figures, idle, workloads
from harness.bench.figures import Figure, Table
from harness.bench.samples import Samples
from harness.bench.workloads import Case

#: Counts that tables show, per 1,000 packets, and their headings; the JSON has all.
COUNTS: Mapping[str, str] = {
    f"{figures.TRACED}read skbs freed elsewhere, %": "read skbs freed elsewhere",
    figures.FULL: "found the list full",
    "skb frees, slow path": "skb slow frees",
    "data frees, slow path": "data slow frees",
    "pages freed": "pages freed",
    f"{figures.TRACED}zone-lock takings": "zone lock",
    "IPIs, function calls": "call IPIs",
    "IPIs, reschedule": "resched IPIs",
    "context switches": "switches",
    f"{figures.TRACED}wake-ups": "wake-ups",
    "NET_RX softirqs": "NET_RX",
}

#: What an arm of TCP shows beside that.
HITS = f"{figures.TRACED}tx cache hits, %"

#: Words on the tx cache, for cases where it has no hits.
NO_HITS = (
    "The tx cache of v5.10 keeps an acknowledged skb that nobody else holds. On veth and loopback "
    "what the reader gets is a clone of that very skb: until that is freed (from the rx cache, a "
    "defer list, or a queue) the sender's is not its own, and cannot be kept."
)


def facts(
    *,
    base: str,
    environment: Mapping[str, Any],
    series: Mapping[str, Any],
    cases: Sequence[Case],
    known: Mapping[str, Samples],
    idle_runs: Mapping[str, Sequence[Mapping[str, Any]]],
    profiles: Mapping[str, Any],
    model: Mapping[str, Any],
    effort: Mapping[str, Any],
    notes: str = "",
) -> dict[str, Any]:
    """Return all that the report says.

    Its ``title``, ``environment``, ``series`` and ``figures`` (flat records) are for other
    programs; what else there is, the Markdown is made of.
    """
    all_figures = [each for case in cases for each in figures.of_case(case, known[case.name])]
    summary = idle.summary(idle_runs)
    all_figures += _idle_figures(summary)
    table = Table(all_figures)
    missing = [text for case in cases for text in _missing(case, known[case.name])]
    if not summary["arms"]:
        missing.append("workload 7 was not run")
    missing += _NOT_HERE
    return {
        "title": f"What the series for {base} gains and costs",
        "environment": dict(environment),
        "series": dict(series),
        "effort": dict(effort),
        "bars": [each.describe() for each in bars.judge(table, cases, summary)],
        "cases": [_case(case, known[case.name]) for case in cases],
        "idle": summary,
        "profiles": dict(profiles),
        "model": dict(model),
        "notes": notes,
        "not_measured": missing,
        "figures": [each.describe() for each in all_figures],
    }


#: What no run of this benchmark measures, whatever the machine.
_NOT_HERE = (
    "PREEMPT_RT (flavour rt): workload 4 is for the default flavour alone",
    "lock contention: there is no flavour with lock_stat, v5.10 has no tracepoint of it, and a "
    "probe of the slow path of spinlocks hangs guests; simulations have what is executed there",
    "time on hardware: throughput on an emulated CPU is compared, and says little of caches",
    "several NUMA nodes, but for the simulations on guests of more CPUs",
)


def _idle_figures(summary: Mapping[str, Any]) -> list[Figure]:
    found = []
    base = summary["arms"].get(arms.REFERENCE)
    for arm, row in summary["arms"].items():
        for metric, value, unit in (
            ("bytes in skbs after traffic", row["after_bytes"], "bytes"),
            ("skbs waiting at once, most seen", float(row["most_waiting"]), "skbs"),
        ):
            reference = base["after_bytes"] if base and unit == "bytes" else None
            found.append(Figure(7, "idle", arm, metric, float(value), unit, reference))
    return found


def _case(case: Case, known: Samples) -> dict[str, Any]:
    return {
        "workload": case.workload,
        "name": case.name,
        "title": case.title,
        "note": case.note,
        "rate": case.rate,
        "arms": list(case.arms),
        "latencies": dict(case.latencies),
        "rounds": len(known.rounds),
        "spread_percent": figures.spread_percent(known),
        "failures": list(dict.fromkeys(known.failures)),
    }


def _missing(case: Case, known: Samples) -> Iterable[str]:
    if not known.rounds:
        yield f"{case.name} was not run"
        return
    if not known.traced:
        yield f"{case.name}: where skbs are freed, zone-lock takings, wake-ups"
    if case.lines and not known.lines:
        yield f"{case.name}: simulated line transfers, instructions"
    for arm, each in known.traced.items():
        if "failed" in each:
            yield f"{case.name}, {arm}: following its skbs: {each['failed']}"
    yield from (f"{case.name}, {each}" for each in dict.fromkeys(known.failures))


def as_json(found: Mapping[str, Any]) -> str:
    """Return the facts as JSON."""
    return json.dumps(found, indent=1) + "\n"


# --- Markdown ---------------------------------------------------------------------


def as_markdown(found: Mapping[str, Any], plots: Sequence[tuple[str, str]] = ()) -> str:
    """Return the facts for people.

    Args:
        plots: file name and what it shows, of the plots beside the report.
    """
    lines = [f"# {found['title']}", "", *_head(found), "", *_bars(found["bars"]), ""]
    if found["notes"]:
        lines += ["## What stands behind them", "", found["notes"].strip(), ""]
    for name, what in plots:
        lines += [f"![{what}]({name})", ""]
    by_name = {(each["case"], each["arm"], each["metric"]): each for each in found["figures"]}
    for number, (title, claim) in workloads.TITLES.items():
        lines += [f"## Workload {number}: {title}", "", f"The seed's claim: {claim}.", ""]
        cases = [each for each in found["cases"] if each["workload"] == number]
        for case in cases:
            lines += _section(case, by_name)
        if number == 1:
            lines += _profiles(found["profiles"])
        if number == 2:
            lines += _model(found["model"])
        if number == 7:
            lines += _idle(found["idle"])
    if found["not_measured"]:
        lines += ["## Not measured", "", *(f"- {each}" for each in found["not_measured"]), ""]
    lines += ["## How to read this", "", *_HOW, ""]
    return "\n".join(lines)


_HOW = (
    "- A run opens new connections, lets traffic go for a while, reads the counters, and reads "
    "them again after the window. Arms take turns (A B B A). A ratio is taken within each round "
    "against `off`; its value is the median over the rounds, its interval the 95 % of a bootstrap.",
    "- `off-again` is `off` in a second guest of the same kernel. What its ratio's interval holds, "
    "the machine does by itself: a ratio inside that, or whose own interval holds 1, is called "
    '"no difference".',
    "- Counts are per 1,000 packets (skbs, as they arrive at IP or are read from a device). "
    "Those of *read skbs freed elsewhere*, *zone lock* and *wake-ups* are from a "
    "short run of its own in which every skb is followed from its allocation to its release.",
    "- *found the list full*: of what a reader would have handed home, the part that it freed "
    "itself for want of room, in the timed runs. Recording every allocation and release slows the "
    "CPU that allocates most, so that in the traced run a list may be full where it is not "
    "otherwise. UDP sockets copy linear skbs past the event that tells what was read: of them only "
    "the slow frees tell.",
    "- *line transfers* and *instructions* are per packet, from the simulation; of a TCP stream "
    "1,448 bytes, or what its MSS says, are a packet. *beside copies* leaves out the lines that "
    "move because the payload is copied or summed on another CPU than the one that wrote it, which "
    "nothing that frees an skb can change.",
    "- *zone lock* counts the takings of a zone's lock: pages given back or taken in bulk, and "
    "allocations and releases of several pages at a time.",
)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _head(found: Mapping[str, Any]) -> list[str]:
    rows = [
        *((str(name), _text(value)) for name, value in found["environment"].items()),
        *((f"series: {name}", _text(value)) for name, value in found["series"].items()),
        *((f"effort: {name}", _text(value)) for name, value in found["effort"].items()),
    ]
    return [
        "Times are from an emulated machine without caches unless the accelerator says KVM: they "
        "are compared, never taken for what hardware does. Counts are exact.",
        "",
        *_table(("where this was measured", ""), rows),
    ]


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {each}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _bars(found: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["## Bars", ""]
    lines += _table(
        ("bar", "", "measured"),
        [(each["what"], f"**{each['kept']}**", each["measured"]) for each in found],
    )
    lines.append("")
    for each in found:
        if each["misses"]:
            lines += [f"Missed — {each['what']}:", ""]
            lines += [f"- {miss}" for miss in each["misses"]]
            lines += ["", each["note"], ""] if each["note"] else [""]
    return lines


def number(value: float) -> str:
    """Return a figure with as many digits as a reader needs."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def _section(case: Mapping[str, Any], by_name: Mapping[tuple[str, str, str], Any]) -> list[str]:
    lines = [f"### {case['title'][:1].upper()}{case['title'][1:]} (`{case['name']}`)", ""]
    if case["note"]:
        lines += [case["note"], ""]
    if not case["rounds"]:
        return [*lines, "Not run.", ""]
    spread = case["spread_percent"]
    said = "unknown" if spread is None else f"{spread:.1f} %"
    told = f"{case['rounds']} rounds; two equal arms differ here by up to {said}."
    busy = by_name.get((case["name"], arms.REFERENCE, figures.LOAD))
    if busy:
        told += f" The host's load average was {busy['value']:.1f}."
    lines += [told, ""]

    def get(arm: str, metric: str) -> Mapping[str, Any] | None:
        return by_name.get((case["name"], arm, metric))

    lines += _table(
        ("arm", case["rate"], "ratio", "95 %", ""),
        [_timed(arm, get(arm, "throughput")) for arm in case["arms"]],
    )
    shown = {
        metric: head
        for metric, head in {
            **COUNTS,
            HITS: "tx cache hits",
            figures.TRANSFERS: "line transfers/packet",
            figures.BESIDE: "beside copies",
            figures.INSTRUCTIONS: "instructions/packet",
            figures.WORK: "both CPUs, no waiting",
        }.items()
        if any(get(arm, metric) for arm in case["arms"])
    }
    lines += ["", "Per 1,000 packets:", ""]
    lines += _table(
        ("arm", *shown.values()),
        [(arm, *(_count(get(arm, metric)) for metric in shown)) for arm in case["arms"]],
    )
    lines.append("")
    for histogram, what in case["latencies"].items():
        lines += [f"Microseconds {what}, and the ratio to `off`:", ""]
        parts = [f"{histogram} {part}" for part in ("p50", "p99", "p99.9")]
        lines += _table(
            ("arm", "p50", "p99", "p99.9"),
            [(arm, *(_latency(get(arm, part)) for part in parts)) for arm in case["arms"]],
        )
        lines.append("")
    lines += [f"Failed: {each}" for each in case["failures"]]
    return lines + ([""] if case["failures"] else [])


def _timed(arm: str, figure: Mapping[str, Any] | None) -> tuple[str, str, str, str, str]:
    if figure is None:
        return arm, "not measured", "", "", ""
    if figure["ratio"] is None:
        return arm, number(figure["value"]), "1", "", ""
    interval = f"{figure['low']:.2f} to {figure['high']:.2f}"
    return arm, number(figure["value"]), f"{figure['ratio']:.2f}", interval, figure["verdict"]


def _count(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "-"
    return number(figure["value"]) + (" %" if figure["unit"] == "%" else "")


def _latency(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "-"
    ratio = f" ({figure['ratio']:.2f})" if figure["ratio"] is not None else ""
    return number(figure["value"]) + ratio


def _idle(found: Mapping[str, Any]) -> list[str]:
    if not found["arms"]:
        return ["Not run.", ""]
    return [
        f"{found['connections']:,} connections over veth; bytes are of objects in use in the "
        "caches of skbs and of their data. Runs with nothing on lists differ by up to "
        f"{found['slack_bytes'] / 1024:,.0f} KiB.",
        "",
        *_table(
            (
                "arm",
                "KiB, just after the traffic",
                "KiB, at the end",
                "more than off, KiB",
                "skbs on lists, most seen",
                "none waits after, s",
                "memory less free than before all, MiB",
            ),
            [
                (
                    arm,
                    number(row["at_once_bytes"] / 1024),
                    number(row["after_bytes"] / 1024),
                    number(row["more_bytes"] / 1024),
                    str(row["most_waiting"]),
                    "never seen" if row["stranded_after"] is None else f"{row['stranded_after']}",
                    number(row["total_kib"] / 1024),
                )
                for arm, row in found["arms"].items()
            ],
        ),
        "",
    ]


def _profiles(found: Mapping[str, Any]) -> list[str]:
    """Show which functions the reading CPU spends its instructions in, by case and arm."""
    lines: list[str] = []
    for case, by_arm in found.items():
        lines += [
            f"### Where the reading CPU spends its instructions (`{case}`)",
            "",
            "Counted by function in the simulation (instructions, not time: a copy of a page is "
            "few instructions).",
            "",
        ]
        rows: dict[str, dict[str, float]] = {}
        for arm, functions in by_arm.items():
            for function, per_packet in functions.items():
                rows.setdefault(function, {})[arm] = per_packet
        ordered = sorted(rows.items(), key=lambda row: -max(row[1].values()))[:24]
        lines += _table(
            ("function", *(f"{arm}, per packet" for arm in by_arm)),
            [
                (f"`{name}`", *(number(values.get(arm, 0.0)) for arm in by_arm))
                for name, values in ordered
            ],
        )
        lines.append("")
    return lines


def _model(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    return [
        "### Beyond this machine: a model, not a measurement",
        "",
        *found["text"],
        "",
        *_table(found["head"], found["rows"]),
        "",
        *(f"- {each}" for each in found["assumptions"]),
        "",
    ]
