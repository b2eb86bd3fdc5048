"""The figures of the work-precision benchmark: a panel for each problem."""

from pathlib import Path
from typing import Any

from .contestants import CONTESTANTS
from .descents import DESCENTS
from .fronts import front

_NAMES = {"gradients": "gradient evaluations", "best_s": "seconds, compiled"}
FILES = {"gradients": "error_gradients", "best_s": "error_seconds"}
# Ours in colour, diffrax's in grey: a line and a marker for each.
_STYLES = {
    "markov": ("black", "-", "o"),
    "steady": ("tab:brown", "-", "P"),
    "plain": ("black", ":", "o"),
    "multistep2": ("tab:cyan", "-", "v"),
    "multistep3": ("tab:blue", "-", "s"),
    "multistep4": ("tab:green", "-", "^"),
    "multistep5": ("tab:olive", "-", "<"),
    "multistep6": ("tab:purple", "-", ">"),
    "bdf": ("tab:red", "-", "D"),
    "tsit5": ("0.45", "--", "o"),
    "dopri8": ("0.45", "--", "s"),
    "kvaerno3": ("0.65", ":", "^"),
    "kvaerno5": ("0.65", ":", "v"),
    "discrete": ("tab:orange", "", "*"),
    "published": ("tab:pink", "", "X"),
    "published_loop": ("tab:pink", "", "x"),
}


def draw(page: dict[str, Any], folder: Path, suffix: str = "svg") -> list[Path]:
    """Draws the fronts of all curves. **Returns:** the files."""
    import matplotlib

    matplotlib.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with matplotlib.rc_context({"svg.hashsalt": "idemodels", "font.size": 8}):
        for work, name in FILES.items():
            figure = _figure(page["records"], work)
            path = folder / f"{name}.{suffix}"
            metadata = {"Date": None} if suffix == "svg" else {"Software": None}
            figure.savefig(path, metadata=metadata)
            files.append(path)
    return files


def _figure(records: list[dict[str, Any]], work: str) -> Any:
    from matplotlib.figure import Figure

    problems = list(dict.fromkeys(r["problem"] for r in records))
    columns = 3
    lines = -(-(len(problems) + 1) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for axis, problem in zip(axes, problems, strict=False):
        descent = DESCENTS[problem]
        axis.set_title(f"{descent.title}, N = {descent.steps:,}", fontsize=7)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel(_NAMES[work])
        axis.set_ylabel("largest error / path's range")
        axis.axhline(1e-3, color="0.9", linewidth=1, zorder=0)
        for r in records:
            points = front(r, work) if r["problem"] == problem else []
            if points:
                color, line, marker = _STYLES[r["contestant"]]
                x, y = [p[work] for p in points], [p["error"] for p in points]
                (drawn,) = axis.plot(
                    x, y, color=color, linestyle=line or "none", marker=marker, markersize=4, lw=1
                )
                handles.setdefault(r["contestant"], drawn)
    for axis in axes[len(problems) :]:
        axis.set_axis_off()
    order = [name for name in CONTESTANTS if name in handles]
    labels = [_legend(name) for name in order]
    shown = [handles[name] for name in order]
    legend = axes[len(problems)].legend(shown, labels, loc="center", fontsize=7)
    # may be as high as its panel, which is no reason to make the others lower
    legend.set_in_layout(False)
    return figure


def _legend(name: str) -> str:
    label = CONTESTANTS[name].label
    return f"{label}: error of the model" if name == "discrete" else label
