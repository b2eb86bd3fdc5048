"""A learning rate that changes: jumps, kinks, pulses, sines, against closed forms."""

import itertools

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from schedules import ALL, OPTAX, OWN, STEPS, Pieces

import idemodels as ide
from idemodels._model.breakpoints import find_breakpoints

TS = np.arange(0.0, STEPS + 1.0, 25.0)
TIGHT = ide.Markov(rtol=1e-6)


def linear(theta):
    return 1.0 * theta


def moved(pieces, direction, ts):
    """1 minus the integral of rate times direction, by Gauss's rule between all breaks."""
    early = np.geomspace(1e-20, 0.5, 200)  # a causal direction grows like 1 / sqrt(s) there
    ends = np.unique(np.concatenate([ts, early, np.arange(0.0, ts[-1], 0.5), pieces.breaks]))
    ends = ends[ends <= ts[-1]]
    x, w = np.polynomial.legendre.leggauss(10)
    s = ends[:-1, None] + np.diff(ends)[:, None] * (x + 1) / 2
    rate = np.asarray(jax.vmap(jax.vmap(pieces))(jnp.asarray(s)))
    gained = (rate * direction(s)) @ w * np.diff(ends) / 2
    total = np.concatenate([[0.0], np.cumsum(gained)])
    return 1.0 - total[np.searchsorted(ends, ts)]


def relative(theta, exact):
    return np.abs(np.asarray(theta) - exact).max() / np.ptp(exact)


def wobble(s, theta, g, moments):
    return jax.tree.map(lambda g: g * (1.0 + 0.5 * jnp.sin(2 * jnp.pi * s / 40)), g)


