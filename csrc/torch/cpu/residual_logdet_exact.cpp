// The exact log-determinant in one pass over tiles. On a GPU iresnet_fast/ops composes it of other ops.
#include <torch/csrc/stable/library.h>

#include "device.h"
#include "torch/operands.h"

namespace irf::binding {
namespace {

// Numbers of an event: the time of elimination in lanes grows with the third power, and its memory with the second.
constexpr int64_t kLargestEvent = 512;

void check_event(int64_t size) {
  STD_TORCH_CHECK(size <= kLargestEvent, "an event must have at most ", kLargestEvent, " numbers, got ", size,
                  "; take the Jacobian and torch.linalg.slogdet.");
}

std::tuple<Tensor, Tensor, Tensor> residual_logdet_exact(const Tensor& x, const Tensors& weights, const Tensors& biases,
                                                         const Tensors& betas, const Tensors& factors,
                                                         const std::vector<int64_t>& activations,
                                                         const std::vector<double>& constants, bool keep) {
  const BranchArguments arguments(x, weights, biases, betas, factors, activations, constants);
  STD_TORCH_CHECK(arguments.square(),
                  "a residual branch must return the shape it takes, got other outputs; change them.");
  Tensor z = make(arguments.event_sizes({arguments.batch()}, x.size(1)), x);
  Tensor logdet = make({arguments.batch()}, x);
  Tensor kept = make({0}, x);
  if (x.numel() == 0) {  // no samples, or samples without numbers
    torch::stable::zero_(logdet);
    return {z, logdet, kept};
  }
  check_event(arguments.in_size());
  with_branch(arguments, [&]<class T>(const Branch<T>& branch, T) {
    const OnDevice<T> device(x);
    if (keep) kept = device.exact_kept(branch, x);
    device.residual_logdet_exact(branch, {data<T>(arguments.x()), mutable_data<T>(z), mutable_data<T>(logdet),
                                          keep ? mutable_data<T>(kept) : nullptr});
  });
  return {z, logdet, kept};
}

std::tuple<Tensor, Tensor> residual_logdet_exact_backward(
    const Tensor& x, const Tensors& weights, const Tensors& biases, const Tensors& betas, const Tensors& factors,
    const std::vector<int64_t>& activations, const std::vector<double>& constants, const std::optional<Tensor>& grad_z,
    const std::optional<Tensor>& grad_logdet, bool input_gradient, const std::optional<Tensor>& kept) {
  const BranchArguments arguments(x, weights, biases, betas, factors, activations, constants);
  STD_TORCH_CHECK(arguments.square(),
                  "a residual branch must return the shape it takes, got other outputs; change them.");
  Tensor grad_x =
      make(input_gradient ? arguments.event_sizes({arguments.batch()}, x.size(1)) : std::vector<int64_t>{0}, x);
  Tensor grad_parameters = make({arguments.parameter_count()}, x);
  if (x.numel() == 0) {
    torch::stable::zero_(grad_parameters);
    return {grad_x, grad_parameters};
  }
  check_event(arguments.in_size());
  const auto gz = dense_like(grad_z, x, x.numel(), "grad_z");
  const auto gl = dense_like(grad_logdet, x, arguments.batch(), "grad_logdet");
  const auto saved = dense_kept(kept, x);
  with_branch(arguments, [&]<class T>(const Branch<T>& branch, T) {
    OnDevice<T>(x).residual_logdet_exact_backward(
        branch, {data<T>(arguments.x()), data<T>(gz), data<T>(gl), input_gradient ? mutable_data<T>(grad_x) : nullptr,
                 mutable_data<T>(grad_parameters), data<T>(saved), saved ? saved->numel() : 0});
  });
  return {grad_x, grad_parameters};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iresnet_fast, IRF_DEVICE, m) {
  m.impl("residual_logdet_exact", TORCH_BOX(&residual_logdet_exact));
  m.impl("residual_logdet_exact_backward", TORCH_BOX(&residual_logdet_exact_backward));
}

}  // namespace irf::binding
