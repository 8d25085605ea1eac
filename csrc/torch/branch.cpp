#include <torch/csrc/stable/library.h>

#include "device.h"
#include "torch/traces.h"

namespace irf::binding {
namespace {

Tensor branch(const Tensor& x, const Tensors& weights, const Tensors& biases, const Tensors& betas,
              const Tensors& factors, const std::vector<int64_t>& activations, const std::vector<double>& constants,
              int64_t precision) {
  const BranchArguments arguments(x, weights, biases, betas, factors, activations, constants);
  Tensor g = make(arguments.event_sizes({arguments.batch()}, arguments.out_channels()), x);
  if (g.numel() == 0) return g;
  with_branch(arguments, [&]<class T>(const Branch<T>& branch, T) {
    OnDevice<T>(x, precision).branch(branch, {data<T>(arguments.x()), mutable_data<T>(g), false});
  });
  return g;
}

std::tuple<Tensor, Tensor> branch_backward(
    const Tensor& x, const Tensors& weights, const Tensors& biases, const Tensors& betas, const Tensors& factors,
    const std::vector<int64_t>& activations, const std::vector<double>& constants, const std::optional<Tensor>& grad,
    const std::optional<Tensor>& tangents, const std::optional<Tensor>& cotangents, const std::optional<Tensor>& weight,
    const Tensors& maps, const std::vector<int64_t>& stages, const std::optional<Tensor>& coefficients, bool residual,
    bool input_gradient, const std::optional<Tensor>& kept, int64_t precision) {
  const BranchArguments arguments(x, weights, biases, betas, factors, activations, constants);
  Tensor grad_x =
      make(input_gradient ? arguments.event_sizes({arguments.batch()}, x.size(1)) : std::vector<int64_t>{0}, x);
  const TraceArguments traces(arguments, maps, stages);
  Tensor grad_parameters = make({arguments.parameter_count() + traces.parameter_count()}, x);
  if (x.numel() == 0) {
    torch::stable::zero_(grad_parameters);
    return {grad_x, grad_parameters};
  }
  const int64_t size = arguments.in_size();
  const auto upstream = dense_like(grad, x, x.numel() / x.size(1) * arguments.out_channels(), "grad");
  std::optional<Tensor> t, y, gl;
  int pairs = 0;
  if (tangents) {
    STD_TORCH_CHECK(cotangents && weight && arguments.square(),
                    "tangents need cotangents, weight and a branch of as many outputs as inputs; pass them.");
    STD_TORCH_CHECK(tangents->dim() > 0, "tangents must be [m, *x.shape], got no dimension; reshape them.");
    pairs = checked_int(tangents->size(0), 1, "the number of tangents");
    t = dense_like(tangents, x, pairs * arguments.batch() * size, "tangents");
    y = dense_like(cotangents, x, pairs * arguments.batch() * size, "cotangents");
    gl = dense_like(weight, x, arguments.batch(), "weight");
  }
  std::optional<Tensor> q;
  int terms = 0;
  const bool per_sample = coefficients && coefficients->dim() == 2;
  if (traces.count() > 0) {
    STD_TORCH_CHECK(tangents && coefficients && (coefficients->dim() == 1 || per_sample),
                    "maps need tangents and coefficients [n] or [B, n]; pass them.");
    terms = checked_int(coefficients->size(per_sample ? 1 : 0), traces.count(), "the number of coefficients");
    q = dense_like(coefficients, x, per_sample ? arguments.batch() * terms : terms, "coefficients");
  }
  const auto saved = dense_kept(kept, x);
  STD_TORCH_CHECK(!residual || arguments.square(),
                  "a residual branch must return the shape it takes, got other outputs; change them.");
  with_branch(arguments, [&]<class T>(const Branch<T>& branch, T) {
    std::vector<Trace<T>> trace;
    OnDevice<T>(x, precision)
        .branch_backward(branch, {.x = data<T>(arguments.x()),
                                  .grad = data<T>(upstream),
                                  .pairs = pairs,
                                  .tangents = data<T>(t),
                                  .cotangents = data<T>(y),
                                  .weight = data<T>(gl),
                                  .residual = residual,
                                  .grad_x = input_gradient ? mutable_data<T>(grad_x) : nullptr,
                                  .grad_parameters = mutable_data<T>(grad_parameters),
                                  .kept = data<T>(saved),
                                  .kept_size = saved ? saved->numel() : 0,
                                  .traces = traces.fill<T>(trace, data<T>(q), terms, per_sample)});
    traces.add_gradients(arguments, mutable_data<T>(grad_parameters));
  });
  return {grad_x, grad_parameters};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iresnet_fast, IRF_DEVICE, m) {
  m.impl("branch", TORCH_BOX(&branch));
  m.impl("branch_backward", TORCH_BOX(&branch_backward));
}

}  // namespace irf::binding
