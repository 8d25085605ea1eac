#include <torch/csrc/stable/library.h>

#include "device.h"
#include "torch/traces.h"

namespace irf::binding {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> residual_logdet(
    const Tensor& x, const Tensors& weights, const Tensors& biases, const Tensors& betas, const Tensors& factors,
    const std::vector<int64_t>& activations, const std::vector<double>& constants, const Tensor& probe,
    const Tensor& coefficients, const Tensors& maps, const std::vector<int64_t>& stages,
    const std::optional<Tensor>& tail, double tolerance, bool relative, bool neumann, bool keep, int64_t precision) {
  const BranchArguments arguments(x, weights, biases, betas, factors, activations, constants);
  STD_TORCH_CHECK(arguments.square(),
                  "a residual branch must return the shape it takes, got other outputs; change them.");
  STD_TORCH_CHECK(probe.dim() == x.dim() + 1, "probe must have one dimension more than x, [m, *x.shape], got ",
                  probe.dim(), "; reshape it.");
  STD_TORCH_CHECK(coefficients.dim() == 1 || coefficients.dim() == 2, "coefficients must be [n] or [B, n], got ",
                  coefficients.dim(), " dimensions; reshape them.");
  STD_TORCH_CHECK(tolerance >= 0.0, "tolerance must not be negative or NaN, got ", tolerance, "; pass e.g. 1e-3.");
  const int64_t batch = arguments.batch(), probes = checked_int(probe.size(0), 1, "the number of probes");
  const bool per_sample = coefficients.dim() == 2;
  const int64_t terms = checked_int(coefficients.size(per_sample ? 1 : 0), 0, "the number of terms");
  const Tensor v = dense(probe), q = dense(coefficients);
  check_like(v, x, probes * x.numel(), "probe");
  check_like(q, x, per_sample ? batch * terms : terms, "coefficients");
  const auto t = dense_like(tail, x, terms, "tail");
  const TraceArguments traces(arguments, maps, stages);
  STD_TORCH_CHECK(traces.count() <= terms, "there must be a coefficient for each of ", traces.count(),
                  " exact terms, got ", terms, "; add some.");

  Tensor z = make(arguments.event_sizes({batch}, x.size(1)), x);
  Tensor value = make({batch}, x);
  Tensor y = neumann ? make(arguments.event_sizes({probes, batch}, x.size(1)), x) : make({0}, x);
  Tensor norms = make({probes, batch}, x);
  Tensor used = make({probes, batch}, x, ScalarType::Long);
  Tensor kept = make({0}, x);
  if (x.numel() == 0) {  // no samples, or samples without numbers
    for (Tensor* t : {&value, &norms, &used}) torch::stable::zero_(*t);
    return {z, value, y, norms, used, kept};
  }
  STD_TORCH_CHECK(!keep || (probes == 1 && !tail), "only one probe without a stop can be kept, got ", probes,
                  " probes; pass keep=False.");
  with_branch(arguments, [&]<class T>(const Branch<T>& branch, T) {
    const OnDevice<T> device(x, precision);
    std::vector<Trace<T>> trace;
    ResidualLogdetOperands<T> operands{
        .x = data<T>(arguments.x()),
        .probes = static_cast<int>(probes),
        .probe = data<T>(v),
        .series = {.terms = static_cast<int>(terms),
                   .coefficients = data<T>(q),
                   .per_sample = per_sample,
                   .tail = data<T>(t),
                   .tolerance = static_cast<T>(tolerance),
                   .relative = relative,
                   .value = mutable_data<T>(value),
                   .neumann = neumann ? mutable_data<T>(y) : nullptr,
                   .norms = mutable_data<T>(norms),
                   .terms_used = mutable_data<int64_t>(used),
                   .traces = traces.fill<T>(trace, data<T>(q), static_cast<int>(terms), per_sample)},
        .z = mutable_data<T>(z),
        .kept = nullptr};
    if (keep) kept = device.lasting(device.kept_size(branch, operands), x);
    if (kept.numel() > 0) operands.kept = mutable_data<T>(kept);
    device.residual_logdet(branch, operands);
  });
  return {z, value, y, norms, used, kept};
}

Tensor jacobian_powers(const Tensor& x, const Tensors& weights, const Tensors& biases, const Tensors& betas,
                       const Tensors& factors, const std::vector<int64_t>& activations,
                       const std::vector<double>& constants, const Tensor& start, int64_t count, bool transpose,
                       int64_t precision) {
  const BranchArguments arguments(x, weights, biases, betas, factors, activations, constants);
  STD_TORCH_CHECK(arguments.square(),
                  "a residual branch must return the shape it takes, got other outputs; change them.");
  const Tensor v = dense(start);
  checked_int(count, 0, "count");
  check_like(v, x, x.numel(), "start");
  Tensor powers = make(arguments.event_sizes({count, arguments.batch()}, x.size(1)), x);
  if (powers.numel() == 0) return powers;
  with_branch(arguments, [&]<class T>(const Branch<T>& branch, T) {
    OnDevice<T>(x, precision)
        .jacobian_powers(
            branch, {data<T>(arguments.x()), data<T>(v), static_cast<int>(count), transpose, mutable_data<T>(powers)});
  });
  return powers;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iresnet_fast, IRF_DEVICE, m) {
  m.impl("residual_logdet", TORCH_BOX(&residual_logdet));
  m.impl("jacobian_powers", TORCH_BOX(&jacobian_powers));
}

}  // namespace irf::binding
