"""Who takes part in the work-precision benchmark, and at which tolerances."""

import dataclasses
from collections.abc import Callable
from typing import Any

from .descents import DESCENTS, PUBLISHED, SLOW, TAILS
from .solvers import Unavailable

JAX = ("idemodels", "jax", "jaxlib", "diffrax", "equinox", "optax", "numpy")
NUMPY = ("scipy", "numpy")


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A way to solve.

    - `family`: `"ours"`; `"diffrax"`, its solvers through `idemodels.Markov`; `"discrete"`, the
        optimizer's own run; `"published"`, the papers' numerics.
    - `method`: makes the method for a pair of tolerances; None for the last two families.
    - `rtols`: loosest first.
    - `ratios`: of atol to rtol.
    - `traced`: whether one program serves all tolerances. The default method chooses its solver by
        them, so that each has its own.
    - `compiled`: whether the whole call is one program, under `jax.jit`.
    - `only`: the problems; all if None.
    """

    label: str
    family: str
    method: Callable[[Any, Any], Any] | None = None
    rtols: tuple[float, ...] = (1.0,)
    ratios: tuple[float, ...] = (1.0,)
    traced: bool = True
    compiled: bool = True
    only: tuple[str, ...] | None = None
    packages: tuple[str, ...] = JAX


def _with(make: Callable[[], Any]) -> Callable[[Any, Any], Any]:
    """A solver's own method. Tolerances may be arrays, which a constructor refuses."""

    def method(rtol, atol):
        import equinox as eqx

        import idemodels as ide

        return eqx.tree_at(lambda m: (m.rtol, m.atol), ide.Markov(make()), (rtol, atol))

    return method


def _diffrax(name: str) -> Callable[[Any, Any], Any]:
    def make():
        import diffrax

        return getattr(diffrax, name)()

    return _with(make)


def _ours(name: str, *given: Any, **options: Any) -> Callable[[Any, Any], Any]:
    def make():
        import idemodels as ide

        return getattr(ide, name)(*given, **options)

    return _with(make)


def _default(rtol, atol):
    import idemodels as ide

    return ide.Markov(rtol=rtol, atol=atol)


def _steady(rtol, atol):
    import idemodels as ide

    return ide.Markov(rtol=rtol, atol=atol, steady_tol=1e-3)


def _tolerances(loosest: float, tightest: float) -> tuple[float, ...]:
    """Two a decade."""
    halves = range(round(2.0 * loosest), round(2.0 * tightest) + 1)
    return tuple(float(f"{10.0 ** (-0.5 * k):.1e}") for k in halves)


_TWO = (1.0, 0.03)

CONTESTANTS = {
    "markov": Contestant("Markov()", "ours", _default, (1e-3, 1e-4, 1e-6, 1e-8), traced=False),
    "plain": Contestant(
        "Markov(), called without jit",
        "ours",
        _default,
        (1e-2, 1e-4, 1e-6),
        traced=False,
        compiled=False,
        only=PUBLISHED,
    ),
    "steady": Contestant(
        "Markov(steady_tol)", "ours", _steady, (1e-3, 1e-6), traced=False, only=TAILS
    ),
    **{
        f"multistep{order}": Contestant(
            f"ExponentialMultistep({order})",
            "ours",
            _ours("ExponentialMultistep", order=order),
            _tolerances(1.0, tightest),
            _TWO,
        )
        for order, tightest in ((2, 5.0), (3, 7.0), (4, 8.0), (5, 9.0), (6, 9.0))
    },
    "bdf": Contestant(
        "QuasiNewtonBDF", "ours", _ours("QuasiNewtonBDF"), _tolerances(1.0, 7.0), _TWO
    ),
    **{
        name.lower(): Contestant(
            name, "diffrax", _diffrax(name), _tolerances(1.0, tightest), ratios
        )
        for name, tightest, ratios in (
            ("Tsit5", 9.0, _TWO),
            ("Dopri8", 9.0, _TWO),
            ("Kvaerno3", 6.0, (1.0,)),
            ("Kvaerno5", 8.0, (1.0,)),
        )
    },
    "discrete": Contestant("discrete (optax)", "discrete"),
    "published": Contestant("published, vectorized", "published", only=PUBLISHED, packages=NUMPY),
    "published_loop": Contestant(
        "published, point by point", "published", only=PUBLISHED, packages=NUMPY
    ),
}
QUICK = ("markov", "multistep3", "tsit5", "kvaerno3", "discrete", "published")
# Beyond this many states a dense Jacobian is not tried, nor any rtol below the second number.
_MANY, _LOOSE = 1000, 5e-5


def pairs(quick: bool) -> list[tuple[str, str]]:
    """**Returns:** problem and contestant of each curve."""
    from .descents import QUICK as PROBLEMS

    problems = PROBLEMS if quick else DESCENTS
    names = QUICK if quick else CONTESTANTS
    allowed = lambda name, problem: (only := CONTESTANTS[name].only) is None or problem in only
    return [(problem, name) for problem in problems for name in names if allowed(name, problem)]


def settings(problem: str, name: str, quick: bool) -> list[dict[str, float]]:
    """**Returns:** the tolerances of a curve, loosest first.

    **Raises:** `Unavailable` where the solver is not tried on this problem.
    """
    contestant, states = CONTESTANTS[name], DESCENTS[problem].states
    if contestant.method is None:
        return [{}]
    if name.startswith("kvaerno") and states > _MANY:
        raise Unavailable(f"its Jacobian is dense, {states:,} columns a step")
    rtols, ratios = contestant.rtols, contestant.ratios
    if quick:
        rtols, ratios = rtols[::3], ratios[:1]
    elif problem in SLOW:
        rtols = rtols[::2] if contestant.traced else rtols
        # an L-stable method without a tight control is loose: it needs a smaller rtol for the same
        least = _LOOSE / 10 if name == "bdf" else _LOOSE
        rtols = tuple(rtol for rtol in rtols if rtol > least or states <= _MANY)
    return [{"rtol": rtol, "atol": rtol * ratio} for rtol in rtols for ratio in ratios]
