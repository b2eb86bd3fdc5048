"""What is known of the paper's own experiments, to the digits known."""

import numpy as np
import pytest

import idemodels as ide

QUADRATIC = ide.Quadratic()
TIGHT = ide.Markov(rtol=1e-9, atol=1e-12)

# max |theta_IDE(k) - theta_k| on the quadratic, at learning rates 0.1 and 0.01
ADAM = {
    (0.0, 0.99): (".091", "9.7e-3"),
    (0.0, 0.999): (".091", "9.8e-3"),
    (0.9, 0.99): (".0415", "6.4e-3"),
    (0.9, 0.999): (".0442", "7.2e-3"),
}
RMSPROP = {
    ("causal", 0.0): (".1618", ".0317"),
    ("closure", 0.0): (".0800", ".0086"),
    ("causal", 0.9): (".342", ".0451"),
    ("closure", 0.9): (".0673", ".0084"),
    ("causal", 0.99): (".724", ".127"),
    ("closure", 0.99): (".204", ".035"),
}
ADAGRAD = {"causal": (".126", ".0142"), "closure": (".0369", ".00497")}


def as_printed(text: str) -> float:
    """Half a unit of the last digit of `text`: how far a value may be from it."""
    mantissa, _, exponent = text.partition("e")
    return 0.5 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def errors(make, steps, stride=1):
    """The largest error at learning rates 0.1 and 0.01."""
    found = []
    for rate, n in zip((0.1, 0.01), steps, strict=True):
        ts = np.arange(0, n + 1, stride)
        path = ide.solve(make(rate), QUADRATIC, 1.0, ts, method=TIGHT)
        twin = ide.run_discrete(make(rate), QUADRATIC, 1.0, n, ts=ts)
        found.append(float(ide.compare(path, twin).max_error))
    return found


def check(found, printed):
    for value, text in zip(found, printed, strict=True):
        assert abs(value - float(text)) <= as_printed(text) * 1.001, (found, printed)


@pytest.mark.parametrize("betas", ADAM, ids=str)
def test_adam_errors_are_those_known(betas):
    check(errors(lambda rate: ide.Adam(rate, *betas), (100, 1000)), ADAM[betas])


# b = 0 turns stiff at convergence: three legs to compile; b = 0.99 repeats b = 0.9
@pytest.mark.parametrize(
    ("reading", "decay"),
    [pytest.param(*key, marks=pytest.mark.slow) if key[1] != 0.9 else key for key in RMSPROP],
    ids=str,
)
def test_rmsprop_errors_are_those_known(reading, decay):
    make = lambda rate: ide.RMSProp(rate, decay, reading=reading)
    check(errors(make, (50, 500)), RMSPROP[reading, decay])


@pytest.mark.parametrize(
    "reading",
    [pytest.param("causal", marks=pytest.mark.slow), *(r for r in ADAGRAD if r != "causal")],
)
def test_adagrad_errors_are_those_known(reading):
    make = lambda rate: ide.AdaGrad(rate, reading=reading)
    check(errors(make, (1500, 150000), 10), ADAGRAD[reading])


@pytest.mark.parametrize(
    ("rate", "printed"), [("paper", (".044", "7.2e-3")), ("matched", (".011", "1.3e-3"))]
)
@pytest.mark.slow
def test_matched_rate_is_several_times_nearer(rate, printed):
    check(errors(lambda lr: ide.Adam(lr, rate=rate), (100, 1000)), printed)


FIRST_ORDER = {
    "adam": ide.Adam,
    "adam-matched": lambda lr: ide.Adam(lr, rate="matched"),
    "rmsprop-closure": ide.RMSProp,
    "adagrad-closure": ide.AdaGrad,
}


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_model_error_is_of_first_order_in_the_learning_rate(name):
    make, rates = FIRST_ORDER[name], 0.025 / 2.0 ** np.arange(5)
    found = []
    for rate in rates:
        n = round(2.0 / rate)  # up to t = 2, at 81 places, so that nothing compiles anew
        ts = np.arange(0, n + 1, n // 80)
        path = ide.solve(make(rate), QUADRATIC, 1.0, ts, method=TIGHT)
        twin = ide.run_discrete(make(rate), QUADRATIC, 1.0, n, ts=ts)
        found.append(float(ide.compare(path, twin).max_error))
    slope = np.polyfit(np.log(rates), np.log(found), 1)[0]
    assert abs(slope - 1.0) < 0.15, (slope, found)
