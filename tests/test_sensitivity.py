"""Derivatives of a run, held against difference quotients of solutions that share no code."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references as ref

import idemodels as ide

ALPHA, B1, B2, STEPS = 0.01, 0.9, 0.999, 400


def quotient(f, x, h):
    """The derivative of `f` at `x`, by a central difference of fourth order."""
    return (f(x - 2 * h) - 8 * f(x - h) + 8 * f(x + h) - f(x + 2 * h)) / (12 * h)


def equation_loss(values, at=STEPS, theta0=1.0):
    """(E4) by SciPy, in which nothing is ours."""
    loss = ref.quadratic(theta0=theta0)
    rule = ref.adam(values["learning_rate"], values["b1"], values["b2"])
    return (ref.solve(rule, loss, np.array([0.0, at]))[-1, 0] - 4.0) ** 2


def discrete_loss(values, at=STEPS, theta0=1.0):
    """Adam by hand."""
    theta, m, v = theta0, 0.0, 0.0
    for k in range(1, at + 1):
        g = 2.0 * (theta - 4.0)
        m = values["b1"] * m + (1 - values["b1"]) * g
        v = values["b2"] * v + (1 - values["b2"]) * g * g
        mean, square = m / (1 - values["b1"] ** k), v / (1 - values["b2"] ** k)
        theta -= values["learning_rate"] * mean / (np.sqrt(square) + 1e-8)
    return (theta - 4.0) ** 2


@pytest.fixture(scope="module")
def adam():
    wrt = ("learning_rate", "b1", "b2", "theta0")
    return ide.sensitivity(ide.Adam(ALPHA, B1, B2), ide.Quadratic(), 1.0, STEPS, wrt=wrt)


@pytest.mark.parametrize(
    ("side", "loss", "rtol"), [("equation", equation_loss, 1e-6), ("discrete", discrete_loss, 1e-8)]
)
def test_a_derivative_is_that_of_an_independent_run(adam, side, loss, rtol):
    values = {"learning_rate": ALPHA, "b1": B1, "b2": B2}
    found = getattr(adam, side)
    np.testing.assert_allclose(found.value, loss(values), rtol=1e-8)
    for name, h in (("learning_rate", 1e-5), ("b1", 1e-4), ("b2", 1e-6)):
        true = quotient(lambda x, name=name: loss(values | {name: x}), values[name], h)
        np.testing.assert_allclose(found.gradient[name], true, rtol=rtol, err_msg=name)
        np.testing.assert_allclose(found.difference[name], true, rtol=rtol, err_msg=name)
    true = quotient(lambda x: loss(values, theta0=x), 1.0, 1e-3)
    np.testing.assert_allclose(found.gradient["theta0"], true, rtol=rtol)
    true = quotient(lambda x: loss(values | {"b2": x}, 200), B2, 1e-6)
    at = np.flatnonzero(np.asarray(adam.ts) == 200)[0]
    np.testing.assert_allclose(found.loss_gradient["b2"][at], true, rtol=rtol)


def test_equation_and_discrete_run_differ_little(adam):
    for name, apart in adam.apart.items():
        assert 1e-4 < apart < 0.02, name
    assert max(adam.equation.error.values()) < 1e-6
    assert max(adam.discrete.error.values()) < 1e-8
    assert adam.rtol == 1e-9
    told = str(adam).splitlines()
    assert told[1].split() == [
        "d",
        "outcome",
        "/",
        "d",
        "equation",
        "its",
        "difference",
        "discrete",
        "apart",
    ]
    assert told[4].startswith("b2 ")


def test_both_modes_agree(adam):
    method = ide.Markov(rtol=1e-9, atol=1e-12)

    def last(values):
        model = ide.Adam(**values)
        return ide.solve(model, ide.Quadratic(), 1.0, adam.ts, method=method).loss[-1]

    gradient = jax.jit(jax.grad(last))({"learning_rate": ALPHA, "b1": B1, "b2": B2})
    for name, g in gradient.items():
        np.testing.assert_allclose(adam.equation.gradient[name], g, rtol=1e-8, err_msg=name)


@pytest.mark.slow
def test_second_derivatives_by_forward_mode_twice():
    method = ide.Markov(rtol=1e-9, atol=1e-12)
    at = jnp.array([ALPHA, B2, 0.6])  # at 1 the double well is flat, and all derivatives are 0
    steps = 3e-5, 3e-6, 3e-4  # three times as long, and the quotient's own error is 1e-5

    def last(x):
        given = ide.Adam(x[0], b2=x[1]), ide.DoubleWell(), x[2]
        options = {"method": method, "adjoint": dfx.ForwardMode()}
        return ide.solve(*given, np.array([0.0, 60.0]), **options).loss[-1]

    def twice(x):
        slope = jax.jacfwd(last)(x)
        return slope, slope

    both = jax.jit(jax.jacfwd(twice, has_aux=True))  # one program for the quotients too
    gradient = lambda x: both(x)[1]
    hessian, _ = both(at)
    assert jnp.all(jnp.abs(hessian) > 1e-3)
    for i, h in enumerate(steps):
        row = quotient(lambda x, i=i: gradient(at.at[i].set(x)), at[i], h)
        np.testing.assert_allclose(hessian[i], row, rtol=1e-5)


MODELS = {
    "adam": (ide.Adam(0.01, l2=0.1, weight_decay=0.1), ("learning_rate", "b1", "l2")),
    "matched": (ide.Adam(0.01, rate="matched"), ("b1", "b2", "weight_decay")),
    "rmsprop": (ide.RMSProp(0.01, eps=0.1), ("learning_rate", "decay", "eps")),
    "causal": (ide.RMSProp(0.01, reading="causal"), ("learning_rate", "decay")),
    "advanced": (ide.RMSProp(0.01, reading="advanced"), ("learning_rate", "decay")),
    "adagrad": (ide.AdaGrad(0.1, lr_decay=0.01), ("learning_rate", "lr_decay", "theta0")),
    "second order": (ide.SecondOrderAdam(0.01, 0.9, 0.99), ("learning_rate", "velocity0", "b2")),
}
OBJECTIVES = {
    "quadratic": (ide.Quadratic(), 1.0),
    "double well": (ide.DoubleWell(), 0.3),
    # no component of the gradient is 0 there
    "rosenbrock": (ide.Rosenbrock(), np.array([-1.2, 1.0])),
    "logistic": (ide.LogisticRegression(), None),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("adam", "rosenbrock"),
        ("matched", "double well"),
        ("rmsprop", "logistic"),
        ("causal", "quadratic"),
        ("advanced", "double well"),
        ("adagrad", "rosenbrock"),
        ("second order", "logistic"),
    ],
)
def test_every_model_agrees_with_its_differences(name, objective):
    (model, wrt), (loss, theta0) = MODELS[name], OBJECTIVES[objective]
    theta0 = loss.theta0 if theta0 is None else jnp.asarray(theta0)
    found = ide.sensitivity(model, loss, theta0, 40, wrt=wrt)
    for name in wrt:
        assert found.equation.error[name] < 1e-5, name
        assert found.discrete.error[name] < 1e-5, name


TIGHT = {"rtol": 1e-9, "atol": 1e-12}
METHODS = {
    "Tsit5": (ide.Adam(0.01), ("learning_rate", "b1", "b2"), ide.Markov(dfx.Tsit5(), **TIGHT)),
    "Dopri8, causal": (
        ide.RMSProp(0.01, reading="causal"),
        ("learning_rate", "decay"),
        ide.Markov(dfx.Dopri8(), **TIGHT),
    ),
    "multistep": (
        ide.AdaGrad(0.1),
        ("learning_rate", "theta0"),
        ide.Markov(ide.ExponentialMultistep(4), **TIGHT),
    ),
    "history": (ide.Adam(0.01), ("learning_rate", "b1", "b2"), ide.History()),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("Tsit5", "logistic"),
        ("Dopri8, causal", "rosenbrock"),
        ("multistep", "double well"),
        ("history", "quadratic"),
    ],
)
def test_every_method_agrees_with_its_differences(name, objective):
    (model, wrt, method), (loss, theta0) = METHODS[name], OBJECTIVES[objective]
    theta0 = loss.theta0 if theta0 is None else jnp.asarray(theta0)
    found = ide.sensitivity(model, loss, theta0, 40, wrt=wrt, method=method)
    assert max(found.equation.error.values()) < 1e-5


@pytest.mark.slow
def test_any_outcome_of_arrays_and_of_what_has_a_path():
    wrt = ("objective.minimum", "theta0", "model.learning_rate")
    given = ide.Adam(0.05), ide.Quadratic(minimum=jnp.array([4.0, 2.0])), jnp.array([1.0, 0.5])
    outcome = lambda path: jnp.sum(path.theta[20] ** 2) + path.loss[-1]
    found = ide.sensitivity(*given, 60, outcome, wrt, ts=[20, 40])
    np.testing.assert_array_equal(found.ts, [0, 20, 40, 60])
    assert max(found.equation.error.values()) < 1e-6
    assert max(found.discrete.error.values()) < 1e-6
    gradient, h = found.discrete.gradient["theta0"], 1e-4

    def moved(i, by):
        run = ide.run_discrete(*given[:2], given[2].at[i].add(by), 60, ts=[0, 20, 40, 60])
        return float(outcome(run))

    for i in range(2):
        true = quotient(lambda x, i=i: moved(i, x), 0.0, h)
        np.testing.assert_allclose(gradient[i], true, rtol=1e-6)


def test_a_kernel_without_finitely_many_states_has_no_discrete_run():
    kernel = ide.FunctionKernel(lambda s: 0.1 * jnp.exp(-0.1 * s))
    memories = {"m": ide.Memory(kernel, feature=lambda g: g)}
    model = ide.MemoryModel(memories, lambda s, theta, g, moments: moments["m"], 0.05)
    with pytest.raises(ValueError, match="finitely many states"):
        ide.sensitivity(model, ide.Quadratic(), 1.0, 20, wrt="learning_rate")


@pytest.mark.slow
def test_an_eps_of_the_usual_size_has_a_derivative():
    found = ide.sensitivity(ide.RMSProp(0.01), ide.Quadratic(), 1.0, 40, wrt="eps")
    assert found.equation.error["eps"] < 1e-5
    assert found.discrete.error["eps"] < 1e-5


@pytest.mark.slow
def test_a_start_where_a_component_of_the_gradient_is_zero_has_a_derivative():
    # of both sides: optax alone differentiates the root of 0 there
    given = ide.RMSProp(0.01, reading="causal"), ide.Rosenbrock(), jnp.array([-1.0, 1.0]), 20
    found = ide.sensitivity(*given, wrt="learning_rate")
    assert found.equation.error["learning_rate"] < 1e-6
    assert found.discrete.error["learning_rate"] < 1e-6


def test_a_solve_that_fails_raises_with_advice():
    method = ide.Markov(dfx.Tsit5(), max_steps=3)
    with pytest.raises(RuntimeError, match="not solved up to the last step.*max_steps"):
        ide.sensitivity(ide.Adam(0.1), ide.Quadratic(), 1.0, 50, wrt="b2", method=method)


def test_the_other_mode_is_told_by_name():
    def last(rate, adjoint=None):
        method = ide.Markov(dfx.Tsit5())
        given = ide.Adam(rate), ide.Quadratic(), 1.0, np.array([0.0, 5.0])
        return ide.solve(*given, method=method, adjoint=adjoint, throw=False).loss[-1]

    with pytest.raises(TypeError, match=r"forward mode .* but is None.*diffrax.ForwardMode\(\)"):
        jax.jvp(last, (0.01,), (1.0,))
    with pytest.raises(RuntimeError, match="reverse mode .* but is diffrax.ForwardMode"):
        jax.grad(lambda rate: last(rate, dfx.ForwardMode()))(0.01)


WRONG = [
    ({"wrt": ("learning_rat",)}, "must have names of what there is.*Did you mean 'learning_rate'"),
    ({"wrt": ()}, "`wrt` must be names"),
    ({"wrt": (1,)}, "`wrt` must be names"),
    ({"wrt": ("b2", "b2")}, "each of them once"),
    ({"model": ide.Adam(0.1, b1=0.0)}, "must not have 'b1' where it is 0"),
    ({"outcome": lambda path: path.loss}, r"`outcome` must return a real scalar.*\(11,\)"),
    ({"steps": 0}, "`steps` must be a positive integer, but is 0"),
    ({"ts": [5, 0]}, "`ts` must be increasing integers from 0 to 10"),
    ({"rtol": 2.0}, r"`rtol` must lie in \(0, 1\), but is 2.0"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_wrong_argument_is_named(options, message):
    given = {"model": ide.Adam(0.1), "objective": ide.Quadratic(), "theta0": 1.0, "steps": 10}
    with pytest.raises(ValueError, match=message):
        ide.sensitivity(**given | options)


@pytest.mark.slow
def test_a_derivative_that_means_nothing_is_told():
    jumps = lambda path: path.loss[-1] + jnp.round(1e4 * path.loss[-1])
    with pytest.warns(UserWarning, match="away from its central difference"):
        ide.sensitivity(ide.Adam(0.01), ide.Quadratic(), 1.0, 50, jumps, "learning_rate")
