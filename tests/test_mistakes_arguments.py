"""The commonest wrong settings: one sentence about the argument, what it must be, what was got and what to do."""

import re

import numpy as np
import pytest
import torch
from mistaken_calls import models

from iresnet_fast import certify, data, estimators, nn, ops, solvers, training
from iresnet_fast.models import (
    ClassifierConfig,
    DiagonalNormal,
    FlowConfig,
    HybridConfig,
    HybridIResNet,
    IResNetClassifier,
    IResNetFlow,
    certified_lipschitz,
)

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:iresnet_fast")]


def branch(**options):
    return nn.ResidualBranch.dense([2, 8, 2], **options)


def block(*arguments, **options):
    return nn.InvertibleResidualBlock(branch(), *arguments, **options)


def fit(model=None, dataset=None, config=None, folder="unused"):
    points = data.DataSet("points", torch.randn(9, 2), torch.randn(9, 2))
    settings = training.TrainConfig(max_steps=1, batch_size=4)
    return training.fit(
        models()[0] if model is None else model,
        points if dataset is None else dataset,
        settings if config is None else config,
        folder,
    )


X, W, NONE, ELU = torch.ones(4, 2), [torch.eye(2)], [None], ["elu"]
VECTOR = [torch.ones(2)]

# What is called, and how the sentence begins.
MISTAKES = {
    # A class, a function, a name or a thing of another kind for an object.
    "block of a class": (
        lambda: nn.InvertibleResidualBlock(nn.ResidualBranch),
        "branch must be a torch.nn.Module, got the class ResidualBranch; build one",
    ),
    "block of a function": (
        lambda: nn.InvertibleResidualBlock(lambda x: x),
        "branch must be a torch.nn.Module, got function; wrap it in one",
    ),
    "block of nothing": (
        lambda: nn.InvertibleResidualBlock(None),
        "branch must be a torch.nn.Module, got None; pass one",
    ),
    "estimator class": (
        lambda: block(estimators.PowerSeries),
        "estimator must be one of iresnet_fast.estimators or None, got the class PowerSeries; build",
    ),
    "estimator name": (
        lambda: block("exact"),
        "estimator must be one of iresnet_fast.estimators or None, got str; build",
    ),
    "solver class": (
        lambda: block(solver=solvers.FixedPoint),
        "solver must be a solvers.FixedPoint, got the class FixedPoint; build one",
    ),
    "sequence of a class": (
        lambda: nn.Sequential(nn.Squeeze),
        "Sequential must hold modules, got the class Squeeze; build one",
    ),
    "scales of a class": (
        lambda: nn.MultiScale([nn.Squeeze], (3, 4, 6)),
        r"scales\[0\] must be a torch.nn.Module, got the class Squeeze; build one",
    ),
    "one scale": (
        lambda: nn.MultiScale(nn.Squeeze(), (3, 4, 6)),
        r"scales must be a list of transforms, got Squeeze; put it in \[\]",
    ),
    "one layer": (
        lambda: nn.ResidualBranch(nn.SpectralLinear(2, 2), ["elu"]),
        r"layers must be a list of layers, got SpectralLinear; put it in \[\]",
    ),
    "one layer of i-DenseNet": (
        lambda: nn.DenseBranch(nn.SpectralLinear(2, 2)),
        r"layers must be a list of layers, got SpectralLinear; put it in \[\]",
    ),
    "network class": (
        lambda: nn.ConditionalBranch([nn.SpectralLinear(2, 2)] * 2, ["elu"] * 2, torch.nn.Linear),
        "network must be a torch.nn.Module, got the class Linear; build",
    ),
    "flow of a class": (
        lambda: IResNetFlow(FlowConfig),
        "config must be a FlowConfig, got the class FlowConfig; build one",
    ),
    "flow of a name": (
        lambda: IResNetFlow("toy"),
        r"config must be a FlowConfig, got str; use preset\(name\) of the model",
    ),
    "flow of a dictionary": (lambda: IResNetFlow({}), "config must be a FlowConfig, got dict; build one"),
    "classifier of a class": (
        lambda: IResNetClassifier(ClassifierConfig),
        "config must be a ClassifierConfig, got the class ClassifierConfig",
    ),
    "hybrid of a flow's": (
        lambda: HybridIResNet(models()[0].config),
        "config must be a HybridConfig, got FlowConfig; build one",
    ),
    "hybrid config of a flow": (
        lambda: HybridConfig(models()[0], 3),
        "flow must be a FlowConfig, got IResNetFlow; pass one",
    ),
    "preset of a list": (lambda: IResNetFlow.preset(["toy"]), r"name must be one of .*, got \['toy'\]; use one"),
    "fit of a class": (
        lambda: fit(model=IResNetFlow),
        "model must be an IResNetFlow, .*, got the class IResNetFlow; pass one",
    ),
    "fit of a torch module": (
        lambda: fit(model=torch.nn.Linear(2, 2)),
        "model must be an IResNetFlow, .*, got Linear; pass one",
    ),
    "fit to a tensor": (
        lambda: fit(dataset=X),
        "dataset must be a data.DataSet, got Tensor; pass what data.load returned",
    ),
    "fit by a class": (
        lambda: fit(config=training.TrainConfig),
        "config must be a TrainConfig, got the class TrainConfig; pass one",
    ),
    "fit nowhere": (lambda: fit(folder=3), "folder must be a path, got int; pass e.g."),
    "evaluate a class": (
        lambda: training.evaluate(IResNetFlow, X),
        "model must be an IResNetFlow, .*, got the class IResNetFlow; pass one",
    ),
    "certify a class": (
        lambda: certify.certify(nn.ResidualBranch),
        "model must be a torch.nn.Module, got the class ResidualBranch; build one",
    ),
    "certify a tensor": (lambda: certify.certify(X), "model must be a torch.nn.Module, got Tensor; pass one"),
    "constants of a class": (
        lambda: certified_lipschitz(IResNetFlow),
        "model must be a torch.nn.Module, got the class IResNetFlow; build one",
    ),
    "update a class": (
        lambda: nn.update_spectral_norm(nn.ResidualBranch),
        "model must be a torch.nn.Module, got the class ResidualBranch",
    ),
    "load from a number": (
        lambda: data.load("mnist", 3),
        "root must be a path, got int; pass the folder with the files.",
    ),
    "load from bytes": (lambda: data.load("a.npy", b"x"), "root must be a path, got bytes; pass the folder"),
    "data without a name": (
        lambda: data.DataSet(X, X, X),
        "name must be a text, got Tensor; pass e.g. 'points', then train and test",
    ),
    "sparse data": (
        lambda: data.DataSet("points", X.to_sparse(), X),
        "train of points must be a dense tensor, got layout torch.sparse_coo; pass",
    ),
    "data without numbers": (
        lambda: data.DataSet("points", X, X.to("meta")),
        "test of points must hold numbers, got a tensor on the device meta; pass one",
    ),
    "activations in a list": (lambda: branch(activation=["elu"]), r"activation must be one of .*, got \['elu'\]; use"),
    "a word for strict": (lambda: branch(strict="no"), "strict must be True or False, got 'no'; pass one of them"),
    "a width beyond integers": (
        lambda: nn.ResidualBranch.dense([2, 10**30, 2]),
        "out_features must be less than 2147483648, got 1000000000000000000000000000000; pass e.g. 64",
    ),
    "samples beyond integers": (
        lambda: models()[0].sample(1 << 63),
        r"first \+ n must be at most 2\^62, got 0 \+ 9223372036854775808; number the samples from 0",
    ),
    "numbers of samples beyond integers": (
        lambda: models()[0].sample(2, seed=0, first=10**30),
        r"first \+ n must be at most 2\^62, got 1000000000000000000000000000000 \+ 2; number the samples from 0",
    ),
    "load nothing": (lambda: data.load(None), "name must be a name or a path, got None; pass e.g."),
    "array for data": (
        lambda: data.DataSet("points", np.ones((4, 2)), np.ones((4, 2))),
        "train of points must be a tensor, got ndarray; convert it",
    ),
    # Words for numbers, and numbers of the wrong type.
    "coeff": (lambda: branch(coeff="0.9"), "coeff must be a number, got '0.9'; pass e.g. 0.9"),
    "coeff of an induced norm": (lambda: nn.InducedNormLinear(2, 2, coeff="0.9"), "coeff must be a number, got '0.9'"),
    "norm": (lambda: nn.InducedNormBranch.dense([2, 4, 2], norm="inf"), "norm must be a number, got 'inf'"),
    "lipschitz": (lambda: block(lipschitz="0.9"), "lipschitz must be a number, got '0.9'; pass e.g. 0.9"),
    "tol": (lambda: solvers.FixedPoint("1e-5"), "tol must be a number, got '1e-5'; pass e.g. 1e-5"),
    "no tol": (lambda: solvers.FixedPoint(None), "tol must be a number, got None; pass e.g. 1e-5"),
    "a flag": (lambda: solvers.FixedPoint(accelerate="no"), "accelerate must be True or False, got 'no'; pass one"),
    "max_iterations": (lambda: solvers.FixedPoint(max_iterations=1e3), "max_iterations must be an integer, got 1000.0"),
    "terms": (lambda: estimators.PowerSeries("10"), "n_terms must be an integer, got '10'"),
    "series tol": (lambda: estimators.PowerSeries(tol="1e-3"), "tol must be a number, got '1e-3'"),
    "parameter": (lambda: estimators.RussianRoulette(parameter="0.5"), "parameter must be a number, got '0.5'"),
    "per_sample": (lambda: estimators.RussianRoulette(per_sample="yes"), "per_sample must be True or False, got 'yes'"),
    "alpha": (lambda: nn.Logit("0.05"), "alpha must be a number, got '0.05'"),
    "scale": (lambda: nn.Affine("2"), "scale must be a number, got '2'"),
    "levels": (lambda: nn.Dequantize(256.0), "n_levels must be an integer, got 256.0"),
    "features": (lambda: nn.ActNorm("3"), "num_features must be an integer, got '3'"),
    "features of a layer": (lambda: nn.SpectralLinear("2", 3), "in_features must be an integer, got '2'"),
    "channels of a layer": (lambda: nn.SpectralConv2d(2.0, 3, 3), "in_channels must be an integer, got 2.0"),
    "kernel of a layer": (lambda: nn.SpectralConv2d(2, 3, "3"), "kernel_size must be an integer, got '3'"),
    "n": (lambda: models()[0].sample("3"), "n must be an integer, got '3'"),
    "n of a prior": (lambda: DiagonalNormal(2).sample(3.0), "n must be an integer, got 3.0"),
    "temperature": (lambda: models()[0].sample(3, temperature="1"), "temperature must be a number, got '1'"),
    "infinite temperature": (
        lambda: models()[0].sample(3, temperature=float("inf")),
        "temperature must be finite and not negative, got inf; pass e.g. 1.0",
    ),
    "weight": (lambda: models()[4].loss(X, torch.zeros(4).long(), "1"), "weight must be a number, got '1'"),
    "sample_shape": (
        lambda: models()[0].as_distribution().sample(3),
        r"sample_shape must be a shape, got 3; pass e.g. \(100,\)",
    ),
    "steps": (lambda: training.TrainConfig(max_steps="5"), "max_steps must be an integer, got '5'"),
    # One number where there is one for each layer, and other containers.
    "widths": (lambda: nn.ResidualBranch.dense(64), "widths must be a list of integers, got 64"),
    "kernel_sizes": (lambda: nn.ResidualBranch.conv([3, 4, 3], 3), "kernel_sizes must be a list of integers, got 3"),
    "hidden": (lambda: FlowConfig((2,), blocks=(1,), hidden=64), "hidden must hold .* got 64"),
    "hidden of a classifier": (lambda: ClassifierConfig((3, 4, 6), 5, (1,), 4), "hidden must hold .* got 4"),
    "blocks": (lambda: FlowConfig((2,), blocks=1), "blocks must hold .* got 1"),
    "image_size": (
        lambda: nn.ResidualBranch.conv([3, 4, 3], [3, 3], "4x6"),
        r"image_size must be one integer or \(height, width\), got '4x6'",
    ),
    "image_size with channels": (
        lambda: nn.ResidualBranch.conv([3, 4, 3], [3, 3], (3, 4, 6)),
        r"image_size must be .* got \(3, 4, 6\)",
    ),
    "event_shape": (lambda: nn.Flatten(3), "event_shape must hold the sizes of one sample, got 3"),
    "event_shape of scales": (
        lambda: nn.MultiScale([nn.Squeeze()], "346"),
        "event_shape must hold the sizes of one sample, got '346'",
    ),
    "indices": (lambda: nn.Permutation("10"), "indices must be a list of integers, got '10'"),
    "activations": (
        lambda: nn.ResidualBranch([nn.SpectralLinear(2, 2)], "elu"),
        "activations must be a list of one name per layer, got 'elu'",
    ),
    # Constants of no contraction.
    "coeff of one": (lambda: FlowConfig((2,), blocks=(1,), coeff=1.0), r"coeff must be in \(0, 1\), got 1.0"),
    "coeff above one": (
        lambda: nn.InvertibleResidualBlock(branch(coeff=1.5)),
        r"lipschitz must be in \[0, 1\), got 2.25, and the coeff",
    ),
    "lipschitz of one": (lambda: block(lipschitz=1.0), r"lipschitz must be in \[0, 1\), got 1"),
    # The functions.
    "one weight": (
        lambda: ops.branch(X, W[0], NONE, ELU),
        r"weights must be a list of tensors, got Tensor; put it in \[\]",
    ),
    "array for a weight": (
        lambda: ops.branch(X, [W[0].numpy()], NONE, ELU),
        r"weights\[0\] must be a torch.Tensor, got numpy.ndarray",
    ),
    "array for a bias": (
        lambda: ops.branch(X, W, [np.ones(2)], ELU),
        r"biases\[0\] must be a torch.Tensor, got numpy.ndarray",
    ),
    "no biases": (
        lambda: ops.branch(X, W, None, ELU),
        "biases must be a list of tensors or None, got None; pass",
    ),
    "one name": (
        lambda: ops.branch(X, W, NONE, "elu"),
        r"activations must be a list of names, got str; put it in \[\]",
    ),
    "array for a probe": (
        lambda: ops.residual_logdet(X, W, NONE, ELU, X.numpy(), [1.0]),
        "probe must be a torch.Tensor, got numpy.ndarray",
    ),
    "one coefficient": (
        lambda: ops.residual_logdet(X, W, NONE, ELU, X, 5),
        "coefficients must be a list of numbers, got int",
    ),
    "lipschitz of an op": (
        lambda: ops.residual_inverse(X, W, NONE, ELU, "0.5"),
        "lipschitz must be a number, got '0.5'",
    ),
    "weight for weights": (lambda: ops.spectral_norm(W[0], VECTOR, VECTOR, NONE), "weights must be a list of tensors"),
    "no geometry": (
        lambda: ops.spectral_norm(W, VECTOR, VECTOR, None),
        "geometry must be a list of geometries, got None",
    ),
    "coeff of an op": (
        lambda: ops.spectral_normalize(W, torch.ones(1), VECTOR, VECTOR, NONE, "0.9"),
        "coeff must be a number, got '0.9'",
    ),
    "fingerprint of an array": (
        lambda: ops.fingerprint([W[0].numpy()]),
        r"weights\[0\] must be a torch.Tensor, got numpy",
    ),
    "fingerprint of a tensor": (lambda: ops.fingerprint(W[0]), "weights must be a list of tensors"),
    "norm of an array": (lambda: certify.norm_bounds(W[0].numpy()), "weight must be a torch.Tensor, got numpy.ndarray"),
    "bound of one weight": (lambda: certify.branch_bound(W[0], ELU), "weights must be a list of tensors"),
    "bound of one name": (lambda: certify.branch_bound(W, "elu"), "activations must be a list of names"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_argument(mistake):
    call, expected = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    said = str(caught.value)
    assert re.match(expected, said), said
    assert said.endswith(".")
    assert "\n" not in said
    assert ", got " in said
    assert "; " in said
