"""What iresnet_fast/_torch_private.py takes from torch does what its functions promise, and nothing else is taken."""

import functools
import importlib
import re
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

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


def test_levels_of_forward_mode_are_counted():
    seen, x = [], torch.ones(())

    def look(y):
        seen.append((_torch_private.forward_levels(), _torch_private.sees_transforms()))
        return y

    look(x)
    torch.func.grad(look)(x)
    torch.func.jvp(look, (x,), (x,))
    torch.func.jvp(lambda y: torch.func.jvp(look, (y,), (y,))[1], (x,), (x,))
    torch.func.jvp(torch.func.grad(look), (x,), (x,))
    with forward_ad.dual_level():
        look(x)
    assert seen == [(0, False), (0, True), (1, True), (2, True), (1, True), (1, True)]


def test_a_trace_is_noticed():
    seen = []
    torch.func.linearize(lambda x: seen.append(_torch_private.is_traced()) or 2.0 * x, torch.ones(3))
    assert seen[-1]
    assert not _torch_private.is_traced()


def test_a_constant_is_one_of_every_derivative():
    """Of y^2 x^2 with one factor y x constant, d/dy at y = x is x^2 y = 8, and its derivative by x what is left, 4."""
    grad, jvp, two, one = torch.func.grad, torch.func.jvp, torch.tensor(2.0), torch.tensor(1.0)

    def function(x):
        return lambda y: _torch_private.constant(y * x) * y * x

    for inner in (lambda x: grad(function(x))(x), lambda x: jvp(function(x), (x,), (one,))[1]):
        assert float(inner(two)) == 8.0
        assert float(grad(inner)(two)) == 4.0
        assert float(jvp(inner, (two,), (one,))[1]) == 4.0
    assert not _torch_private.constant(torch.ones(3, requires_grad=True) * 2.0).requires_grad


def test_saved_tensors_of_a_transform_that_is_over_are_replaced():
    x = torch.randn(3)
    found = _torch_private.alive((wrapper_of(x), None, x))
    assert torch.func.debug_unwrap(found[0]) is found[0]
    torch.testing.assert_close(found[0], x)
    assert found[1] is None
    assert found[2] is x


class Matrix(torch.autograd.Function):
    """x -> x w, whose derivatives torch's older vmap cannot batch: they read a number."""

    @staticmethod
    def forward(x, w):
        return x @ w

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @_torch_private.by_vmap
    def backward(ctx, grad):
        return Twice.apply(0.5 * grad @ ctx.saved_tensors[1].T), None

    @staticmethod
    @_torch_private.by_vmap
    def jvp(ctx, dx, dw):
        return Twice.apply(0.5 * dx @ ctx.saved_tensors[1])


class Twice(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        assert not torch._C._functorch.is_legacy_batchedtensor(x)
        return 2.0 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass


@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_derivatives_are_vectorised_by_the_newer_vmap(strategy):
    x, w = torch.randn(2, 3), torch.randn(3, 4)
    expected = torch.autograd.functional.jacobian(lambda x: x @ w, x)
    found = torch.autograd.functional.jacobian(lambda x: Matrix.apply(x, w), x, vectorize=True, strategy=strategy)
    torch.testing.assert_close(found, expected)


def test_derivatives_vectorised_twice():
    x, w = torch.randn(2, 3), torch.randn(3, 4)
    x.requires_grad_()
    y, basis = Matrix.apply(x, w), torch.eye(8).view(2, 4, 2, 4)
    outer = torch._vmap_internals._vmap(lambda b: torch.autograd.grad(y, x, b, True, is_grads_batched=True)[0])
    expected = torch.autograd.functional.jacobian(lambda x: x @ w, x)
    torch.testing.assert_close(outer(basis), expected)


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


REGISTER = [
    "register_forward_pre_hook",
    "register_forward_hook",
    "register_full_backward_pre_hook",
    "register_full_backward_hook",
]


@pytest.mark.parametrize("register", REGISTER)
def test_hooks_are_noticed(register):
    module = torch.nn.Linear(1, 1)
    assert not _torch_private.has_hooks(module)
    with getattr(module, register)(lambda *_: None):
        assert _torch_private.has_hooks(module)
        assert not _torch_private.has_hooks_of_all_modules()
    of_all = register.replace("register_", "register_module_")
    with getattr(torch.nn.modules.module, of_all)(lambda *_: None):
        assert _torch_private.has_hooks(module)
        assert _torch_private.has_hooks_of_all_modules()
    assert not _torch_private.has_hooks(module)


@pytest.mark.slow  # it imports the compiler
def test_a_compiled_call_is_noticed():
    module = torch.nn.Linear(1, 1)
    assert not _torch_private.has_compiled_call(module)
    module.compile(backend="aot_eager")
    assert _torch_private.has_compiled_call(module)


@pytest.mark.slow  # it imports the compiler
def test_a_function_stays_outside_compiled_graphs():
    seen = []

    @_torch_private.outside_compiled_graphs
    def alone(x):
        seen.append(torch.compiler.is_compiling())
        return x + inner(x)

    def inner(x):
        seen.append(torch.compiler.is_compiling())
        return 2.0 * x

    torch.compiler.reset()
    compiled = torch.compile(lambda x: alone(x + 1.0) - 1.0, backend="aot_eager")
    torch.testing.assert_close(compiled(torch.ones(2)), torch.full((2,), 5.0))
    assert seen == [False, False]


@pytest.mark.slow  # it imports FSDP
def test_what_fully_shard_has_gathered_leads_to_its_part(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fsdp = importlib.import_module("torch.distributed.fsdp")
        module, seen = Seeing(2, 2), []
        weight = fsdp.fully_shard(module, mesh=torch.distributed.init_device_mesh("cpu", (1,))).weight
        module.see = lambda: seen.append(
            (_torch_private.sharded_parameter_of(module.weight), _torch_private.is_in_fsdp_forward(module))
        )
        module(torch.ones(1, 2))
        assert seen[0][0] is weight
        assert seen[0][1]
        assert not _torch_private.is_in_fsdp_forward(module)
        assert _torch_private.sharded_parameter_of(torch.ones(2)) is None
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow  # it imports FSDP
def test_what_stays_gathered_after_a_forward_is_idle_until_it_is_freed(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fsdp = importlib.import_module("torch.distributed.fsdp")
        mesh, called = torch.distributed.init_device_mesh("cpu", (1,)), []
        module = fsdp.fully_shard(Seeing(2, 2), mesh=mesh, reshard_after_forward=False)
        module.register_forward_hook(lambda *_: called.append(1))
        assert _torch_private.has_fsdp_modules()
        part, idle = module.weight, functools.partial(_torch_private.sharded_parameter_of, idle=True)

        def see():
            assert idle(module.weight) is None
            assert not _torch_private.awaits_fsdp_backward(module.weight.detach())
            module.see = lambda: None
            with _torch_private.without_fsdp_hooks(module):
                module(torch.ones(1, 2))
            assert _torch_private.is_in_fsdp_forward(module)  # FSDP's hook would have ended it
            assert called == [1]

        module.see = see
        assert _torch_private.awaits_fsdp_backward({"found": [module(torch.ones(1, 2))]})
        assert called == [1, 1]
        assert module.weight is not part
        assert idle(module.weight) is part
        _torch_private.end_fsdp_forward(module)
        assert module.weight is part
    finally:
        torch.distributed.destroy_process_group()


class Seeing(torch.nn.Linear):
    def forward(self, input):
        self.see()
        return super().forward(input)
