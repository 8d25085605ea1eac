"""LipSwish's beta is a parameter of one element; states and pickles of earlier versions have a scalar, and go on."""

import copy
import io
import pickle

import pytest
import torch
from branch_kinds import BRANCHES
from torch.nn.utils import parametrize, prune

from iresnet_fast import nn

pytestmark = pytest.mark.usefixtures("one_thread")
MAKE = {
    "residual": BRANCHES["residual"],
    "dense": BRANCHES["dense"],
    "conditional": lambda: nn.ConditionalBranch.dense([4, 6, 4], 3, activation="lipswish"),
    "induced": lambda: nn.InducedNormBranch.dense([4, 6, 4], 2.0, "lipswish"),
    "activation": lambda: nn.Activation("lipswish"),
}
kinds = pytest.mark.parametrize("kind", MAKE)


def betas(module):
    """Every tensor that is a beta or kept in the place of one, by its name in the state_dict."""
    return {name: value for name, value in module.state_dict().items() if "beta" in name}


def make(kind):
    """A module in whose place an earlier version had scalars, none of them the initial one."""
    module = MAKE[kind]()
    for beta in betas(module).values():
        beta.fill_(0.7)
    return module


def earlier(state):
    """The state_dict as an earlier version wrote it."""
    return {name: value.reshape(()) if "beta" in name else value for name, value in state.items()}


@kinds
def test_it_has_one_element(kind):
    module = make(kind)
    assert betas(module)
    assert {tuple(beta.shape) for beta in betas(module).values()} == {(1,)}


@pytest.mark.parametrize("assign", [False, True])
@kinds
def test_an_earlier_state_loads(kind, assign):
    module, whole = MAKE[kind](), torch.nn.Sequential(make(kind))
    state = earlier(whole.state_dict())
    parameters = list(module.parameters())
    torch.nn.Sequential(module).load_state_dict(state, assign=assign)
    assert all(torch.equal(value, whole[0].state_dict()[name]) for name, value in module.state_dict().items())
    assert all(value.shape == () for name, value in state.items() if "beta" in name)  # the caller's
    assert assign or all(a is b for a, b in zip(parameters, module.parameters(), strict=True))
    assert all(isinstance(p, torch.nn.Parameter) and p.requires_grad for p in module.parameters())


def test_an_earlier_state_of_a_pruned_beta_loads():
    twins = make("residual"), MAKE["residual"]()
    for branch in twins:
        prune.l1_unstructured(branch, "beta_1", amount=0)
    twins[1].load_state_dict(earlier(twins[0].state_dict()))
    assert betas(twins[1]) == {"beta_1_orig": torch.tensor([0.7]), "beta_1_mask": torch.ones(1)}
    x = torch.randn(3, 4)
    assert torch.equal(twins[0].eval()(x), twins[1].eval()(x))


def test_an_earlier_state_of_a_parametrised_beta_loads():
    twins = make("residual"), MAKE["residual"]()
    for branch in twins:
        parametrize.register_parametrization(branch, "beta_1", torch.nn.Tanh())
    twins[1].load_state_dict(earlier(twins[0].state_dict()))
    assert betas(twins[1]) == {"parametrizations.beta_1.original": torch.tensor([0.7])}


def test_scalars_that_are_no_betas_stay_scalars():
    state = make("residual").state_dict()
    state["layers.1.bias"] = torch.tensor(0.0)
    with pytest.raises(RuntimeError, match=r"size mismatch for layers.1.bias"):
        MAKE["residual"]().load_state_dict(state)


def scalars(module):
    """Make the parameters of a module those of an earlier version."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if "beta" in name and parameter is not None:
                parameter.data = parameter.data.reshape(())
    return module


def by_pickle(things):
    return pickle.loads(pickle.dumps(things))


def by_file(things):
    file = io.BytesIO()
    torch.save(things, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [by_pickle, by_file, copy.deepcopy])
@kinds
def test_a_module_that_an_earlier_version_pickled_goes_on(kind, copied):
    """With the optimizer beside it, whose parameters are those of the module."""
    module = make(kind)
    expected = betas(copy.deepcopy(module))
    found, optimizer = copied((scalars(module), torch.optim.SGD(module.parameters(), 0.1)))
    assert betas(found) == expected
    parameters = optimizer.param_groups[0]["params"]
    assert all(ours is theirs for ours, theirs in zip(found.parameters(), parameters, strict=True))
    assert all(parameter.requires_grad for parameter in parameters)


def test_a_pruned_branch_that_an_earlier_version_pickled_goes_on():
    branch, x = make("residual").eval(), torch.ones(3, 4)
    prune.l1_unstructured(branch, "beta_1", amount=0)
    expected = branch(x)
    scalars(branch).beta_1_mask = torch.tensor(1.0)
    del branch.beta_1  # made of a scalar and its mask in every call, part of no pickle
    found = by_pickle(branch)
    assert betas(found) == {"beta_1_orig": torch.tensor([0.7]), "beta_1_mask": torch.ones(1)}
    assert torch.equal(found(x), expected)
