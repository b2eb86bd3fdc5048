"""The tables of the work-precision benchmark, and what they say of where idemodels loses."""

from typing import Any

from .contestants import CONTESTANTS
from .descents import DESCENTS, PUBLISHED
from .fronts import best, least, okay
from .gradient_tables import gradients
from .problems import PROBLEMS
from .records import Record, duration, number, rows
from .sweep_tables import sweeps

TARGETS = (1e-3, 1e-6)
# How much less exact the papers' numerics are than what they are compared with.
_BETTER = 100.0

Page = dict[str, Any]


def tables(work: Page, scale: Page, peers: Page, sweep: Page, derivatives: Page) -> dict[str, str]:
    """**Returns:** the Markdown between each pair of markers in the README, by its name."""
    return {
        "losses": _losses(work["records"], scale["records"], peers["records"]),
        "summary": _summary(work["records"]),
        "published": _published(work["records"], peers["records"]),
        "work": _work(work["records"]),
        "scale": _scale(scale["records"]),
        "sweeps": sweeps(sweep),
        "gradients": gradients(derivatives),
        "run": _run(work, scale),
    }


def _of(records: list[Record], problem: str, family: str) -> list[Record]:
    return [
        r
        for r in records
        if r["problem"] == problem and CONTESTANTS[r["contestant"]].family == family
    ]


def _label(record: Record) -> str:
    return CONTESTANTS[record["contestant"]].label


def _problems(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(r["problem"] for r in records))


_FORMS = {"gradients": lambda x: number(x, ","), "best_s": duration}
_WORDS = {"gradients": "gradients", "best_s": "seconds"}


def _losses(records: list[Record], scale: list[Record], peers: list[Record]) -> str:
    """A table of every comparison that another one wins."""
    lines: list[tuple[str, ...]] = []
    for problem in _problems(records):
        ours = _of(records, problem, "ours")
        default = [r for r in ours if r["contestant"] == "markov"]
        others = _of(records, problem, "diffrax")
        for target in TARGETS:
            for work in ("gradients", "best_s"):
                theirs, mine = best(others, work, target), best(ours, work, target)
                lost = _lost(problem, target, work, "the best of ours", mine, theirs)
                lines += lost
                if not lost or (mine is not None and mine[0] not in default):
                    mine = best(default, work, target)
                    lines += _lost(problem, target, work, "`Markov()`", mine, theirs)
            discrete = _of(records, problem, "discrete")
            mine, run = best(ours, "best_s", target), discrete[0]["points"] if discrete else []
            if target == TARGETS[0] and run and mine and run[0].get("best_s"):
                # it does not solve the equation: it is what the equation is a model of
                against = (discrete[0], run[0])
                lines += _lost(problem, target, "best_s", "the best of ours", mine, against)
    for r in scale:
        if r.get("overhead", 0.0) > 1.5 and r["contestant"] in ("multistep3", "bdf"):
            size = f"{r['config']['parameters']:,} parameters"
            factor = f"{r['overhead']:.2g} times"
            lines.append(
                (
                    f"digits, {size}",
                    "-",
                    "seconds",
                    f"`{_solver(r)}`",
                    "its gradients alone",
                    factor,
                )
            )
    lines += _lost_to_peers(peers)
    if not lines:
        return "In no comparison below."
    head = ("problem", "error at most", "measure", "who", "loses to", "by")
    return f"In {len(lines)} comparisons of those below.\n\n{rows(head, lines)}"


def _lost(problem, target, work, who, mine, theirs) -> list[tuple[str, ...]]:
    if theirs is None or (mine is not None and mine[1][work] <= theirs[1][work]):
        return []
    title, form = DESCENTS[problem].title, _FORMS[work]
    if mine is None:
        by = f"does not get there; {form(theirs[1][work])}"
    else:
        ratio = mine[1][work] / theirs[1][work]
        by = f"{ratio:.2g} times ({form(mine[1][work])}, {form(theirs[1][work])})"
        who = f"{who}, `{_label(mine[0])}`" if who.startswith("the") else who
    discrete = theirs[0]["contestant"] == "discrete"
    loses_to = "the discrete run itself" if discrete else f"`{_label(theirs[0])}`"
    return [(title, f"{target:.0e}", _WORDS[work], who, loses_to, by)]


