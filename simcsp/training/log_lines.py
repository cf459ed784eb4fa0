"""Lines of the log of pre-training."""

from __future__ import annotations

from collections.abc import Mapping

from simcsp.core.arms import PROXIES


def progress(step: int, steps: int, row: dict[str, float]) -> str:
    width = len(str(steps))
    return (
        f"step {step:>{width}}/{steps}  loss {row['train/loss']:7.4f}  accuracy {row['train/accuracy']:.3f}  "
        f"lr {row['train/lr']:.2e}  {row['train/windows_per_s']:7.1f} windows/s  "
        f"{row['train/mfu']:4.0%} of the peak"
    )


def with_errors(scores: dict[str, float]) -> str:
    """The proxies as text: SCCS with its 95 % interval, NMI with its sd over seeds of Leiden."""
    errors = {}
    if "sccs_low" in scores:
        errors["sccs"] = f" [{scores['sccs_low']:.3f}, {scores['sccs_high']:.3f}]"
    if "nmi_sd" in scores:
        errors["nmi"] = f" ± {scores['nmi_sd']:.4f}"
    shown = [key for key in ("sccs", "nmi", "mean_cosine", "uniformity") if key in scores]
    return "  ".join(f"{key} {scores[key]:.4f}{errors.get(key, '')}" for key in shown)


def headline(summary: dict[str, object]) -> str:
    """A finished stage in one line: loss and proxies at its end, SCCS with its 95 % interval.

    A proxy rose or fell where that interval (NMI: 1.96 sd over seeds of Leiden) leaves out the start.
    """
    metrics, begun = summary["metrics"], summary["start"]
    parts = [f"{summary['objective']} {summary['steps']} steps", f"loss {metrics['train/loss']:.4f}"]
    for proxy in PROXIES:
        key = f"val/{proxy}"
        if key not in metrics:
            continue
        first, final, best = begun[key], metrics[key], summary["best"][proxy]
        error = 1.96 * metrics.get(f"{key}_sd", 0.0)
        low, high = metrics.get(f"{key}_low", final - error), metrics.get(f"{key}_high", final + error)
        verb = "rose" if low > first else "fell" if high < first else "stayed within its error"
        if best["value"] <= first:
            above = "never above the start"
        elif best["step"] == summary["steps"]:
            above = "its best"
        else:
            above = f"best {with_interval(best['value'], best)} at step {best['step']}"
        was, now = with_interval(first, begun, f"{key}_"), with_interval(final, metrics, f"{key}_")
        parts.append(f"{proxy.upper()} {verb} {was} -> {now} ({above})")
    return ", ".join(parts)


def with_interval(value: float, ends: Mapping[str, float], prefix: str = "") -> str:
    """A value as text, with its interval where `ends` has one."""
    if f"{prefix}low" not in ends:
        return f"{value:.3f}"
    return f"{value:.3f} [{ends[f'{prefix}low']:.2f}, {ends[f'{prefix}high']:.2f}]"


def floors_in_words(values: Mapping[str, float]) -> str:
    """Floors of a proxy (gc, gc_low, gc_high) as text."""
    names = [name for name in values if not name.endswith(("_low", "_high"))]
    return ", ".join(f"{name} {with_interval(values[name], values, f'{name}_')}" for name in names)