RATE = -np.log(0.99)
# the direction on a loss with gradient 1, by hand
CASES = {
    "adam": (lambda r: ide.Adam(r, rate="matched", eps=1e-12), np.ones_like),
    "rmsprop": (
        lambda r: ide.RMSProp(r, 0.99, rate="matched"),
        lambda s: 1 / (np.sqrt(1 - np.exp(-RATE * (s + 1))) + 1e-8),
    ),
    "rmsprop-causal": (
        lambda r: ide.RMSProp(r, 0.99, reading="causal", rate="matched"),
        lambda s: 1 / (np.sqrt(-np.expm1(-RATE * s)) + 1e-8),
    ),
    "adagrad": (lambda r: ide.AdaGrad(r), lambda s: 1 / (np.sqrt(s + 1) + 1e-8)),
    "adagrad-lr-decay": (
        lambda r: ide.AdaGrad(r, lr_decay=0.1),
        lambda s: 1 / (np.sqrt(s + 1) + 1e-8) / (1 + 0.1 * s),
    ),
    "memory-model": (
        lambda r: ide.MemoryModel({}, wobble, r),
        lambda s: 1 + 0.5 * np.sin(2 * np.pi * s / 40),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_the_pieces_are_the_schedule_of_optax(name):
    s = jnp.arange(0.07, STEPS, 0.25)
    with jax.numpy_dtype_promotion("standard"):
        ours, theirs = (jax.vmap(f)(s) for f in (OPTAX[name].pieces, OPTAX[name].function))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OPTAX)
def test_breaks_of_optax_are_found_and_nothing_else(name):
    case = OPTAX[name]
    found = find_breakpoints(case.function, 0.0, float(STEPS))
    # where the slope does not change at once there is no kink: the error estimate sees the rest
    smooth = {"cosine_decay", "cosine_onecycle", "piecewise_cosine", "power"}
    breaks = case.pieces.breaks
    breaks = breaks[breaks < STEPS]
    if name == "polynomial":
        breaks = breaks[:1]
    if name in ("join", "warmup_cosine"):
        breaks = breaks[:1]
    if name == "power":
        smooth.remove(name)
    np.testing.assert_array_equal(found, [] if name in smooth else breaks)


@pytest.mark.parametrize("rate", [lambda s: 0.01 / jnp.sqrt(1 + s), OWN["sine 3"], OWN["sine 7.3"]])
def test_a_smooth_rate_has_no_breaks(rate):
    assert find_breakpoints(rate, 0.0, 1000.0).size == 0


@pytest.mark.parametrize("at", [100 / 3, 500.3, 0.29 * 100, 0.1 + 0.2, 7.0, 999.7])
def test_a_jump_is_found_to_the_last_bit(at):
    """An implicit step that ends before it must not see what is behind it."""
    found = find_breakpoints(lambda s: jnp.where(s < at, 0.01, 0.003), 0.0, 1000.0)
    np.testing.assert_array_equal(found, [at])


def test_breaks_between_steps_are_found_too():
    rate = lambda s: 1e-3 + 0.05 * ((s >= 500.3) & (s < 505.77))
    np.testing.assert_allclose(find_breakpoints(rate, 0.0, 1000.0), [500.3, 505.77], atol=1e-6)


@pytest.mark.parametrize(
    ("case", "rtol"),
    [
        ("adam", 1e-6),
        *(pytest.param("adam", rtol, marks=pytest.mark.slow) for rtol in (1e-4, 1e-8)),
        *(pytest.param(case, 1e-6, marks=pytest.mark.slow) for case in CASES if case != "adam"),
    ],
)
def test_every_schedule_keeps_the_tolerance(case, rtol):
    make, direction = CASES[case]
    method = ide.Markov(rtol=rtol, atol=1e-3 * rtol)
    wrong = {}
    for name, pieces in ALL.items():
        path = ide.solve(make(pieces), linear, 1.0, TS, method=method)
        exact = moved(pieces, direction, TS)
        error = relative(path.theta, exact)
        if error > 10 * rtol:
            wrong[name] = error
        np.testing.assert_allclose(path.times, pieces.integral(TS), rtol=1e-9, atol=1e-12)
    assert not wrong


def test_weight_decay_keeps_the_tolerance():
    wrong = {}
    for name in ("constant", "sgdr", "sine 31", "pulse of 5", "steps"):
        for w in (0.1, 20.0):
            model = ide.Adam(ALL[name], rate="matched", eps=1e-12, weight_decay=w)
            path = ide.solve(model, linear, 1.0, TS, method=TIGHT)
            exact = -1 / w + (1 + 1 / w) * np.exp(-w * ALL[name].integral(TS))
            error = relative(path.theta, exact)
            if error > 1e-5:
                wrong[name, w] = error
    assert not wrong


@pytest.mark.parametrize("scale", [1.0, pytest.param(200.0, marks=pytest.mark.slow)])
def test_weight_decay_is_seen_at_any_size(scale):
    w = 0.1 * scale
    model = ide.Adam(0.1, rate="matched", eps=1e-12, weight_decay=w)
    path = ide.solve(model, linear, 1.0, TS)
    exact = -1 / w + (1 + 1 / w) * np.exp(-0.1 * w * TS)
    assert relative(path.theta, exact) < 1e-5


def test_what_nobody_knows_of_is_seen():
    @eqx.filter_jit
    def path(pieces):
        model = ide.Adam(pieces, rate="matched", eps=1e-12)
        return ide.solve(model, linear, 1.0, TS, method=TIGHT, throw=False)

    wrong = {}
    for name, pieces in ALL.items():
        traced = jax.tree.map(jnp.asarray, pieces)  # under jit: no breakpoint is known
        error = relative(path(traced).theta, 1.0 - pieces.integral(TS))
        if error > 1e-5:
            wrong[name] = error
    assert not wrong


def test_single_precision_sees_them(float32):
    wrong = {}
    for name, pieces in ALL.items():
        model = ide.Adam(pieces, rate="matched", eps=1e-12)
        path = ide.solve(model, linear, 1.0, TS, method=ide.Markov(rtol=1e-4, atol=1e-7))
        error = relative(path.theta, 1.0 - pieces.integral(TS))
        if error > 1e-3:
            wrong[name] = error
    assert not wrong


def test_a_rate_that_is_not_finite_is_refused():
    model = ide.Adam(lambda s: jnp.where(s > 50.2, jnp.nan, 0.01))
    with pytest.raises(
        ValueError, match="`learning_rate` must be finite and not negative .* is nan at step 50.25"
    ):
        ide.solve(model, ide.Quadratic(), 1.0, np.arange(101.0))


def test_a_rate_that_becomes_infinite_in_a_traced_call_is_told():
    def last(at):
        model = ide.Adam(ide.Schedule(lambda s, at: jnp.where(s > at, jnp.inf, 0.01), at=at))
        return ide.solve(model, ide.Quadratic(), 1.0, np.arange(101.0), throw=False)

    path = eqx.filter_jit(last)(jnp.asarray(50.0))
    assert bool(path.result == ide.RESULTS.nonfinite_rate)
    assert np.isfinite(path.theta[40])
    assert np.isnan(path.theta[60])


def _step_down(s, at):
    return jnp.where(s < at, 0.02, 0.005)


def _warm_up(s, peak, steps):
    return peak * jnp.minimum(s / steps, 1.0)


def test_the_derivative_in_the_place_of_a_jump_is_never_zero():
    def end(at):
        rate = ide.Schedule(_step_down, at=at, breakpoints=["at"])
        return ide.solve(ide.Adam(rate), ide.Quadratic(), 1.0, np.array([0.0, 60.0])).theta[-1]

    assert np.isnan(jax.grad(end)(30.0))


@pytest.mark.slow
def test_the_derivative_in_the_place_of_a_kink_is_right():
    def end(steps):
        rate = ide.Schedule(_warm_up, peak=0.02, steps=steps, breakpoints=["steps"])
        method = ide.Markov(rtol=1e-8, atol=1e-11)
        ts = np.array([0.0, 60.0])
        return ide.solve(ide.Adam(rate), ide.Quadratic(), 1.0, ts, method=method).theta[-1]

    slope = float(jax.grad(end)(30.0))
    assert slope == pytest.approx(float(end(30.01) - end(29.99)) / 0.02, rel=1e-4)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("steps", r"a sequence of finite numbers or names of parameters, but is 'steps'"),
        (["step"], r"has 'step'\. Did you mean 'steps'\?"),
        ([np.inf], "has inf"),
        (5, "but is 5"),
    ],
)
def test_breakpoints_are_checked(given, told):
    with pytest.raises(ValueError, match=f"Argument `breakpoints` must be .*{told}"):
        ide.Schedule(_warm_up, peak=0.01, steps=20.0, breakpoints=given)


