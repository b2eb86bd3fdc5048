"""Whole paths against independent solutions: every model and reading, and six objectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references as ref

import idemodels as ide

LOGISTIC = ide.LogisticRegression()
CURVATURE, MINIMUM = np.geomspace(1.0, 100.0, 5), 1.0 + np.arange(5) / 5
OBJECTIVES = {
    "quadratic": (ide.Quadratic(), ref.quadratic()),
    "double well": (ide.DoubleWell(), ref.double_well()),
    "rosenbrock": (ide.Rosenbrock(), ref.rosenbrock()),
    "5-D, condition 100": (
        ide.Quadratic(CURVATURE, MINIMUM),
        ref.quadratic(CURVATURE, MINIMUM, np.zeros(5)),
    ),
    "log cosh": (ide.LogCosh(), ref.log_cosh()),
    "logistic": (LOGISTIC, ref.logistic(np.asarray(LOGISTIC.x), np.asarray(LOGISTIC.y))),
}
TIGHT = ide.Markov(rtol=1e-10, atol=1e-12)
SIZE = 10


def _copies(objective, size):
    """The sum over as many copies as fill the parameters: each has the path of one alone."""
    rows = (-1, size) if size > 1 else (-1,)
    return lambda theta: jnp.sum(jax.vmap(objective)(theta.reshape(rows)))


_ALL = [_copies(objective, loss.theta0.size) for objective, loss in OBJECTIVES.values()]


def any_of_them(theta, number):
    """Every objective, so that one program serves them all."""
    return jax.lax.switch(number, _ALL, theta)


def adams(alpha):
    for b1, b2 in ((0, 0.99), (0, 0.999), (0.9, 0.99), (0.9, 0.999), (0.99, 0.999)):
        for rate in ("paper", "matched") if b1 else ("paper",):
            name = f"Adam {rate} {alpha} {b1} {b2}"
            model = ide.Adam(alpha, b1, b2, rate=rate)
            yield name, model, ref.adam(alpha, b1, b2, rate), round(10 / alpha)


def rmsprops(alpha, reading):
    for b in (0, 0.9, 0.99):
        for rate in ("paper", "matched") if b else ("paper",):
            name = f"RMSProp {reading} {rate} {alpha} {b}"
            model = ide.RMSProp(alpha, b, reading=reading, rate=rate)
            yield name, model, ref.rmsprop(alpha, b, reading, rate), 100 if alpha == 0.1 else 500


def adagrad(alpha, reading):
    model = ide.AdaGrad(alpha, reading=reading)
    rule = ref.adagrad(alpha, reading)
    yield f"AdaGrad {reading} {alpha}", model, rule, 1500 if alpha == 0.1 else 15000


def cases():
    for alpha in (0.1, 0.01):
        yield from adams(alpha)
        for reading in ("closure", "causal"):
            yield from rmsprops(alpha, reading)
            yield from adagrad(alpha, reading)


CASES = {name: rest for name, *rest in cases()}


def errors(objective_name, case_name, alone):
    """The largest errors at the tight tolerance and, over the path's range, at 1e-6, by default.

    That of the default is 0 where it says itself that it has not converged.

    - `alone`: whether the objective is given as it is, and not as one of them all.
    """
    objective, loss = OBJECTIVES[objective_name]
    number = jnp.asarray(list(OBJECTIVES).index(objective_name))
    model, rule, steps = CASES[case_name]
    # the start, where the equation is 0/0 or singular, and then the whole path
    ts = np.concatenate([[0.0, 1e-3, 0.03, 0.3, 0.5], np.linspace(0.0, steps, 97)[1:]])
    truth = np.tile(ref.solve(rule, loss, ts), 1 if alone else SIZE // loss.theta0.size)
    theta0 = jnp.asarray(truth[0] if truth.shape[1] > 1 else truth[0, 0])
    given = model, objective if alone else any_of_them, theta0, jnp.asarray(ts)

    def error(method, bounded=False):
        path = ide.solve(*given, args=None if alone else number, method=method)
        known = not bounded or bool(path.stats["converged"])
        return np.abs(np.asarray(path.theta).reshape(truth.shape) - truth).max() * known

    size = np.abs(truth - truth[0]).max()
    middle = error(ide.Markov(rtol=1e-6, steady_tol=None)) / size
    return error(TIGHT), middle, error(ide.Markov(), True) / size


def check(objective_name, case_name, alone=False):
    tight, middle, default = errors(objective_name, case_name, alone)
    assert tight <= 1e-8
    assert middle <= 1e-4
    assert default <= 10 * ide.Markov().rtol


# What compiles as one program, on two objectives and more, each of which has every optimizer.
SLOW = {
    "Adam paper": ("quadratic", "rosenbrock", "5-D, condition 100"),
    "Adam matched": ("double well", "log cosh", "logistic"),
    "RMSProp closure paper": ("quadratic", "5-D, condition 100"),
    "RMSProp closure matched": ("rosenbrock", "logistic"),
    "RMSProp causal paper": ("double well", "5-D, condition 100"),
    "RMSProp causal matched": ("rosenbrock", "log cosh"),
    "AdaGrad closure": ("quadratic", "double well", "logistic"),
    "AdaGrad causal": ("rosenbrock", "5-D, condition 100", "log cosh"),
}


def test_every_path_has_its_slow_cases():
    kinds = [kind for name in CASES for kind in SLOW if name.startswith(f"{kind} ")]
    assert len(kinds) == len(CASES)
    for optimizer in ("Adam", "RMSProp", "AdaGrad"):
        met = [on for kind, on in SLOW.items() if kind.startswith(optimizer)]
        assert set().union(*met) == set(OBJECTIVES), optimizer


# The slow test has the first of these too.
QUICK = [
    ("quadratic", "Adam paper 0.1 0.9 0.999"),
    ("quadratic", "RMSProp causal paper 0.1 0.99"),
]


@pytest.mark.parametrize(("objective", "case"), QUICK)
def test_a_path_agrees_with_an_independent_solution(objective, case):
    check(objective, case, alone=True)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "objective"), [(k, on) for k, ons in SLOW.items() for on in ons])
def test_every_path_agrees_with_an_independent_solution(kind, objective):
    for name in [name for name in CASES if name.startswith(f"{kind} ")]:
        check(objective, name)
