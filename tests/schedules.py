"""Learning-rate schedules as pieces of one formula, so that one program solves them all."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from optax import schedules as S

STEPS = 600
_PIECES = 80


class Pieces(eqx.Module):
    """A schedule by arrays: from each edge e on, with x = s - e,

    a + b x + c cos(d x + e0) + f exp(g x) + h x^2.
    """

    edges: Any
    numbers: Any

    @classmethod
    def of(cls, pieces):
        """`pieces`: from edge to coefficients (a, b, c, d, e0, f, g, h), shorter ones padded."""
        edges = np.full(_PIECES, np.inf)
        numbers = np.zeros((_PIECES, 8))
        assert len(pieces) <= _PIECES
        for k, (edge, given) in enumerate(sorted(pieces.items())):
            edges[k] = edge
            numbers[k, : len(given)] = given
        return cls(edges, numbers)

    def __call__(self, s):
        s = jnp.asarray(s, jnp.result_type(float))
        edges, numbers = jnp.asarray(self.edges, s.dtype), jnp.asarray(self.numbers, s.dtype)
        k = jnp.maximum(jnp.searchsorted(edges, s, side="right") - 1, 0)
        x = s - edges[k]
        a, b, c, d, e, f, g, h = jnp.moveaxis(numbers[k], -1, 0)
        return a + b * x + c * jnp.cos(d * x + e) + f * jnp.exp(g * x) + h * x**2

    def integral(self, ts):
        """Of the schedule from 0 to each of `ts`, in closed form."""

        def piece(k, x):
            a, b, c, d, e, f, g, h = self.numbers[k]
            swings = c * (np.sin(d * x + e) - np.sin(e)) / d if d else c * np.cos(e) * x
            fades = f * np.expm1(g * x) / g if g else f * x
            return a * x + b * x**2 / 2 + swings + fades + h * x**3 / 3

        total = np.zeros(len(ts))
        for k in range(int(np.sum(np.isfinite(self.edges)))):
            end = self.edges[k + 1] if k + 1 < _PIECES else np.inf
            total += piece(k, np.clip(ts, self.edges[k], end) - self.edges[k])
        return total

    @property
    def breaks(self):
        """Where the formula changes, after the start."""
        return self.edges[np.isfinite(self.edges) & (self.edges > 0)]


def _cosine(edge, top, bottom, length):
    half = (top - bottom) / 2
    return {edge: (bottom + half, 0, half, np.pi / length)}


def _line(edge, start, end, length):
    return {edge: (start, (end - start) / length)}


def _flat(edge, value):
    return {edge: (value,)}


def _restarts(count):
    out = {}
    for k in range(count):
        out |= _line(100 * k, 0.0, 0.02, 10) | _cosine(100 * k + 10, 0.02, 0.0, 90)
    return out


@dataclass(frozen=True)
class Scheduled:
    """A schedule of optax's or a function, and the same in `Pieces`."""

    function: Any
    pieces: Pieces


def _both(function, pieces):
    return Scheduled(function, Pieces.of(pieces))


