"""Every bad input names the argument, what it must be, and what it was."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import idemodels as ide

TS = np.linspace(0.0, 10.0, 5)
QUADRATIC = ide.Quadratic()


def solve(model=None, objective=QUADRATIC, theta0=1.0, ts=TS, **options):
    return ide.solve(ide.Adam(0.1) if model is None else model, objective, theta0, ts, **options)


def power_law(**options):
    memory = ide.Memory(ide.PowerLaw(0.5), lambda g: g**2, debias=True, **options)
    return ide.MemoryModel({"v": memory}, lambda s, theta, g, moments: g, 0.1)


CONSTRUCTORS = {
    "b1 above": (lambda: ide.Adam(0.1, b1=1.2), r"`b1` must lie in \[0, 1\), but is 1.2"),
    "b2 at one": (lambda: ide.Adam(0.1, b2=1.0), r"`b2` must lie in \[0, 1\), but is 1.0"),
    "decay below": (lambda: ide.RMSProp(0.1, -0.1), r"`decay` must lie in \[0, 1\), but is -0.1"),
    "decay nan": (lambda: ide.RMSProp(0.1, float("nan")), r"`decay` must lie .* but is nan"),
    "matched zero": (
        lambda: ide.Adam(0.1, b1=0.0, rate="matched"),
        "`b1` must be positive for rate='matched', .* but is 0. Use rate='paper'",
    ),
    "rate zero": (lambda: ide.Adam(0.0), "`learning_rate` must be positive and finite, but is 0.0"),
    "rate below": (lambda: ide.AdaGrad(-1), "`learning_rate` must be positive .* but is -1.0"),
    "rate inf": (lambda: ide.Adam(float("inf")), "`learning_rate` must be positive and finite"),
    "rate text": (lambda: ide.Adam("fast"), "`learning_rate` must be a number, but is 'fast'"),
    "rate array": (lambda: ide.Adam(np.ones(3)), r"must be a scalar, but has shape \(3,\).*vmap"),
    "eps": (lambda: ide.RMSProp(0.1, eps=0.0), "`eps` must be positive and finite, but is 0.0"),
    "l2": (lambda: ide.Adam(0.1, l2=float("nan")), "`l2` must be finite, but is nan"),
    "lr_decay": (lambda: ide.AdaGrad(0.1, lr_decay=-1), "`lr_decay` must not be negative"),
    "reading": (
        lambda: ide.RMSProp(0.1, reading="causel"),
        "`reading` must be one of 'causal', 'closure', 'advanced', but is 'causel'. Did you mean "
        "'causal'",
    ),
    "rate name": (
        lambda: ide.Adam(0.1, rate="match"),
        "`rate` must be one of 'paper', 'matched', but is 'match'. Did you mean 'matched'",
    ),
    "reading of Adam": (
        lambda: ide.Adam(0.1, reading="closure"),
        "`reading` must be one of 'causal', 'advanced', but is 'closure'",
    ),
    "second order zero": (
        lambda: ide.SecondOrderAdam(0.1, b1=0.0),
        r"`b1` must lie in \(0, 1\), but is 0.0",
    ),
    "second order one": (
        lambda: ide.SecondOrderAdam(0.1, b2=1.0),
        r"`b2` must lie in \(0, 1\), but is 1.0",
    ),
    "velocity": (
        lambda: ide.SecondOrderAdam(0.1, velocity0=np.inf),
        "`velocity0` must be finite, but is inf",
    ),
    "tol": (lambda: ide.FixedPoint(tol=0.0), "`tol` must be a positive number, but is 0.0"),
    "residual_tol": (lambda: ide.FixedPoint(residual_tol=-1), "`residual_tol` must be a positive"),
    "extension": (lambda: ide.FixedPoint(extension="2"), "`extension` must be a positive number"),
    "elements": (lambda: ide.FixedPoint(elements=0), "`elements` must be a positive integer, .* 0"),
    "max_sweeps": (lambda: ide.FixedPoint(max_sweeps=1.5), "`max_sweeps` must be a positive int"),
    "memories": (
        lambda: ide.MemoryModel([ide.Constant()], lambda s, theta, g, moments: g, 0.1),
        r"`memories` must be a dict from names to `idemodels.Memory`, but is \[",
    ),
    "memory": (
        lambda: ide.MemoryModel({"v": ide.Constant()}, lambda s, theta, g, moments: g, 0.1),
        "`memories` must be a dict from names to `idemodels.Memory`, but has 'v': Constant",
    ),
    "direction": (
        lambda: ide.MemoryModel({}, 3, 0.1),
        r"`direction` must be callable, `direction\(s, theta, g, moments\)`, but is 3",
    ),
    "transform": (
        lambda: ide.MemoryModel({}, lambda s, theta, g, moments: g, 0.1, transform=1.0),
        r"`transform` must be callable, `transform\(g\)`, but is 1.0",
    ),
    "kernel": (
        lambda: ide.Memory(lambda lag: lag, lambda g: g),
        r"`kernel` must be a kernel such as .*`idemodels.FunctionKernel\(f\)`",
    ),
    "feature": (lambda: ide.Memory(ide.Constant(), 2), "`feature` must be callable, but is 2"),
    "ahead": (
        lambda: ide.Memory(ide.Constant(), lambda g: g, ahead=2),
        "`ahead` must be 0 or 1, but is 2",
    ),
    "kernel rate": (lambda: ide.Exponential(0.0), "`rate` must be positive and finite, but is 0.0"),
    "rtol": (lambda: ide.Markov(rtol=0.0), "`rtol` must be a positive number, but is 0.0"),
    "max_gradients": (
        lambda: ide.Markov(max_gradients=1.0),
        "`max_gradients` must be at least 3 gradients a step, 'rtol' or None, but is 1.0",
    ),
    "steady_tol": (
        lambda: ide.Markov(steady_tol="tol"),
        "`steady_tol` must be a positive number, 'rtol' or None, but is 'tol'",
    ),
    "atol": (lambda: ide.Markov(atol=-1.0), "`atol` must be a positive number, but is -1.0"),
    "max_steps": (lambda: ide.Markov(max_steps=0), "`max_steps` must be a positive integer, .* 0"),
    "solver": (lambda: ide.Markov(dfx.Tsit5), "`solver` must be a diffrax solver.*parentheses"),
    "schedule": (lambda: ide.Schedule(3), "`function` must be callable, but is 3"),
    "x alone": (lambda: ide.LinearRegression(x=np.ones(3)), "together, but `y` is None"),
    "x and y": (
        lambda: ide.LogisticRegression(np.ones((3, 2)), np.ones(4)),
        r"must have shapes \(n, d\) and \(n,\), but have \(3, 2\) and \(4,\)",
    ),
}


@pytest.mark.parametrize(("make", "message"), CONSTRUCTORS.values(), ids=CONSTRUCTORS)
def test_a_constructor_names_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


SOLVES = {
    "ts from": (dict(ts=[1.0, 2.0]), "`ts` must start at 0, but starts at 1.0.*state0"),
    "ts order": (dict(ts=[0.0, 2.0, 2.0]), "strictly increasing, but has 2.0 before 2.0"),
    "ts nan": (dict(ts=[0.0, np.nan]), "`ts` must be finite, but has nan"),
    "ts shape": (dict(ts=3.0), r"`ts` must have shape \(T,\) with T > 0, but has shape \(\)"),
    "ts empty": (dict(ts=np.zeros(0)), r"`ts` must have shape .* but has shape \(0,\)"),
    "ts complex": (dict(ts=TS * 1j), "`ts` must be real"),
    "theta0 integers": (
        dict(theta0=jnp.arange(3)),
        "`theta0` must have floating arrays, but has only an array of type int64.*astype",
    ),
    "theta0 empty": (dict(theta0={}), "`theta0` must have floating arrays, but is empty"),
    "theta0 None": (dict(theta0={"a": None}), "floating arrays, but has no leaves but None"),
    "theta0 of no size": (
        dict(theta0=jnp.zeros((0, 3))),
        r"floating arrays, but has empty ones only, of shape \(0, 3\)",
    ),
    "adjoint word": (dict(adjoint="forward"), "`adjoint` must be None, .* but is 'forward'"),
    "adjoint class": (
        dict(adjoint=dfx.ForwardMode),
        r"`adjoint` must be None, `diffrax.ForwardMode\(\)`, .* but is <class",
    ),
    "adjoint of its own": (
        dict(adjoint=dfx.BacksolveAdjoint()),
        "`adjoint` must be None, .* but is BacksolveAdjoint",
    ),
    "state0 of optax": (
        dict(state0=(1, 2)),
        r"`state0` must be an `idemodels.State` or None, but is \(1, 2\). Write",
    ),
    "rate as an index": (
        dict(model=ide.Adam(lambda step: jnp.asarray([0.1, 0.2])[step])),
        r"`learning_rate` must be a function of a floating step.*`rates\[step.astype\(int\)\]`",
    ),
    "rate of a shape": (
        dict(model=ide.Adam(lambda step: jnp.full(2, 0.1))),
        r"`learning_rate` must .* returns a scalar, but returns an array of shape \(2,\)",
    ),
    "rate None": (
        dict(model=ide.Adam(lambda step: None)),
        "`learning_rate` must .* returns a scalar, but returns None",
    ),
    "theta0 floats": (
        dict(theta0={"a": 1.0}),
        r"`theta0` must have floating arrays, but has only a float.*`jnp.asarray\(1.0\)`",
    ),
    "theta0 complex": (dict(theta0=jnp.ones(2, complex)), "`theta0` must be real, .* complex128"),
    "objective vector": (
        dict(objective=lambda theta: theta, theta0=jnp.ones(2)),
        r"`objective` must return a real scalar, but returns shape \(2,\).*`.sum\(\)`, or `.mean",
    ),
    "objective integer": (
        dict(objective=lambda theta: jnp.sum(theta).astype(int)),
        r"`objective` must return a real scalar, but returns shape \(\) of type int64",
    ),
    "objective nothing": (dict(objective=lambda theta: None), "real scalar, but returns None"),
    "objective number": (dict(objective=3.0), "`objective` must be callable"),
    "gradient": (
        dict(objective=lambda theta: jnp.sum(jnp.sqrt(theta)), theta0=jnp.array([1.0, -1.0])),
        r"must have a finite gradient at `theta0`, but has nan there \(1 of 2 components",
    ),
    "model": (dict(model=optax.adam(0.1)), "`model` must be a model such as"),
    "method for advanced": (
        dict(model=ide.RMSProp(0.1, reading="advanced"), method=ide.Markov()),
        r"`method` must be one that solves the equation of this model, RMSProp, which reads 'v' at "
        r"s \+ 1, but is Markov. Use `idemodels.FixedPoint\(\)`",
    ),
    "method for causal": (
        dict(model=ide.AdaGrad(0.1, reading="causal"), method=ide.History()),
        r"AdaGrad, whose velocity is infinite at s = 0, but is History. Use `idemodels.Markov\(\)`",
    ),
    "method for Adam": (
        dict(method=ide.FixedPoint()),
        r"Adam, but is FixedPoint. Use `idemodels.Markov\(\)` or `idemodels.History\(\)`",
    ),
    "method for a power law": (
        dict(model=power_law(), method=ide.Markov()),
        r"MemoryModel, whose 'v' has the kernel PowerLaw without finitely many states, but is "
        r"Markov. Use `idemodels.History\(\)`",
    ),
    "no method": (
        dict(model=power_law(ahead=1)),
        r"but is Markov. No method does: replace its kernel by `idemodels.fit_exponentials",
    ),
    "direction's structure": (
        dict(model=ide.MemoryModel({}, lambda s, theta, g, moments: (g, g), 0.1)),
        "`direction` must return a pytree like `theta`",
    ),
    "method": (
        dict(method=dfx.Tsit5()),
        r"`method` must be a method such as `idemodels.Markov\(\)`.*Markov\(Tsit5\(\)\)",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), SOLVES.values(), ids=SOLVES)
def test_solve_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve(**arguments)


DISCRETE = {
    "steps": (dict(steps=-1), "`steps` must be an integer, 0 or more, but is -1"),
    "steps float": (dict(steps=1.5), "`steps` must be an integer, 0 or more, but is 1.5"),
    "ts between": (dict(steps=3, ts=[0.5]), "increasing integers from 0 to 3 .* but has 0.5"),
    "ts beyond": (dict(steps=3, ts=[0, 4]), "increasing integers from 0 to 3 .* but spans 0 to 4"),
    "ts order": (dict(steps=3, ts=[1, 1]), "increasing integers .* but does not increase"),
    "ts empty": (dict(steps=3, ts=[]), r"increasing integers .* but has shape \(0,\)"),
    "model": (dict(steps=3, model="adam"), "`model` must be a model such as .*, but is 'adam'"),
}


@pytest.mark.parametrize(("arguments", "message"), DISCRETE.values(), ids=DISCRETE)
def test_run_discrete_names_what_is_wrong(arguments, message):
    options = {"model": ide.Adam(0.1), "objective": QUADRATIC, "theta0": 1.0} | arguments
    with pytest.raises(ValueError, match=message):
        ide.run_discrete(**options)


def test_a_resumed_path_starts_where_the_state_stands():
    path = solve()
    with pytest.raises(
        ValueError, match=r"`ts` must start at 10.0, the `s` of `state0`, but .* 3.0"
    ):
        solve(ts=[3.0, 12.0], state0=path.state_at(-1))
    with pytest.raises(IndexError, match=r"`k` must lie in \[-5, 5\), but is 5"):
        path.state_at(5)


def test_a_foreign_optimizer_state_is_refused():
    state = optax.sgd(0.1).init(jnp.ones(1))
    with pytest.raises(ValueError, match="twin of Adam, in a ScaleByAdamState, but is tuple"):
        ide.state_from_optax(ide.Adam(0.1), state)


def test_a_memory_without_states_has_no_discrete_step_and_no_ode():
    with pytest.raises(
        ValueError, match=r"for `.optax\(\)`, but 'v' has PowerLaw.*fit_exponential"
    ):
        power_law().optax()
    with pytest.raises(
        ValueError, match=r"'v' has PowerLaw. Use the method `idemodels.History\(\)"
    ):
        ide.Equation(power_law(), QUADRATIC).init(jnp.ones(1))


def test_an_advanced_equation_is_no_ode():
    equation = ide.Equation(ide.RMSProp(0.1, reading="advanced"), QUADRATIC)
    with pytest.raises(
        ValueError, match=r"reads 'v' at s \+ 1, which no ODE does.*`FixedPoint|Fix"
    ):
        equation.init(jnp.ones(1))


def test_the_twin_of_a_memory_model_wants_the_parameters():
    model = ide.MemoryModel({}, lambda s, theta, g, moments: g, 0.1)
    with pytest.raises(ValueError, match=r"`params` must be given to `update`"):
        model.optax().update(jnp.ones(1), model.optax().init(jnp.ones(1)))
    with pytest.raises(ValueError, match="must have kernels with finitely many states"):
        ide.state_from_optax(power_law(), optax.sgd(0.1).init(jnp.ones(1)))
    with pytest.raises(ValueError, match="`model` must be of first order, but is SecondOrderAdam"):
        ide.state_from_optax(ide.SecondOrderAdam(0.1), optax.adam(0.1).init(jnp.ones(1)))


def test_compare_wants_the_same_steps_and_parameters():
    path = ide.Trajectory.from_arrays(TS, np.ones((5, 2)))
    longer = ide.Trajectory.from_arrays(np.arange(6.0), np.ones((6, 2)))
    with pytest.raises(ValueError, match=r"at the same steps `ts`, but have 5 and 6 of them"):
        ide.compare(path, longer)
    shifted = ide.Trajectory.from_arrays(TS + 1.0, np.ones((5, 2)))
    with pytest.raises(ValueError, match=r"but have 0.0 and 1.0 at index 0.*`ts=discrete.ts`"):
        ide.compare(path, shifted)
    other = ide.Trajectory.from_arrays(TS, np.ones((5, 3)))
    with pytest.raises(ValueError, match="parameters of the same structure"):
        ide.compare(path, other)
    with pytest.raises(ValueError, match="`discrete` must be a Trajectory, but is 3"):
        ide.compare(path, 3)
    with pytest.raises(
        ValueError, match=r"leading axis of 5, .* but have an array of shape \(4,\)"
    ):
        ide.Trajectory.from_arrays(TS, np.ones(4))


def test_compare_tells_the_solvers_error_from_the_models():
    ts = np.arange(51.0)
    run = ide.run_discrete(ide.Adam(0.1), QUADRATIC, 1.0, 50)
    path = solve(ts=ts, method=ide.Markov(rtol=1e-7))
    again = solve(ts=ts, method=ide.Markov(rtol=1e-6))
    comparison = ide.compare(path, run, recheck=again)
    assert 0 < comparison.solver_error < 0.1 * comparison.max_error
    rough = solve(ts=ts, method=ide.Markov(dfx.Euler()))
    with pytest.warns(UserWarning, match="exceeds a tenth of the distance .* Lower `rtol`"):
        ide.compare(path, run, recheck=rough)


def test_running_out_of_steps_is_a_value_with_advice():
    method = ide.Markov(max_steps=5)
    with pytest.raises(RuntimeError, match=r"stopped at s = .* of 10.*`max_steps`.*throw=False"):
        solve(method=method)
    path = solve(method=method, throw=False)
    assert path.result == ide.RESULTS.max_steps_reached
    assert not ide.is_okay(path.result)
    reached = TS <= path.last.s
    np.testing.assert_array_equal(np.isfinite(path.theta), reached)
    np.testing.assert_array_equal(np.isfinite(path.loss), reached)
    np.testing.assert_array_equal(np.isfinite(path.moments["v"]), reached)
    whole = solve()
    np.testing.assert_allclose(path.theta[reached], whole.theta[reached], rtol=1e-12)


def test_a_diverging_path_is_a_value_with_advice():
    model = ide.Adam(0.1, weight_decay=-40.0)  # grows like exp(4 s)
    with pytest.raises(RuntimeError, match="diverged: theta grew beyond 1e8.*`weight_decay`"):
        solve(model)
    path = solve(model, throw=False)
    assert path.result == ide.RESULTS.diverged
    assert jnp.isnan(path.theta[-1])


def test_a_gradient_that_becomes_nan_is_a_value_with_advice():
    objective = lambda theta: jnp.sqrt(theta)  # not defined below 0, which is where it leads
    with pytest.raises(RuntimeError, match="gradient became NaN or infinite.*throw=False"):
        solve(objective=objective, theta0=0.5)
    path = solve(objective=objective, theta0=0.5, throw=False)
    assert path.result == ide.RESULTS.nonfinite_gradient
    assert jnp.isnan(path.theta[-1])
    assert jnp.isfinite(path.last.theta)


def test_a_discrete_run_that_becomes_nan_says_so():
    run = ide.run_discrete(optax.sgd(0.4), lambda theta: jnp.sqrt(theta), 0.5, 10)
    assert run.result == ide.RESULTS.nonfinite_gradient


def test_a_tolerance_below_the_precision_is_told_and_raised(float32):
    words = "`rtol` must be 9.5e-07 or more in float32, but is 1e-08: 9.5e-07 is taken"
    with pytest.warns(UserWarning, match=words):
        path = solve(method=ide.Markov(rtol=1e-8))
    taken = solve(method=ide.Markov(rtol=9.5e-7))
    np.testing.assert_array_equal(path.theta, taken.theta)


def test_a_failing_solve_raises_from_compiled_code_too():
    run = jax.jit(lambda x: solve(ide.Adam(x), method=ide.Markov(dfx.Tsit5(), max_steps=3)).theta)
    with pytest.raises(RuntimeError, match="maximum number of solver steps"):
        run(0.1)


def test_traced_integers_are_refused_by_the_door_alone():
    equation = ide.Equation(ide.Adam(0.1), lambda theta: jnp.sum(theta[0]))
    with pytest.raises(ValueError, match="traced arrays that are not floating"):
        jax.jit(lambda k: equation.init((jnp.ones(1), k)).theta)(jnp.arange(2))


def _counted(theta):
    def more(carry):
        k, x = carry
        return k + 1, 0.9 * x + jnp.sum(theta**2)

    return jax.lax.while_loop(lambda carry: carry[0] < 5, more, (0, 0.0))[1]


LOSSES = {
    "one number in an array": (
        lambda theta: jnp.sum(theta**2)[None],
        r"must return a real scalar, but returns shape \(1,\) of type float64. Write `.sum\(\)`",
    ),
    "with more beside it": (
        lambda theta: (jnp.sum(theta**2), {"norm": theta}),
        r"but returns \(f64\[\], {'norm': f64\[2\]}\). Return the number alone; what",
    ),
    "integer": (lambda theta: jnp.sum(theta).astype(int), r"type int64. Write `.astype\(float\)`"),
    "complex": (
        lambda theta: jax.lax.complex(theta, theta)[0],
        r"type complex128. Write `.real`, or `jnp.abs",
    ),
    "NumPy": (
        lambda theta: np.sum(np.asarray(theta) ** 2),
        r"must be a function that JAX can trace, but needs the value of an array: .* Write `jnp`",
    ),
    "a boolean index": (
        lambda theta: jnp.sum(theta[theta > 0]),
        r"must be a function that JAX can trace, but has a boolean index.*`x\[mask\]`",
    ),
    "a branch in Python": (
        lambda theta: jnp.sum(theta) if theta[0] > 0 else -jnp.sum(theta),
        r"needs the value of an array: .*`jnp.where` or `jax.lax.cond` for `if`",
    ),
    "an argument too many": (
        lambda theta, x: jnp.sum(theta * x),
        r"must be callable as `objective\(theta\)`, but .* \(theta, x\): .* as `args`",
    ),
    "no argument": (lambda: 0.0, r"must be callable as `objective\(theta\)`, .* \(\): too many"),
    "a loop of unknown length": (
        _counted,
        r"must have a gradient by reverse mode, but has none: .* `jax.lax.scan`.*`jax.custom_vjp`",
    ),
}
ENTRIES = {
    "solve": lambda loss, theta0: ide.solve(ide.Adam(0.1), loss, theta0, TS),
    "flow": lambda loss, theta0: ide.solve(
        ide.InterpolatingFlow(optax.adam(0.1), order=1), loss, theta0, TS
    ),
    "run_discrete": lambda loss, theta0: ide.run_discrete(ide.Adam(0.1), loss, theta0, 5),
    "sweep": lambda loss, theta0: ide.sweep(
        ide.Adam(0.1), loss, theta0, 5, {"b2": [0.9, 0.99]}, progress=False
    ),
    "sensitivity": lambda loss, theta0: ide.sensitivity(ide.Adam(0.1), loss, theta0, 5),
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize(("loss", "message"), LOSSES.values(), ids=LOSSES)
def test_a_loss_that_has_no_gradient_is_refused_by_every_entry(entry, loss, message):
    with pytest.raises(ValueError, match=f"(?s)Argument `objective` .*{message}"):
        entry(loss, jnp.ones(2))


def test_a_loss_that_takes_more_than_args_is_refused():
    with pytest.raises(ValueError, match=r"as `objective\(theta, args\)`, since .* one pytree"):
        ide.solve(ide.Adam(0.1), lambda theta, x, y: theta * x * y, 1.0, TS, args=(1.0, 2.0))
