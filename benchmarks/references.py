"""The paths once more, by programs that share no code with the library: NumPy and SciPy only.

`python -m benchmarks.references NAME` computes one and keeps it, for it may take minutes: in the
folder that the environment's IDEMODELS_REFERENCES names, or in `results/references`, which git
ignores.
"""

import hashlib
import importlib.util
import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np

from .descents import CURVATURES, DESCENTS, MINIMUM, Descent

_HERE = Path(__file__).parent
_TESTS = _HERE.parent / "tests"
FOLDER = "IDEMODELS_REFERENCES"
HOW = {
    "collocation": "collocation at Radau points, orders 13 and 9, tolerance 1e-10",
    "dop853": "SciPy's DOP853, tolerance 1e-13",
    "digits": "SciPy's DOP853, tolerance 1e-11, gradient by hand in NumPy",
    "tail": "SciPy's DOP853, tolerance 1e-13, then Radau, 1e-11",
}


def how(name: str) -> str:
    """By what the reference of a problem is made, for its records."""
    descent = DESCENTS[name]
    if descent.model != "adam":
        return HOW["collocation"]
    kind = "digits" if descent.loss == "digits" else "tail" if name == "tail_adam" else "dop853"
    return HOW[kind]


def kept_at(name: str) -> Path:
    """Where the reference of a problem is kept; another one for another problem of that name."""
    descent = DESCENTS[name]
    what = json.dumps([descent.config, how(name)], sort_keys=True).encode()
    digest = hashlib.sha256(what + descent.ts.tobytes()).hexdigest()[:12]
    folder = Path(os.environ.get(FOLDER) or _HERE / "results" / "references")
    return folder / f"{name}-{digest}.npy"


def reference(name: str) -> np.ndarray:
    """**Returns:** theta at the problem's `ts`, shape `(T, d)`; computed where it is not kept."""
    path = kept_at(name)
    if not path.exists():
        theta = _solve(name, DESCENTS[name])
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            np.save(file, theta)
        os.replace(partial, path)
    return np.load(path)


def from_tests(name: str) -> ModuleType:
    """**Returns:** a module of the tests' folder: the programs that the tests trust."""
    spec = importlib.util.spec_from_file_location(name, _TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules.setdefault(name, module)
    spec.loader.exec_module(module)
    return module


def _solve(name: str, descent: Descent) -> np.ndarray:
    r = from_tests("references")
    loss = {
        "quadratic": lambda: r.quadratic(2.0, 4.0, 1.0),
        "quadratic5": lambda: r.quadratic(CURVATURES, MINIMUM, np.zeros(5)),
        "rosenbrock": r.rosenbrock,
        "digits": lambda: _digits(r),
    }[descent.loss]()
    if descent.model == "adagrad":
        return r.solve(r.adagrad(*descent.hyperparameters), loss, descent.ts)
    if descent.model == "rmsprop":
        return r.solve(r.rmsprop(*descent.hyperparameters), loss, descent.ts)
    rule = r.adam(*descent.hyperparameters)
    if descent.loss == "digits":
        return _explicit(r, rule, loss, descent.ts)
    if name == "tail_adam":
        return _tail(r, rule, loss, descent.ts)
    return r.solve(rule, loss, descent.ts)


def _explicit(r: ModuleType, rule, loss, ts: np.ndarray, rtol: float = 1e-11) -> np.ndarray:
    """DOP853 from each of `ts` to the next; the tests' own tolerance costs too much here."""
    from scipy.integrate import solve_ivp

    d = loss.theta0.size
    field = r.adam_field(rule, loss)
    atol = np.concatenate([np.full(2 * d, 1e-12), np.full(d, 1e-16)])
    rows = [np.concatenate([loss.theta0, np.zeros(2 * d)])]
    step = None
    for a, b in pairwise(ts):
        first = None if step is None else min(step, b - a)
        out = solve_ivp(field, (a, b), rows[-1], "DOP853", rtol=rtol, atol=atol, first_step=first)
        assert out.success, out.message
        rows.append(out.y[:, -1])
        step = np.diff(out.t).max()
    return np.array(rows)[:, :d]


def _tail(r: ModuleType, rule, loss, ts: np.ndarray) -> np.ndarray:
    """The tests' DOP853 until all is close to rest, and an implicit method from there."""
    from scipy.integrate import solve_ivp

    early = ts[ts <= 800.0]
    theta, m, v = r.solve_states(rule, loss, early)
    y0 = np.concatenate([theta[-1], m[-1], v[-1]])
    late = ts[ts >= early[-1]]
    out = solve_ivp(
        r.adam_field(rule, loss),
        (late[0], late[-1]),
        y0,
        "Radau",
        t_eval=late,
        rtol=1e-11,
        atol=np.repeat([1e-14, 1e-16, 1e-30], loss.theta0.size),
    )
    assert out.success, out.message
    return np.vstack([theta, out.y[: loss.theta0.size].T[1:]])


def _digits(r: ModuleType):
    """The digits network's loss: 64-32-10, tanh, cross entropy; its leaves one after another."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x, wanted = pixels / 16.0, np.eye(10)[labels]
    draw = np.random.default_rng(0)
    first = draw.normal(size=(64, 32)) / np.sqrt(64)
    second = draw.normal(size=(32, 10)) / np.sqrt(32)
    theta0 = np.concatenate([first.ravel(), np.zeros(32), second.ravel(), np.zeros(10)])

    def gradient(theta):
        w1, b1, w2, b2 = np.split(theta, np.cumsum([64 * 32, 32, 32 * 10]))
        hidden = np.tanh(x @ w1.reshape(64, 32) + b1)
        logits = hidden @ w2.reshape(32, 10) + b2
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        d_logits = (p - wanted) / len(x)
        d_hidden = (d_logits @ w2.reshape(32, 10).T) * (1.0 - hidden * hidden)
        parts = (x.T @ d_hidden, d_hidden.sum(0), hidden.T @ d_logits, d_logits.sum(0))
        return np.concatenate([part.ravel() for part in parts])

    return r.Loss(theta0, gradient, lambda theta: None)


if __name__ == "__main__":
    reference(sys.argv[1])
