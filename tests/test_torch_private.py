"""What iresnet_fast/_torch_private.py takes from torch does what its functions promise, and nothing else is taken."""

import re
from pathlib import Path

import torch

import iresnet_fast
from iresnet_fast import _torch_private

PACKAGE = Path(iresnet_fast.__file__).parent
# torch._name, torch.module._name, `from torch._module import`, `from torch import _name`, the same of a bare module
# of torch, as in forward_ad._name, and marks of its compiler; not __version__.
PRIVATE = re.compile(
    r"\btorch(\.\w+)*\._[A-Za-z]|from torch[\w.]* import .*\b_[A-Za-z]|\bforward_ad\._[A-Za-z]|\._dynamo_"
)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(x, label):
        return 2.0 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.label = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        assert ctx.label == "two"
        return 2.0 * grad, None


def wrapper_of(x):
    """A tensor that outlived the transform of torch.func that made it."""
    kept = []
    torch.func.grad(lambda a: kept.append(a) or a.sum())(x)
    return kept[0]


def test_every_private_use_stands_in_one_module():
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if PRIVATE.search(path.read_text())}
    assert found == {"_torch_private.py"}


def test_a_transform_is_noticed_also_by_a_call_without_its_tensors():
    seen = []
    assert not _torch_private.is_transformed()
    torch.func.grad(lambda x: seen.append(_torch_private.is_transformed()) or x.sum())(torch.ones(3))
    torch.func.vmap(lambda x: seen.append(_torch_private.is_transformed()) or x)(torch.ones(3))
    assert seen == [True, True]
    assert not _torch_private.is_transformed()


def test_a_backward_pass_is_noticed_by_what_it_calls():
    seen, x = [], torch.ones(3, requires_grad=True)
    x.register_hook(lambda grad: seen.append(_torch_private.is_in_backward()))
    x.sum().backward()
    assert seen == [True]
    assert not _torch_private.is_in_backward()


def test_nothing_computed_outside_transforms_is_wrapped():
    weight, products = torch.ones(3), []

    def function(x):
        products.append(weight * 2.0)
        with _torch_private.outside_transforms():
            products.append(weight * 2.0)
        return x.sum()

    torch.func.grad(function)(torch.ones(3))
    inside, outside = products
    assert torch.func.debug_unwrap(inside) is not inside
    assert torch.func.debug_unwrap(outside) is outside
    torch.testing.assert_close(outside, weight * 2.0)


def test_a_function_is_applied_as_by_its_own_apply():
    x = torch.randn(3, requires_grad=True)
    y = _torch_private.apply_function(Double, (x, "two"))
    assert type(y.grad_fn) is type(Double.apply(x, "two").grad_fn)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, torch.full((3,), 2.0))


def test_a_wrapper_that_outlived_its_transform_is_replaced_by_its_tensor():
    x = torch.randn(3)
    dead = wrapper_of(x)
    assert torch.func.debug_unwrap(dead) is not dead
    y = _torch_private.apply_function(Double, (dead, "two"))
    torch.testing.assert_close(y, 2.0 * x)
    assert torch.func.debug_unwrap(y) is y


def test_tensors_are_copied_in_place():
    targets, sources = [torch.zeros(3), torch.zeros(())], [torch.arange(3.0), torch.ones(())]
    addresses = [t.data_ptr() for t in targets]
    _torch_private.copy_all(targets, sources)
    assert [t.data_ptr() for t in targets] == addresses
    for target, source in zip(targets, sources, strict=True):
        assert torch.equal(target, source)
