"""The exponential multistep solver: its orders, its counts, and that it is a solver of diffrax."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import references as ref
from helpers import Counted
from scipy.integrate import solve_ivp

import idemodels as ide

PARABOLA = (ide.Quadratic(), ref.quadratic())
# the double well for the order whose error on the parabola is soon one of rounding
ADAM = (ide.Adam(0.3, 0.9, 0.99), ref.adam(0.3, 0.9, 0.99))
ADAGRAD = (ide.AdaGrad(1.0), ref.adagrad(1.0, "closure"))
CONVERGENCE = [
    *((p, *ADAM, *PARABOLA, 8.0, [50, 70, 100, 140, 196, 280]) for p in (2, 3, 4)),
    (5, *ADAM, ide.DoubleWell(), ref.double_well(), 12.0, [140, 196, 280, 390, 540]),
    *((p, *ADAGRAD, *PARABOLA, 4.0, [36, 50, 70, 100, 140, 196]) for p in (2, 3, 4, 5)),
    (6, *ADAGRAD, *PARABOLA, 4.0, [50, 60, 70, 80, 100]),
]


def integrate(model, order, end, h, objective=PARABOLA[0], theta0=1.0, **options):
    """With fixed steps, on the parabola unless said otherwise, by diffrax itself."""
    equation = ide.Equation(model, objective)
    options = {"stepsize_controller": dfx.ConstantStepSize(), "max_steps": 4096} | options
    return dfx.diffeqsolve(
        equation.term(),
        ide.ExponentialMultistep(order),
        0.0,
        end,
        h,
        equation.init(jnp.full(1, theta0)),
        **options,
    )


@pytest.mark.parametrize(
    ("order", "model", "rule", "objective", "loss", "end", "steps"), CONVERGENCE
)
def test_fixed_steps_converge_at_their_order(order, model, rule, objective, loss, end, steps):
    ts = np.linspace(0.0, end, 9)
    truth = ref.solve(rule, loss, ts)
    where = {"objective": objective, "theta0": loss.theta0[0]}
    where["saveat"] = dfx.SaveAt(ts=jnp.asarray(ts))  # between the steps too: the dense output
    run = jax.jit(lambda h: integrate(model, order, end, h, **where).ys.theta)
    steps = np.array(steps)
    errors = np.array([np.abs(run(end / n) - truth).max() for n in steps])
    clean = errors > 1e-12
    slope = -np.polyfit(np.log(steps[clean]), np.log(errors[clean]), 1)[0]
    assert clean.sum() >= 4, errors
    assert abs(slope - order) < (0.3 if order < 6 else 0.5), (slope, errors)


@pytest.mark.parametrize("order", [2, 3, 4, 5, 6])
def test_gradients_are_counted_as_they_are_called(order):
    calls = []
    method = ide.Markov(ide.ExponentialMultistep(order), rtol=1e-6, atol=1e-8)
    # a start that is rejected takes its gradients again
    schedule = ide.Schedule(lambda s: 0.1 * jnp.exp(-((s - 0.05) ** 2) / 1e-3))
    path = ide.solve(ide.Adam(schedule), Counted(calls), jnp.ones(1), [0.0, 5.0], method=method)
    jax.effects_barrier()
    assert path.stats["num_rejected"] > 0
    assert path.stats["num_gradients"] == len(calls)


@pytest.mark.parametrize(
    ("model", "rule", "steps", "loss", "objective", "order", "rtol", "most"),
    [
        (ide.Adam(0.01), ref.adam(0.01, 0.9, 0.999), 1000, ref.quadratic(), None, 3, 1e-3, 35),
        (ide.Adam(0.001), ref.adam(0.001, 0.9, 0.999), 10000, ref.quadratic(), None, 3, 3e-4, 100),
        (ide.AdaGrad(0.01), ref.adagrad(0.01), 200000, ref.quadratic(), None, 3, 1e-3, 50),
        (
            ide.Adam(0.01),
            ref.adam(0.01, 0.9, 0.999),
            2000,
            ref.quadratic(np.geomspace(1, 100, 5), 1.0 + np.arange(5) / 5, np.zeros(5)),
            ide.Quadratic(np.geomspace(1, 100, 5), 1.0 + np.arange(5) / 5),
            3,
            3e-4,
            140,
        ),
    ],
    ids=["quadratic", "quadratic-small-rate", "adagrad", "quadratic-5"],
)
def test_a_thousandth_of_the_path_costs_few_gradients(
    model, rule, steps, loss, objective, order, rtol, most
):
    ts = np.concatenate([[0.0, 0.03, 0.3], np.linspace(0.0, steps, 101)[1:]])
    truth = ref.solve(rule, loss, ts)
    method = ide.Markov(ide.ExponentialMultistep(order), rtol=rtol, atol=rtol)
    objective = ide.Quadratic() if objective is None else objective
    path = ide.solve(model, objective, jnp.asarray(loss.theta0), ts, method=method)
    error = np.abs(path.theta - truth).max() / np.abs(truth - truth[0]).max()
    assert error <= 1e-3
    assert path.stats["num_gradients"] <= most


def itself(g):
    return g


def model_of(kernel, direction):
    memory = {"m": ide.Memory(kernel, itself), "v": ide.Memory(kernel, jnp.square)}
    return ide.MemoryModel(memory, direction, 0.05)


def damped(s, theta, g, moments):
    return moments["m"] / jnp.sqrt(moments["v"] ** 2 + g**2 + 1.0)


def trusting(s, theta, g, moments):
    return damped(s, theta, g, moments) * jnp.linalg.norm(theta) / (1.0 + jnp.linalg.norm(g))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model_of(ide.SecondOrder(0.8), damped), marks=pytest.mark.slow),
        model_of(ide.SumOfExponentials([0.5, 0.01], [1.0, 0.2]), damped),
        pytest.param(model_of(ide.Constant(), trusting), marks=pytest.mark.slow),
        pytest.param(ide.Adam(0.05, weight_decay=0.3, l2=0.1), marks=pytest.mark.slow),
        ide.RMSProp(ide.Schedule(lambda s: 0.05 / (1.0 + 0.01 * s)), 0.99),
    ],
    ids=["second-order", "sum", "reads-theta", "weight-decay", "schedule"],
)
def test_every_kernel_and_direction_is_solved_as_by_runge_kutta(model):
    ts = np.array([0.0, 0.2, 1.7, 9.0, 40.0])
    theta0 = jnp.asarray([1.0, -2.0, 0.5])
    tight = {"rtol": 1e-10, "atol": 1e-12}
    paths = [
        ide.solve(model, ide.Quadratic(), theta0, ts, method=ide.Markov(solver, **tight))
        for solver in (ide.ExponentialMultistep(6), dfx.Dopri8())
    ]
    np.testing.assert_allclose(paths[0].theta, paths[1].theta, rtol=0, atol=1e-8)
    for name, moment in paths[1].moments.items():
        size = np.abs(moment).max()
        np.testing.assert_allclose(paths[0].moments[name], moment, rtol=0, atol=1e-7 * size)


@pytest.mark.slow
def test_a_memory_faster_than_any_step_costs_no_more():
    """It does at the start, where its moment comes up from 0 in the first part of a step.

    Whether that matters no node can tell, only the two ends of the step: so the first steps are
    short, as many of them however fast the memory is.
    """
    method = ide.Markov(ide.ExponentialMultistep(4))

    def solved(fast, end):
        model = model_of(ide.SumOfExponentials([fast, 0.1], [fast, 0.1]), damped)
        return ide.solve(model, ide.Quadratic(), 1.0, np.array([0.0, end]), method=method)

    steps = lambda fast, end: int(solved(fast, end).stats["num_steps"])
    starts = [steps(fast, 1.0) for fast in (1.0, 1e4, 1e8)]
    rests = [steps(fast, 100.0) - n for fast, n in zip((1.0, 1e4, 1e8), starts, strict=True)]
    assert max(rests) < 1.3 * rests[0]
    assert starts[2] <= starts[1] < 40


@pytest.mark.slow
def test_a_memory_that_comes_up_within_the_first_step_is_seen():
    model = model_of(ide.SumOfExponentials([100.0, 0.1], [100.0, 0.1]), damped)
    ends = [
        ide.solve(model, ide.Quadratic(), 1.0, np.array([0.0, 100.0]), method=method).theta[-1]
        for method in (
            ide.Markov(ide.ExponentialMultistep(4), rtol=1e-6),
            ide.Markov(dfx.Dopri8(), rtol=1e-10, atol=1e-12, max_steps=100_000),
        )
    ]
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-6)


def test_a_direction_that_turns_over_in_the_last_gap_of_a_step_is_seen():
    """RMSProp with b = 0 goes by a sign: at one pace to the minimum, wherever the steps end."""
    starts, ts = jnp.linspace(1.0, 3.9, 64), jnp.linspace(0.0, 100.0, 401)
    method = ide.Markov(rtol=1e-4, atol=1e-6, max_gradients=None, steady_tol=None)

    def path(theta0):
        return ide.solve(ide.RMSProp(0.1, 0.0), ide.Quadratic(), theta0, ts, method=method).theta

    truth = jnp.minimum(starts[:, None] + 0.1 * ts[None], 4.0)
    np.testing.assert_allclose(jax.vmap(path)(starts), truth, rtol=0, atol=1e-5)


def test_saving_costs_no_gradient():
    method = ide.Markov(ide.ExponentialMultistep(3))
    run = lambda ts: ide.solve(ide.Adam(0.1), ide.Quadratic(), jnp.ones(1), ts, method=method)
    few, many = run([0.0, 60.0]), run(np.linspace(0.0, 60.0, 301))
    assert few.stats["num_gradients"] == many.stats["num_gradients"]
    np.testing.assert_allclose(few.theta[-1], many.theta[-1], rtol=1e-12)


def test_dense_output_events_and_progress_meters_of_diffrax_work():
    solution = integrate(
        ide.Adam(0.1),
        4,
        60.0,
        0.1,
        stepsize_controller=dfx.PIDController(rtol=1e-8, atol=1e-10),
        saveat=dfx.SaveAt(dense=True, t1=True),
        event=dfx.Event(lambda t, y, args, **_: jnp.sum(y.theta) - 3.0, optx.Newton(1e-10, 1e-10)),
        progress_meter=dfx.TextProgressMeter(),
    )
    assert solution.result == dfx.RESULTS.event_occurred
    np.testing.assert_allclose(solution.ys.theta[-1], 3.0, atol=1e-7)
    inside = np.linspace(0.0, float(solution.ts[-1]), 7)[1:-1]
    truth = ref.solve(ref.adam(0.1, 0.9, 0.999), ref.quadratic(), np.append(0.0, inside))[1:]
    dense = np.array([solution.evaluate(t).theta for t in inside])
    np.testing.assert_allclose(dense, truth, atol=1e-6)


def test_a_jump_starts_anew():
    # the learning rate jumps at s = 10: a past from before it would foretell nothing
    schedule = ide.Schedule(lambda s: jnp.where(s < 10.0, 0.1, 0.02))
    inner = dfx.PIDController(rtol=1e-9, atol=1e-11)
    controller = dfx.ClipStepSizeController(inner, jump_ts=jnp.asarray([10.0]))
    solution = integrate(ide.Adam(schedule), 5, 30.0, 0.1, stepsize_controller=controller)
    equation = ide.Equation(ide.Adam(schedule), ide.Quadratic())
    truth = dfx.diffeqsolve(
        equation.term(),
        dfx.Dopri8(),
        0.0,
        30.0,
        0.1,
        equation.init(jnp.ones(1)),
        stepsize_controller=dfx.ClipStepSizeController(
            dfx.PIDController(rtol=1e-11, atol=1e-13), jump_ts=jnp.asarray([10.0])
        ),
    )
    np.testing.assert_allclose(solution.ys.theta, truth.ys.theta, atol=1e-7)


def outcome(adjoint, rtol=1e-10):
    solver = ide.ExponentialMultistep(5)
    method = ide.Markov(solver, rtol=rtol, atol=rtol / 100, max_steps=512)

    def last(learning_rate, b1, b2, theta0):
        model = ide.Adam(learning_rate, b1, b2)
        path = ide.solve(
            model, ide.Quadratic(), theta0, [0.0, 40.0], method=method, adjoint=adjoint
        )
        return path.theta[-1]

    return last


POINT = (0.05, 0.9, 0.99, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("rtol", "direct_rtol"), [(1e-7, 1e-8), (1e-10, 1e-5)])
def test_adjoints_agree_with_each_other(rtol, direct_rtol):
    # The direct adjoint takes steps anew, which agrees in their sizes to about 1e-16 / rtol.
    at = tuple(jnp.asarray(x) for x in POINT)
    argnums = (0, 1, 2, 3)
    reverse = jax.jit(jax.grad(outcome(None, rtol), argnums))(*at)
    checkpoints = dfx.RecursiveCheckpointAdjoint(512)
    by_diffrax = jax.jit(jax.grad(outcome(checkpoints, rtol), argnums))(*at)
    direct = jax.jit(jax.grad(outcome(dfx.DirectAdjoint(), rtol), argnums))(*at)
    forward = jax.jit(jax.jacfwd(outcome(dfx.ForwardMode(), rtol), argnums))(*at)
    np.testing.assert_allclose(forward, by_diffrax, rtol=1e-12)
    others = [0, 1, 3]
    np.testing.assert_allclose(np.stack(forward)[others], np.stack(reverse)[others], rtol=1e-12)
    # That in b2 is a difference of two sums, each rounded, of which little is left.
    np.testing.assert_allclose(forward[2], reverse[2], rtol=1e-11)
    np.testing.assert_allclose(direct, reverse, rtol=direct_rtol)


@pytest.mark.slow
def test_the_adjoint_agrees_with_differences():
    at = tuple(jnp.asarray(x) for x in POINT)
    reverse = jax.jit(jax.grad(outcome(None), (0, 1, 2, 3)))(*at)
    run = jax.jit(outcome(None))
    for i, h in enumerate([1e-4, 1e-3, 1e-4, 1e-3]):
        shifted = lambda k, i=i, h=h: run(*(x + (k * h if j == i else 0) for j, x in enumerate(at)))
        central = (8 * (shifted(1) - shifted(-1)) - (shifted(2) - shifted(-2))) / (12 * h)
        np.testing.assert_allclose(central, reverse[i], rtol=1e-6)


def test_the_derivative_in_a_weight_decay_of_zero_is_that_by_scipy():
    method = ide.Markov(ide.ExponentialMultistep(4), rtol=1e-8, atol=1e-11)

    def last(decay):
        model = ide.Adam(0.01, weight_decay=decay)
        path = ide.solve(model, ide.Quadratic(), 1.0, np.array([0.0, 40.0]), method=method)
        return path.loss[-1]

    def right(decay):
        field = ref.adam_field(ref.adam(0.01, 0.9, 0.999), ref.quadratic())
        decayed = lambda s, y: field(s, y) - np.array([0.01 * decay * y[0], 0.0, 0.0])
        tight = {"rtol": 1e-12, "atol": 1e-16}
        theta = solve_ivp(decayed, (0.0, 40.0), [1.0, 0.0, 0.0], "DOP853", **tight).y[0, -1]
        return (theta - 4.0) ** 2

    known = (right(1e-3) - right(-1e-3)) / 2e-3
    np.testing.assert_allclose(jax.jit(jax.grad(last))(0.0), known, rtol=1e-6)


@pytest.mark.slow
def test_lanes_equal_single_runs_and_their_gradients_are_finite():
    run = outcome(None)
    rates = jnp.asarray([0.01, 0.05, 0.2])  # the lanes end after different numbers of steps
    both = jax.value_and_grad(lambda a: run(a, *map(jnp.asarray, POINT[1:])))
    values, slopes = jax.jit(jax.vmap(both))(rates)
    alone = [jax.jit(both)(rate) for rate in rates]
    np.testing.assert_allclose(values, [a[0] for a in alone], rtol=1e-13)
    np.testing.assert_allclose(slopes, [a[1] for a in alone], rtol=1e-9)


def test_single_precision_follows_double(float32):
    method = ide.Markov(ide.ExponentialMultistep(3), rtol=1e-4, atol=1e-6)
    ts = np.linspace(0.0, 300.0, 4)
    path = ide.solve(ide.Adam(0.01), ide.Quadratic(), jnp.ones(1), ts, method=method)
    assert path.theta.dtype == jnp.float32
    truth = ref.solve(ref.adam(0.01, 0.9, 0.999), ref.quadratic(), ts)
    np.testing.assert_allclose(path.theta, truth, rtol=1e-4)


@pytest.mark.parametrize("order", [1, 7, -3])
def test_an_order_that_there_is_not_is_refused(order):
    with pytest.raises(ValueError, match=r"Argument `order` must be one of \(2, 3, 4, 5, 6\)"):
        ide.ExponentialMultistep(order)


def test_a_term_of_another_equation_is_refused():
    with pytest.raises(ValueError, match="must be the term of an `idemodels.Equation`"):
        dfx.diffeqsolve(
            dfx.ODETerm(lambda t, y, args: -y), ide.ExponentialMultistep(), 0.0, 1.0, 0.1, 1.0
        )


def test_an_equation_of_second_order_is_refused():
    method = ide.Markov(ide.ExponentialMultistep())
    with pytest.raises(ValueError, match=r"`solver` .* SecondOrderAdam, but is Exponential"):
        ide.solve(ide.SecondOrderAdam(0.1), ide.Quadratic(), 1.0, [0.0, 1.0], method=method)


def test_one_compilation_serves_all_values():
    method = ide.Markov(ide.ExponentialMultistep(3))

    @eqx.filter_jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def last(model, theta0):
        return ide.solve(model, ide.Quadratic(), theta0, [0.0, 9.0], method=method).theta[-1]

    for rate, b1, b2 in [(0.1, 0.9, 0.999), (0.05, 0.0, 0.99), (0.01, 0.5, 0.9)]:
        last(ide.Adam(rate, b1, b2), jnp.ones(1))
