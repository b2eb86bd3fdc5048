"""Programs for a GPU are made where there is none: every operation has its form there.

That they then find what the CPU finds, `test_gpu.py` says, where there is one.
"""

import os
import subprocess
import sys

import pytest

# In a process of its own: a check at run time calls this device, which has no form on another.
PROGRAM = """
import gc, jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
import idemodels as ide
from jax import export

gc.set_threshold(100_000, 20, 20)  # as in conftest.py
CALLS = ("cusolver_ormqr_ffi", "cusolver_geqrf_ffi", "cu_lu_pivots_to_permutation")
UNCHECKED = [export.DisabledSafetyCheck.custom_call(name) for name in CALLS]
TS = np.array([0.0, 50.0])
rosenbrock, digits = ide.Rosenbrock(), ide.DigitsMLP()
start = jnp.array([-1.0, 1.0])

def program(make, objective=rosenbrock, theta0=start, method=None):
    def last(rate):
        path = ide.solve(make(rate), objective, theta0, TS, method=method, throw=False)
        return path.loss[-1]
    return last

programs = {
    "Adam": program(ide.Adam),
    "causal": program(lambda rate: ide.RMSProp(rate, reading="causal")),
    "second order": program(ide.SecondOrderAdam),
    "advanced": program(lambda rate: ide.AdaGrad(rate, reading="advanced")),
    "history": program(ide.Adam, method=ide.History()),
    "BDF": program(ide.Adam, method=ide.Markov(ide.QuasiNewtonBDF())),
    "network": program(ide.Adam, digits, digits.theta0),
    "discrete": lambda rate: ide.run_discrete(ide.Adam(rate), rosenbrock, start, 50).loss[-1],
}
one, many = jnp.asarray(0.01), jnp.full(3, 0.01)
for name, last in programs.items():
    made_of = {"BDF": [last], "Adam": [jax.grad(last), jax.vmap(last)]}
    for program in made_of.get(name, [jax.grad(last)]):
        given = many if program is made_of["Adam"][1] else one
        made = export.export(jax.jit(program), platforms=["cuda"], disabled_checks=UNCHECKED)(given)
        assert made.platforms == ("cuda",) and len(made.mlir_module_serialized) > 10_000
    print(name, flush=True)
"""


@pytest.mark.slow
def test_every_method_has_a_program_for_a_gpu():
    environment = os.environ | {"EQX_ON_ERROR": "nan"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.split("\n")) == 9
