"""Named density models: small ones that work on a CPU, and those of the papers."""

from __future__ import annotations

from ..estimators import Exact, PowerSeries, RussianRoulette
from ..solvers import FixedPoint
from .flow_config import FlowConfig

# In float32 an image of some thousand values cannot be inverted to the default tolerance: rounding alone is more, above
# all where 1 - lipschitz is small.
_IMAGES = FixedPoint(tol=1e-4)
_WIDE_IMAGES = FixedPoint(tol=1e-3)

# Digits and mnist: recipes of this project, chosen on training images that were held out. The series must be unbiased:
# 20 minutes of training on mnist exploited one of 8 terms by 0.20 bits/dim and one of 20 by 0.03, at the expense of the
# true density, though after 2500 steps neither was off.
_DIGITS = FlowConfig(
    event_shape=(1, 8, 8),
    blocks=(8,),
    hidden=(32, 32),
    activation="lipswish",
    preactivation=True,
    coeff=0.97,
    squeeze_first=True,
    n_levels=17,
    preprocess="logit",
    alpha=0.01,
    train_estimator=RussianRoulette(n_exact=4, distribution="geometric", parameter=0.5, per_sample=True),
    solver=_IMAGES,
)
_MNIST = _DIGITS.replace(event_shape=(1, 28, 28), blocks=(4, 4), n_levels=256, alpha=1e-6)

# Signals of continuous values; a kernel sees one row, of which five values are as many as nine pixels of an image.
_SIGNAL = _DIGITS.replace(
    event_shape=(1, 64), blocks=(4, 4), kernel_sizes=(5, 1, 5), n_levels=None, preprocess="standardize"
)

# i-ResNet, arXiv 1811.00995, and the scripts published with it. Probes are Rademacher, whose variance is
# never above that of the paper's Gaussian ones.
_CIFAR10 = FlowConfig(
    event_shape=(3, 32, 32),
    blocks=(16, 16, 16),
    hidden=(512, 512),
    preactivation=True,
    factor_out=True,
    n_levels=256,
    preprocess="center",
    train_estimator=PowerSeries(n_terms=5),
    solver=_WIDE_IMAGES,
)

# Residual Flows, arXiv 1906.02735, and the defaults of its code.
_ROULETTE = RussianRoulette(n_exact=2, distribution="poisson", parameter=2.0)
_RESIDUAL_CIFAR10 = FlowConfig(
    event_shape=(3, 32, 32),
    blocks=(16, 16, 16),
    hidden=(512, 512),
    activation="lipswish",
    preactivation=True,
    coeff=0.98,
    final_actnorm=True,
    fc_blocks=4,
    n_levels=256,
    preprocess="logit",
    prior="standard",
    train_estimator=_ROULETTE,
    eval_estimator=_ROULETTE,
    solver=_WIDE_IMAGES,
)
_RESIDUAL_TOY = FlowConfig(
    event_shape=(2,),
    blocks=(100,),
    hidden=(128, 128, 128, 128),
    activation="lipswish",
    prior="standard",
    train_estimator=RussianRoulette(n_exact=2, distribution="geometric", parameter=0.5),
    eval_estimator=Exact(),
)

# i-DenseNet, arXiv 2102.02694, and the commands published with it. Their growth, 172 and 178, counts the channels after
# CLipSwish has doubled them, which agrees with the published numbers of parameters to 2 %.
_DENSENET_CIFAR10 = _RESIDUAL_CIFAR10.replace(
    branch="dense", activation="clipswish", preactivation=False, depth=3, growth=86
)
_DENSENET_TOY = _RESIDUAL_TOY.replace(blocks=(10,), branch="dense", activation="clipswish", depth=3, growth=16)

FLOWS = {
    "toy": FlowConfig(event_shape=(2,), blocks=(16,), hidden=(128, 128)),
    "tabular": FlowConfig(event_shape=(6,), blocks=(20,), hidden=(128, 128), preprocess="standardize"),
    "digits": _DIGITS,
    "mnist": _MNIST,
    "mnist_paper": _CIFAR10.replace(
        event_shape=(1, 28, 28),
        blocks=(32, 32, 32),
        hidden=(32, 32),
        factor_out=False,  # there is one channel only
        train_estimator=PowerSeries(n_terms=10),
    ),
    "cifar10": _CIFAR10,
    "signal": _SIGNAL,
}

RESIDUAL_FLOWS = {
    "toy": _RESIDUAL_TOY,
    "mnist": _RESIDUAL_CIFAR10.replace(event_shape=(1, 28, 28), alpha=1e-6),
    "cifar10": _RESIDUAL_CIFAR10,
    "imagenet32": _RESIDUAL_CIFAR10.replace(blocks=(32, 32, 32)),
    "imagenet64": _RESIDUAL_CIFAR10.replace(
        event_shape=(3, 64, 64), blocks=(32, 32, 32), squeeze_first=True, factor_out=True
    ),
    "celebahq256": _RESIDUAL_CIFAR10.replace(
        event_shape=(3, 256, 256),
        blocks=(16,) * 6,
        activation="elu",
        squeeze_first=True,
        factor_out=True,
        fc_blocks=0,
        n_levels=32,
        train_estimator=RussianRoulette(n_exact=8, distribution="poisson", parameter=2.0),
    ),
}

DENSENETS = {
    "toy": _DENSENET_TOY,
    "cifar10_small": _DENSENET_CIFAR10.replace(blocks=(4, 4, 4), growth=89),
    "cifar10": _DENSENET_CIFAR10,
    "imagenet32": _DENSENET_CIFAR10.replace(blocks=(32, 32, 32)),
}
