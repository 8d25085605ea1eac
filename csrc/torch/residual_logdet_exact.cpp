#include <torch/csrc/stable/library.h>

#include "device.h"
#include "torch/operands.h"

namespace irf::binding {
namespace {

Tensor jacobian(const Tensor& x, const Tensors& weights, const Tensors& biases, const Tensors& betas,
                const Tensors& factors, const std::vector<int64_t>& activations, const std::vector<double>& constants,
                int64_t precision) {
  const BranchArguments arguments(x, weights, biases, betas, factors, activations, constants);
  STD_TORCH_CHECK(arguments.square(),
                  "a residual branch must return the shape it takes, got other outputs; change them.");
  int64_t size = 1;
  for (int64_t axis = 1; axis < x.dim(); ++axis) size *= x.size(axis);
  Tensor result = make({arguments.batch(), size, size}, x);
  if (result.numel() == 0) return result;
  with_branch(arguments, [&]<class T>(const Branch<T>& branch, T) {
    OnDevice<T>(x, precision).jacobian(branch, {data<T>(arguments.x()), mutable_data<T>(result)});
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iresnet_fast, IRF_DEVICE, m) { m.impl("jacobian", TORCH_BOX(&jacobian)); }

}  // namespace irf::binding
