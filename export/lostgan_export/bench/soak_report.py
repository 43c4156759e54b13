"""The figures of a soak as tables and as a plot."""

from __future__ import annotations

from io import BytesIO

from lostgan_export.bench.report import table
from lostgan_export.bench.soak import Soaked
from lostgan_export.bench.soak_requests import VALID


def soak_lines(soaked: Soaked) -> list[str]:
    """Lines of Markdown: a table of minutes, one of kinds of requests, and a line for each finding."""
    minutes = [
        (str(number), str(one.sent), str(one.answered), f"{one.p50_ms:.0f}", f"{one.p99_ms:.0f}")
        for number, one in enumerate(soaked.minutes, 1)
    ]
    kinds = [
        (kind, str(sent), "" if kind == VALID else str(soaked.refused.get(kind, 0)), str(_errors(soaked, kind)))
        for kind, sent in soaked.sent.items()
    ]
    return [
        *table(("minute", "sent", "answered", "p50 ms", "p99 ms"), minutes),
        "",
        *table(("requests", "sent", "refused as they should be", "other errors"), kinds),
        "",
        *_findings(soaked),
    ]


def soak_plot(soaked: Soaked, title: str) -> bytes:
    """Draw a PNG: latencies by minute and, where it was sampled, memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    memory = soaked.memory
    figure, axes = pyplot.subplots(2 if memory else 1, 1, figsize=(8, 6 if memory else 3.2), layout="constrained")
    latency, *others = [axes] if memory is None else list(axes)
    numbers = range(1, len(soaked.minutes) + 1)
    latency.plot(numbers, [one.p99_ms for one in soaked.minutes], marker=".", label="p99")
    latency.plot(numbers, [one.p50_ms for one in soaked.minutes], marker=".", label="p50")
    latency.set(title=title, ylabel="latency, ms", xlabel="minute", ylim=(0, None))
    latency.legend()
    if memory:
        minutes = [second / 60 for second in memory.seconds]
        others[0].plot(minutes, memory.pss_mib, label="PSS: shared pages once")
        others[0].plot(minutes, memory.rss_mib, label="RSS")
        others[0].set(
            ylabel="memory of all processes, MiB",
            xlabel="minute",
            ylim=(0, None),
            title=f"{memory.growth_percent:+.1f}% after the warm-up",
        )
        others[0].legend()
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110)
    pyplot.close(figure)
    return buffer.getvalue()


def _findings(soaked: Soaked) -> list[str]:
    p99 = [one.p99_ms for one in soaked.minutes if one.answered]
    lines = [
        f"capacity: {soaked.capacity_per_s:.1f} layouts/s; sent: {soaked.rate_per_s:.1f} requests/s",
        f"p99: {min(p99):.0f} to {max(p99):.0f} ms by minute" if p99 else "no valid request was answered",
        f"different pictures of the same layout: {soaked.different}",
        f"errors that were not asked for: {sum(soaked.errors.values())}",
        *(f"  {count} x {text}" for text, count in soaked.errors.items()),
    ]
    if memory := soaked.memory:
        span = f"{memory.pss_mib[0]:.0f} MiB at first, {memory.pss_mib[-1]:.0f} MiB at last"
        lines.append(
            f"memory: {span}, {memory.growth_percent:+.1f}% after the warm-up, in {memory.processes} processes"
        )
        lines += [f"  {name}: {mib:.0f} MiB" for name, mib in memory.by_process.items()]
    return lines


def _errors(soaked: Soaked, kind: str) -> int:
    return sum(count for text, count in soaked.errors.items() if text.startswith(f"{kind}: "))