def test_breakpoints_of_a_method_are_checked():
    with pytest.raises(
        ValueError, match="`breakpoints` must be a sequence of finite numbers, but has 'x'"
    ):
        ide.Markov(breakpoints=["x"])


def test_a_direction_that_jumps_is_solved_where_it_is_told():
    def direction(s, theta, g, moments):
        return jax.tree.map(lambda g: jnp.where((s >= 200) & (s < 203), 30.0, 1.0) * g, g)

    model = ide.MemoryModel({}, direction, 0.001)
    path = ide.solve(model, linear, 1.0, TS, method=ide.Markov(breakpoints=[200.0, 203.0]))
    exact = 1.0 - 0.001 * (TS + 29 * np.clip(TS - 200, 0, 3))
    np.testing.assert_allclose(path.theta, exact, rtol=0, atol=1e-7)


def test_a_sweep_sees_a_pulse_in_every_lane():
    pieces = OWN["pulse of 5"]
    model = ide.Adam(pieces, rate="matched", eps=1e-12)
    found = ide.sweep(model, linear, 1.0, STEPS, {"b2": [0.9, 0.99, 0.999]}, progress=False)
    exact = float(1.0 - pieces.integral(np.array([float(STEPS)]))[0])
    np.testing.assert_allclose(
        found.final_theta, np.full(3, exact), rtol=0, atol=1e-4 * abs(1 - exact)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quadratic", "log-cosh", "logistic"])
def test_curved_losses_agree_with_scipy(name):
    from helpers import OBJECTIVES
    from scipy.integrate import solve_ivp

    case, b1, b2 = OBJECTIVES[name], 0.9, 0.999
    theta0 = np.full_like(np.atleast_1d(case.by_hand.theta0), 20.0) if name == "log-cosh" else None
    theta0 = np.atleast_1d(np.asarray(case.by_hand.theta0, float)) if theta0 is None else theta0
    n = theta0.size
    ts = TS[TS <= 300]
    for schedule in ("sgdr", "steps", "sine 31"):
        pieces = ALL[schedule]
        rate = jax.jit(lambda s, pieces=pieces: pieces(s))

        def rhs(s, y, low, high, rate=rate):
            x, m, v = y[:n], y[n : 2 * n], y[2 * n :]
            g, s = np.atleast_1d(case.by_hand.gradient(x)), min(max(s, low), high)
            c1, c2 = -np.expm1(s * np.log(b1)), -np.expm1(s * np.log(b2))
            if s == 0:
                mh, vh = g * (1 - b1) / -np.log(b1), g * g * (1 - b2) / -np.log(b2)
            else:
                mh, vh = m / c1, v / c2
            pull = -float(rate(s)) * mh / (np.sqrt(vh) + 1e-8)
            return np.concatenate([pull, (1 - b1) * (g - m), (1 - b2) * (g * g - v)])

        ends = np.unique(np.concatenate([[0.0], pieces.breaks[pieces.breaks < ts[-1]], ts]))
        y, exact = np.concatenate([theta0, np.zeros(2 * n)]), [theta0]
        for a, b in itertools.pairwise(ends):
            inner = np.nextafter(a, b), np.nextafter(b, a)
            done = solve_ivp(
                rhs,
                (a, b),
                y,
                "DOP853",
                rtol=1e-11,
                atol=1e-14,
                args=inner if a else (0.0, inner[1]),
                max_step=2.0,
            )
            y = done.y[:, -1]
            if b in ts:
                exact.append(y[:n])
        exact = np.array(exact)
        start = jnp.asarray(theta0 if n > 1 else theta0[0])
        for rtol in (1e-4, 1e-7):
            method = ide.Markov(rtol=rtol, atol=1e-3 * rtol)
            path = ide.solve(ide.Adam(pieces), case.objective, start, ts, method=method)
            theta = np.asarray(path.theta).reshape(exact.shape)
            error = np.abs(theta - exact).max() / np.ptp(exact, axis=0).max()
            assert error <= 10 * rtol, (schedule, rtol, error)


def test_schedule_of_optax_in_a_network_agrees_with_its_own_pieces():
    digits = ide.DigitsMLP(hidden=(4,))
    case = OPTAX["sgdr"]
    ts, method = np.array([0.0, 30.0, 120.0]), ide.Markov(rtol=1e-4, atol=1e-7)
    given = digits, digits.theta0, ts
    a = ide.solve(
        ide.Adam(
            optax.schedules.sgdr_schedule(
                [dict(init_value=0.0, peak_value=0.02, warmup_steps=10, decay_steps=100)] * 6
            )
        ),
        *given,
        method=method,
    )
    b = ide.solve(
        ide.Adam(
            Pieces.of(
                {0: (0.0, 0.002)}
                | {10: (0.01, 0, 0.01, np.pi / 90)}
                | {100: (0.0, 0.002)}
                | {110: (0.01, 0, 0.01, np.pi / 90)}
            )
        ),
        *given,
        method=method,
    )
    assert case.pieces.breaks[0] == 10
    for x, y in zip(jax.tree.leaves(a.theta), jax.tree.leaves(b.theta), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_rmsprop_on_a_network_agrees_with_diffrax():
    """Stiff, so that the implicit multistep method steps to the jumps; none at a whole step."""
    digits, steps, rtol = ide.DigitsMLP(hidden=(4,)), 200.0, 1e-6
    ts, faster = np.linspace(0.0, steps, 13), STEPS / steps

    @eqx.filter_jit
    def followed(equation, jumps):
        controller = dfx.ClipStepSizeController(
            dfx.PIDController(rtol=1e-9, atol=1e-12), jump_ts=jumps
        )
        given = equation.term(), dfx.Dopri8(), 0.0, steps, 1e-3, equation.init(digits.theta0)
        saved = dfx.SaveAt(ts=jnp.asarray(ts))
        return dfx.diffeqsolve(
            *given, saveat=saved, stepsize_controller=controller, max_steps=10_000
        ).ys.theta

    flat = lambda path: np.hstack([np.reshape(x, (ts.size, -1)) for x in jax.tree.leaves(path)])
    method = ide.Markov(rtol=rtol, atol=1e-3 * rtol)
    for name, b2 in (("staircase", 0.99), ("pulse of 17", 0.9), ("triangle", 0.99)):
        numbers = np.array(ALL[name].numbers) * 0.1  # constants alone
        model = ide.RMSProp(Pieces(ALL[name].edges / faster, numbers), b2)
        jumps = np.append(ALL[name].breaks / faster, 1e6 + np.arange(8.0))[:8]
        exact = flat(followed(ide.Equation(model, digits), jnp.asarray(jumps)))
        path = ide.solve(model, digits, digits.theta0, ts, method=method)
        error = np.abs(flat(path.theta) - exact).max() / np.ptp(exact, axis=0).max()
        assert error <= 10 * rtol, (name, error)
        assert int(path.stats["num_gradients"]) < 25 * steps