def _lost_to_peers(peers: list[Record]) -> list[tuple[str, ...]]:
    """Records of the peers that are both more exact and faster than each of ours."""
    lines = []
    for problem, what in PROBLEMS.items():
        solved = [r for r in peers if r["problem"] == problem and r["max_error"] is not None]
        ours = [r for r in solved if r["solver"] == "ours"]
        for r in solved:
            if r["solver"] == "ours":
                continue
            beaten = [o for o in ours if o["max_error"] >= r["max_error"]]
            beaten = [o for o in beaten if o["best_s"] >= r["best_s"]]
            if beaten:
                o = min(beaten, key=lambda o: o["best_s"])
                by = f"{o['best_s'] / r['best_s']:.2g} times"
                who = f"`{o['setting']['method']}`"
                error = f"{r['max_error']:.0e}"
                lines.append((what.title, error, "seconds", who, f"{r['solver']} (a peer)", by))
    return lines


def _summary(records: list[Record]) -> str:
    head = (
        "problem",
        "discrete",
        "ours",
        "by",
        "diffrax",
        "by",
        "diffrax / ours",
        "discrete / ours",
    )
    lines = []
    for problem in _problems(records):
        steps = DESCENTS[problem].steps
        ours = best(_of(records, problem, "ours"), "gradients", TARGETS[0])
        theirs = best(_of(records, problem, "diffrax"), "gradients", TARGETS[0])
        mine = None if ours is None else ours[1]["gradients"]
        other = None if theirs is None else theirs[1]["gradients"]
        cells = (
            f"{steps:,}",
            number(mine, ","),
            "-" if ours is None else f"`{_label(ours[0])}`",
            number(other, ","),
            "-" if theirs is None else f"`{_label(theirs[0])}`",
            number(other / mine if mine and other else None, ".1f"),
            number(steps / mine if mine else None, ".1f"),
        )
        lines.append((DESCENTS[problem].title, *cells))
    return rows(head, lines)


def _published(records: list[Record], peers: list[Record]) -> str:
    """Theirs; then ours and diffrax's, each at its loosest tolerance that is so much more exact."""
    head = ["solver", "error", "seconds", "compiling", "sweeps", "times more exact"]
    parts = []
    for problem in PUBLISHED:
        theirs = [(r, p) for r in _of(records, problem, "published") for p in okay(r)[:1]]
        if not theirs:
            continue
        lines, dashes = [], ["-"] * len(theirs)
        for r, p in theirs:
            cells = [duration(p["best_s"]), "-", number(p["sweeps"], ","), "1"]
            lines.append([_label(r), f"{p['error']:.1e}", *cells, *dashes])
        error = min(p["error"] for _, p in theirs)
        for r in (*_of(records, problem, "ours"), *_of(records, problem, "diffrax")):
            reached = [p for p in okay(r) if p["error"] <= error / _BETTER]
            if not reached:
                continue
            p = max(reached, key=lambda p: (p["rtol"], p["atol"]))
            setting = f"`{_label(r)}`, rtol {p['rtol']:.0e}, atol {p['atol']:.0e}"
            compiling = max((q.get("compile_s") or 0.0) for q in r["points"])
            cells = [duration(p["best_s"]), duration(compiling), "-", f"{error / p['error']:,.0f}"]
            ratios = [f"{q['best_s'] / p['best_s']:,.0f}" for _, q in theirs]
            lines.append([setting, f"{p['error']:.1e}", *cells, *ratios])
        faster = [f"times faster than {_label(r)}" for r, _ in theirs]
        title = f"**{DESCENTS[problem].title}**, on [0, {DESCENTS[problem].steps:,}]"
        parts.append(f"{title}\n\n{rows([*head, *faster], lines)}")
    return "\n\n".join([*parts, *_their_own(peers)])


