"""What every transform keeps: log-determinant of its Jacobian, inverse, gradients, copies, files and small batches."""

import copy
import io
import math
import pickle

import pytest
import torch
from nn_transforms import CASES, make, make_input

from iresnet_fast import nn
from iresnet_fast.estimators import PowerSeries
from iresnet_fast.nn._transform import output_shape

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. (InvertibleResidualBlock runs|there are no kernels)"),
]
every_transform = pytest.mark.parametrize("name", CASES)


@every_transform
def test_logdet_is_that_of_the_jacobian(name):
    transform, x = make(name), make_input(name)
    z, logdet = transform(x)
    assert logdet.shape == (3,)
    assert logdet.dtype == torch.float64
    assert z.shape[1:] == output_shape(transform, x.shape[1:])
    for row, expected in zip(x, logdet, strict=True):
        jacobian = torch.func.jacrev(lambda a: transform(a[None])[0][0])(row).reshape(-1, row.numel())
        # sqrt det J^T J is |det J|, and also the volume a map into more dimensions keeps
        torch.testing.assert_close(0.5 * torch.linalg.slogdet(jacobian.t() @ jacobian)[1], expected)


@every_transform
def test_inverse_there_and_back(name):
    transform, x = make(name), make_input(name)
    z, logdet = transform(x)
    back, inverse_logdet = transform.inverse(z)
    torch.testing.assert_close(back, x, atol=1e-10, rtol=0.0)
    torch.testing.assert_close(inverse_logdet, -logdet, atol=1e-8, rtol=0.0)
    again, _ = transform(back)
    torch.testing.assert_close(again, z, atol=1e-10, rtol=0.0)


# The noise that dequantises is another one at any other value, which leaves differences nothing to compare with.
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("dequantize")])
def test_gradients(name):
    transform = make(name)
    x = make_input(name, 2).requires_grad_()
    # All but the weights that power iteration normalises: it ignores changes as small as gradcheck's.
    parameters = tuple(
        parameter
        for module in transform.modules()
        for name_of, parameter in module.named_parameters(recurse=False)
        if not (isinstance(module, (nn.SpectralLinear, nn.SpectralConv2d)) and name_of == "weight")
    )
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)  # an upstream gradient that differs from sample to sample

    def loss(a, *_):
        z, logdet = transform(a)
        return z.square().flatten(1).sum(1) @ weights + logdet @ weights

    torch.autograd.gradcheck(loss, (x, *parameters), atol=1e-5, rtol=1e-3, fast_mode=name == "multiscale")


@pytest.mark.parametrize(("name", "slope"), [("dequantize", 0.2), ("dequantize steps", 1.0)])
def test_gradients_pass_noise_by(name, slope):
    x = make_input(name).requires_grad_()
    weights = torch.randn(x.shape, dtype=x.dtype)
    z, logdet = make(name)(x)
    ((z * weights).sum() + logdet.sum()).backward()
    torch.testing.assert_close(x.grad, slope * weights)


@every_transform
def test_defect_24_every_parameter_gets_a_gradient(name):
    """residual-flows registers parameters that no gradient reaches, which DistributedDataParallel refuses."""
    transform = make(name).train()
    z, logdet = transform(make_input(name))
    if any(True for _ in transform.parameters()):
        (z.square().sum() + logdet.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in transform.parameters())


@every_transform
def test_state_dict_copies_and_pickles(name):
    transform, x = make(name), make_input(name)
    expected = transform(x)
    file = io.BytesIO()
    torch.save(transform.state_dict(), file)
    file.seek(0)
    loaded = make(name)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (loaded, copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        for ours, theirs in zip(other(x), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@every_transform
@pytest.mark.parametrize("batch", [0, 1])
def test_defect_22_small_batches(name, batch):
    transform, x = make(name).train(), make_input(name, batch)
    z, logdet = transform(x)
    assert z.shape == (batch, *output_shape(transform, x.shape[1:]))
    assert logdet.shape == (batch,)
    back, inverse_logdet = transform.inverse(z)
    assert back.shape == x.shape
    assert inverse_logdet.shape == (batch,)


@every_transform
def test_modes_dtypes_and_strides(name):
    transform, x = make(name), make_input(name)
    expected = [*transform(x), *transform.inverse(transform(x)[0])]
    with torch.inference_mode():
        results = [*transform(x.clone()), *transform.inverse(transform(x.clone())[0])]
    strided = x.transpose(0, -1).contiguous().transpose(0, -1)
    z = transform(x)[0]
    strided_z = z.transpose(0, -1).contiguous().transpose(0, -1)
    for ours, theirs in zip(
        [*results, *transform(strided), *transform.inverse(strided_z)], expected + expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    for module in transform.modules():
        if isinstance(module, nn.InvertibleResidualBlock):
            module.estimator = PowerSeries(3)  # torch has no determinant of bfloat16
    low = make_input(name, dtype=torch.bfloat16)
    z, logdet = transform.bfloat16()(low)
    assert z.dtype == logdet.dtype == torch.bfloat16
    if not isinstance(transform, (nn.InvertibleResidualBlock, nn.MultiScale)):  # which would warn of the rounding
        assert transform.inverse(z)[0].dtype == torch.bfloat16


@every_transform
def test_defect_34_repr(name):
    """FlowConductor's repr(iResBlock) raises AttributeError."""
    assert type(make(name)).__name__ in repr(make(name))


@every_transform
def test_logdet_has_memory_of_its_own(name):
    transform, x = make(name), make_input(name)
    with torch.no_grad():
        for _, logdet in (transform(x), transform.inverse(transform(x)[0])):
            before = logdet.clone()
            logdet[0] += 1.0
            assert torch.equal(logdet[1:], before[1:])


@pytest.mark.parametrize("name", ["actnorm conv", "linear conv", "logit", "affine", "whiten", "sequential", "squeeze"])
def test_compiles_without_a_break(name):
    transform, x = make(name), make_input(name)
    transform(x)
    compiled = torch.compile(transform, backend="eager", fullgraph=True)
    for ours, theirs in zip(compiled(x), transform(x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_flow_of_all_of_them():
    branch = nn.ResidualBranch.conv([4, 8, 4], [3, 1], (4, 4), activation="lipswish")
    flow = nn.Sequential(
        nn.Dequantize(),
        nn.Logit(),
        nn.Squeeze(),
        nn.ActNorm(4),
        nn.InvertibleLinear(4),
        nn.InvertibleResidualBlock(branch),
        nn.MultiScale(
            [
                nn.Sequential(nn.ActNorm(4), nn.InvertibleResidualBlock(nn.DenseBranch.conv(4, 3, image_size=4))),
                nn.Sequential(nn.Squeeze(), nn.ActNorm(8), nn.Flatten((8, 2, 2)), nn.Permutation.reverse(32)),
            ],
            (4, 4, 4),
        ),
    )
    x = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    assert flow.output_shape((1, 8, 8)) == (64,)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        z, logdet = flow(x)
        log_prob = logdet - 0.5 * (z.square() + math.log(2.0 * math.pi)).sum(1)
        assert log_prob.isfinite().all()
        losses.append(-log_prob.mean().item())
        optimizer.zero_grad()
        (-log_prob.mean()).backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 5.0
    flow.eval()
    with torch.no_grad():
        z, logdet = flow(x)
        back, inverse_logdet = flow.inverse(z)
    assert torch.equal(back, x.float())
    torch.testing.assert_close(inverse_logdet, -logdet, atol=2e-3, rtol=0.0)
