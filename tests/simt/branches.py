"""Branches for the emulated kernels: small enough for the checker, ragged against every tile and buffer size."""

from problems import Case

from iresnet_fast import activations as registry

# On the first card products take the largest tiles also for small problems; on a real one the smallest.
CARDS = ["single", "h100"]
PRECISIONS = {"full": 0, "tf32": 1, "bf16": 2}

DENSE = [
    Case("one number", (1,), batch=1, activations=("tanh",), terms=1),
    Case("no hidden", (3,), batch=31, activations=("elu",), terms=3),
    Case("narrow", (5,), (3, 33), batch=33, no_bias=(1,), probes=3, per_sample=True, terms=3),
    Case("wide", (33,), (130,), batch=127, activations=("softplus", "sin"), terms=2),
    Case("above a block", (3,), (65,), batch=129, activations=("lipswish", "tanh"), terms=3),
    Case(
        "contexts and masks",
        (5,),
        (33, 6),
        batch=33,
        sample_bias=(0, 2),
        sample_factor=(0, 2),
        probes=2,
        terms=3,
        activations=("identity", "sin(3)", "half_abs"),
    ),
]
IMAGES = [
    Case("one pixel", (1, 1, 1), kernels=(1,), batch=1, activations=("softplus",), terms=1),
    Case("kernel larger than the image", (1, 1, 1), (2,), (7, 5), batch=2),
    Case("one stage", (2, 13, 11), kernels=(3,), batch=2, activations=("tanh",), terms=3),
    Case("ragged", (3, 5, 9), (17, 5), (3, 1, 3), batch=5, no_bias=(0,), probes=2, per_sample=True, terms=3),
    Case("wide images", (5, 13, 6), (35,), (3, 5), batch=2, activations=("identity", "lipswish"), terms=2),
    Case("many channels", (33, 8, 8), (66,), (1, 3), batch=1, activations=("sin", "elu"), terms=2),
    Case(
        "images with contexts and masks",
        (3, 5, 9),
        (17, 6),
        (3, 1, 3),
        batch=5,
        sample_bias=(0,),
        pixel_bias=(1, 2),
        sample_factor=(1,),
        pixel_factor=(0, 2),
        probes=2,
        terms=3,
        activations=("leaky_relu(0.25)", "lipswish", "half_abs"),
    ),
]
CASES = [*DENSE, *IMAGES]
FEW = [DENSE[2], *DENSE[4:], *IMAGES[2:4], IMAGES[6]]
TENSOR = [*DENSE[2:], *IMAGES[3:]]  # more than 16 columns somewhere: the others never meet a tensor core


def raw_branch(problem):
    """Return the branch as the raw ops take it: weights, biases, betas, factors, activations, constants."""
    none = problem.x.new_empty(0)
    lists = problem.biases, problem.parameters, problem.factors
    biases, betas, factors = ([none if t is None else t for t in tensors] for tensors in lists)
    entries = [registry.get(name) for name in problem.activations]
    ids, constants = [entry.kernel_id for entry in entries], [entry.constant for entry in entries]
    return problem.weights, biases, betas, factors, ids, constants


def probes_of(problem):
    """Return the probes as [m, B, *event]."""
    return problem.probe if problem.probe.dim() > problem.x.dim() else problem.probe.unsqueeze(0)


def run(emulator, op, problem, *arguments, **target):
    """Call an op of operands.py on a problem."""
    return op(emulator, problem.x, *raw_branch(problem), *arguments, **target)