def _their_own(peers: list[Record]) -> list[str]:
    """A sentence about the authors' code, in the run beside the peers."""
    solved = [r for r in peers if r["problem"] == "adam" and r["max_error"] is not None]
    theirs = next((r for r in solved if r["solver"] == "authors"), None)
    ours = next((r for r in solved if r["solver"] == "ours"), None)
    if theirs is None or ours is None:
        return []
    faster, better = theirs["best_s"] / ours["best_s"], theirs["max_error"] / ours["max_error"]
    return [
        f"The authors' own code, in the run beside the peers below (alpha = 0.1, 50 steps): "
        f"{duration(theirs['best_s'])}, to `Markov()`'s {duration(ours['best_s'])}, called without "
        f"jit: {faster:,.0f} times as long, with an error {better:,.0f} times as large."
    ]


def _work(records: list[Record]) -> str:
    head = ["solver"]
    for target in TARGETS:
        head += [f"gradients to {target:.0e}", f"seconds to {target:.0e}"]
    head += ["least error", "points", "failed"]
    parts = []
    for problem in _problems(records):
        descent = DESCENTS[problem]
        here = [r for r in records if r["problem"] == problem]
        title = f"**{descent.title}**, on [0, {descent.steps:,}]; against: {here[0]['reference']}"
        parts.append(f"{title}\n\n{rows(head, map(_line, here))}")
    return "\n\n".join(parts)


def _line(r: Record) -> list[str]:
    cells = [f"`{_label(r)}`" if CONTESTANTS[r["contestant"]].method else _label(r)]
    alone = r["contestant"] == "discrete" and bool(r["points"])
    for target in TARGETS:
        for work, form in _FORMS.items():
            p = least(r, work, target)
            cells.append("-" if p is None else form(p[work]))
    if alone and cells[1] == "-":
        p = r["points"][0]
        cells[1:3] = [f"({number(p.get('gradients'), ',')})", f"({duration(p.get('best_s'))})"]
    error = number(r["error"], ".1e")
    failed = [p["result"] for p in r["points"] if p["result"] != "successful"]
    said = f"{len(failed)}: {failed[0]}" if failed else "-"
    if not r["points"] and r["result"] != "successful":
        said = r["result"]
    return [*cells, f"{error} (of the model)" if alone else error, str(len(r["points"])), said]


def _solver(r: Record) -> str:
    return r["config"]["solver"]


def _scale(records: list[Record]) -> str:
    head = (
        "parameters",
        "N",
        "solver",
        "gradient",
        "step",
        "step / gradient",
        "gradients",
        "solve",
    )
    head = (
        *head,
        "solve / gradients",
        "copies, program",
        "copies, process",
        "error",
        "rms error",
        "result",
    )
    lines = []
    for r in records:
        config = r["config"]
        cells = (
            duration(r.get("gradient_s")),
            duration(r.get("step_s")),
            number(r.get("step_in_gradients"), ".2f"),
            number(r.get("gradients"), ","),
            duration(r.get("solve_s")),
            number(r.get("overhead"), ".2f"),
            number(r.get("copies_program"), ".1f"),
            number(r.get("copies_process"), ".1f"),
            number(r["error"], ".1e"),
            number(r.get("rms_error"), ".1e"),
            r["result"],
        )
        lines.append((f"{config['parameters']:,}", str(config["steps"]), _solver(r), *cells))
    return rows(head, lines)


def _run(work: Page, scale: Page) -> str:
    minutes = lambda page: f"{page['seconds'] / 60:.0f} minutes"
    quick = "; a quick run: few problems, solvers and tolerances" if work["quick"] else ""
    changed = ", with changes" if work["dirty"] else ""
    lines = [
        f"{work['machine']}, {work['cores']} cores; {minutes(work)} for the curves, "
        f"{minutes(scale)} for the large networks{quick}. Commit {work['commit'][:12]}{changed}.",
        "",
    ]
    seen: dict[str, None] = {}
    for r in (*work["records"], *scale["records"]):
        if r.get("versions"):
            precision = "double" if r["x64"] else "single"
            versions = ", ".join(f"{k} {v or 'missing'}" for k, v in r["versions"].items())
            seen[f"- {r['device']}, {precision}: Python {r['python']}, {versions}"] = None
    return "\n".join([*lines, *seen])
