"""The optimizers whose flows are tried: optax's aliases, and the contributed ones."""

import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from optax import contrib

# Memories that last for a fixed time: 1 - b of the order of the learning rate a.
_B1, _B2 = (lambda a: 1 - a / 0.5), (lambda a: 1 - a / 5)


def _betas(alias: Callable[..., Any], **more: Any) -> Callable[[Any], Any]:
    return lambda a: alias(a, b1=_B1(a), b2=_B2(a), **more)


def _noisy(a: Any) -> Any:
    import jax

    return optax.noisy_sgd(a, key=jax.random.key(0))


def _private(a: Any) -> Any:
    return contrib.dpsgd(a, 1.0, 0.1, seed=0)


def _quiet(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def quietly(a: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make(a)

    return quietly


# By the name in the table, the optimizer at a learning rate.
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": optax.sgd,
    "sgd, momentum": lambda a: optax.sgd(2 * a * a, 1 - 2 * a),
    "sgd, nesterov": lambda a: optax.sgd(2 * a * a, 1 - 2 * a, nesterov=True),
    "adam": _betas(optax.adam),
    "adam, .9/.999": optax.adam,
    "adam, nesterov (nadam)": _betas(optax.nadam),
    "adamw": _betas(optax.adamw),
    "nadamw": _betas(optax.nadamw),
    "adamax": _betas(optax.adamax),
    "adamaxw": _betas(optax.adamaxw),
    "amsgrad": _betas(optax.amsgrad),
    "adabelief": _betas(optax.adabelief),
    "adadelta": lambda a: optax.adadelta(a, rho=_B1(a)),
    "adafactor": optax.adafactor,
    "adagrad": optax.adagrad,
    "adan": lambda a: optax.adan(a, b1=_B1(a), b2=_B1(a), b3=_B2(a)),
    "fromage": optax.fromage,
    "lamb": _betas(optax.lamb),
    "lars": optax.lars,
    "lbfgs": optax.lbfgs,
    "lion": _betas(optax.lion),
    "noisy_sgd": _noisy,
    # these sum their gradients: a rate of the order of a^2, as for momentum
    "novograd": lambda a: optax.novograd(2 * a * a, b1=_B1(a), b2=_B2(a)),
    "optimistic_adam_v2": _betas(optax.optimistic_adam_v2),
    "optimistic_gradient_descent": optax.optimistic_gradient_descent,
    "polyak_sgd": optax.polyak_sgd,
    "radam": _betas(optax.radam),
    "rmsprop": lambda a: optax.rmsprop(a, _B1(a)),
    "rmsprop, eps outside": lambda a: optax.rmsprop(a, _B1(a), eps_in_sqrt=False),
    "rmsprop, centered": lambda a: optax.rmsprop(a, _B1(a), centered=True),
    "rprop": optax.rprop,
    "sign_sgd": optax.sign_sgd,
    "sm3": lambda a: optax.sm3(a, _B1(a)),
    "yogi": _betas(optax.yogi),
    "adam, MultiSteps": lambda a: optax.MultiSteps(optax.adam(a), 2).gradient_transformation(),
    "adam, clipped": lambda a: optax.chain(optax.clip_by_global_norm(5.0), _betas(optax.adam)(a)),
    "adam, warm-up to time .25": lambda a: optax.adam(
        lambda k: a * jnp.minimum(k * a / 0.25, 1.0), _B1(a), _B2(a)
    ),
    "acprop": _betas(contrib.acprop),
    "ademamix": lambda a: contrib.ademamix(a, b1=_B1(a), b2=_B2(a), b3=_B2(a)),
    "simplified_ademamix": lambda a: contrib.simplified_ademamix(2 * a * a, b1=_B1(a), b2=_B2(a)),
    "adopt": _betas(contrib.adopt),
    "cocob": contrib.cocob,
    "dadapt_adamw": contrib.dadapt_adamw,
    "dog": contrib.dog,
    "dowg": contrib.dowg,
    "dpsgd": _private,
    "galore": contrib.galore,
    "madgrad": contrib.madgrad,
    "mechanize, adam": lambda a: contrib.mechanize(_betas(optax.adam)(a)),
    "momo": contrib.momo,
    "momo_adam": contrib.momo_adam,
    "muon": contrib.muon,
    "prodigy": contrib.prodigy,
    "reduce_on_plateau": lambda a: optax.chain(optax.adam(a), contrib.reduce_on_plateau()),
    "sam": lambda a: contrib.sam(optax.sgd(a), optax.sgd(a)),
    "schedule_free_sgd": contrib.schedule_free_sgd,
    "schedule_free_adamw": contrib.schedule_free_adamw,
    "sophia": contrib.sophia,
}
OPTIMIZERS = {name: _quiet(make) for name, make in OPTIMIZERS.items()}