OPTAX = {
    "constant": _both(S.constant_schedule(0.01), _flat(0, 0.01)),
    "cosine_decay": _both(
        S.cosine_decay_schedule(0.01, 450), _cosine(0, 0.01, 0, 450) | _flat(450, 0.0)
    ),
    "cosine_onecycle": _both(
        S.cosine_onecycle_schedule(STEPS, 0.02, 0.25, 25.0, 1e4),
        _cosine(0, 0.02 / 25, 0.02, 150) | _cosine(150, 0.02, 0.02 / 25e4, 450),
    ),
    "exponential_decay": _both(
        S.exponential_decay(0.01, 100, 0.8), {0: (0, 0, 0, 0, 0, 0.01, np.log(0.8) / 100)}
    ),
    "staircase": _both(
        S.exponential_decay(0.01, 100, 0.5, staircase=True),
        {100 * k: (0.01 * 0.5**k,) for k in range(7)},
    ),
    "join": _both(
        S.join_schedules([S.constant_schedule(0.002), S.cosine_decay_schedule(0.02, 200)], [123]),
        _flat(0, 0.002) | _cosine(123, 0.02, 0, 200) | _flat(323, 0.0),
    ),
    "linear_onecycle": _both(
        S.linear_onecycle_schedule(STEPS, 0.02, 0.3, 0.85, 25.0, 1e4),
        _line(0, 0.0008, 0.02, 180) | _line(180, 0.02, 0.0008, 330) | _line(510, 0.0008, 8e-8, 90),
    ),
    "linear": _both(
        S.linear_schedule(0.01, 0.001, 333, 77),
        _flat(0, 0.01) | _line(77, 0.01, 0.001, 333) | _flat(410, 0.001),
    ),
    "piecewise_constant": _both(
        S.piecewise_constant_schedule(0.01, {200: 0.1, 400: 5.0}),
        _flat(0, 0.01) | _flat(200, 0.001) | _flat(400, 0.005),
    ),
    "piecewise_interpolate": _both(
        S.piecewise_interpolate_schedule("linear", 0.01, {150: 0.2, 444: 3.0}),
        _line(0, 0.01, 0.002, 150) | _line(150, 0.002, 0.006, 294) | _flat(444, 0.006),
    ),
    "piecewise_cosine": _both(
        S.piecewise_interpolate_schedule("cosine", 0.01, {150: 0.2, 444: 3.0}),
        _cosine(0, 0.01, 0.002, 150) | _cosine(150, 0.002, 0.006, 294) | _flat(444, 0.006),
    ),
    "polynomial": _both(
        S.polynomial_schedule(0.01, 1e-4, 2, 300, 100),
        _flat(0, 0.01)
        | {100: (0.01, -2 * 0.0099 / 300, 0, 0, 0, 0, 0, 0.0099 / 300**2)}
        | _flat(400, 1e-4),
    ),
    "sgdr": _both(
        S.sgdr_schedule(
            [dict(init_value=0.0, peak_value=0.02, warmup_steps=10, decay_steps=100)] * 6
        ),
        _restarts(6) | _flat(600, 0.0),
    ),
    "warmup_constant": _both(
        S.warmup_constant_schedule(0.0, 0.01, 50), _line(0, 0, 0.01, 50) | _flat(50, 0.01)
    ),
    "warmup_cosine": _both(
        S.warmup_cosine_decay_schedule(0.0, 0.01, 60, 500),
        _line(0, 0, 0.01, 60) | _cosine(60, 0.01, 0, 440) | _flat(500, 0.0),
    ),
    "warmup_exponential": _both(
        S.warmup_exponential_decay_schedule(0.0, 0.01, 60, 50, 0.9),
        _line(0, 0, 0.01, 60) | {60: (0, 0, 0, 0, 0, 0.01, np.log(0.9) / 50)},
    ),
    "injected": _both(
        S.linear_schedule(0.01, 0.0, STEPS), _line(0, 0.01, 0.0, STEPS) | _flat(STEPS, 0.0)
    ),
    "power": _both(
        S.polynomial_schedule(0.002, 0.02, 1, 400),
        _line(0, 0.002, 0.02, 400) | _flat(400, 0.02),
    ),
}


def _sine(period):
    return Pieces.of({0: (0.01, 0, 0.01, 2 * np.pi / period, -np.pi / 2)})


def _pulse(start, width):
    return Pieces.of(_flat(0, 0.001) | _flat(start, 0.021) | _flat(start + width, 0.001))


OWN = {
    "sine 3": _sine(3.0),
    "sine 7.3": _sine(7.3),
    "sine 31": _sine(31.0),
    "sine 100": _sine(100.0),
    "sine 1000": _sine(1000.0),
    "pulse of 2": _pulse(301.0, 2.0),
    "pulse of 5": _pulse(257.0, 5.0),
    "pulse of 17": _pulse(100.5, 17.0),
    "pulse of 50": _pulse(520.3, 50.0),
    "steps": Pieces.of(_flat(0, 0.01) | _flat(133.25, 0.001) | _flat(400, 0.03)),
    "triangle": Pieces.of(
        {60 * k: (0.01, -0.01 / 30) for k in range(11)}
        | {60 * k + 30: (0.0, 0.01 / 30) for k in range(10)}
    ),
    "restarts": Pieces.of({75 * k: (0.01, -0.01 / 75) for k in range(9)}),
}
ALL = {name: case.pieces for name, case in OPTAX.items()} | OWN
