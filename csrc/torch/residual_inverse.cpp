#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>

#include "device.h"
#include "torch/operands.h"

namespace irf::binding {
namespace {

// After how many iterations the residual of a contraction, lipschitz^n of the first one, is the rounding of the first.
// More bring nothing: x <- z - g(x) rounds g(x), whose norm is about that of the first residual, by as much.
// Accelerated, a sample takes at most one more.
template <class T>
int64_t iterations_to_rounding(double lipschitz) {
  if (lipschitz == 0.0) return 1;
  return static_cast<int64_t>(std::ceil(std::log(double(std::numeric_limits<T>::epsilon())) / std::log(lipschitz)));
}

std::tuple<Tensor, Tensor, Tensor> residual_inverse(const Tensor& z, const Tensors& weights, const Tensors& biases,
                                                    const Tensors& betas, const Tensors& factors,
                                                    const std::vector<int64_t>& activations,
                                                    const std::vector<double>& constants, double residual_limit,
                                                    int64_t max_iterations, double lipschitz, bool accelerate,
                                                    int64_t precision) {
  const BranchArguments arguments(z, weights, biases, betas, factors, activations, constants);
  STD_TORCH_CHECK(arguments.square(),
                  "a residual branch must return the shape it takes, got other outputs; change them.");
  STD_TORCH_CHECK(0.0 <= lipschitz && lipschitz < 1.0, "lipschitz must be in [0, 1), got ", lipschitz,
                  "; normalise the weights.");
  STD_TORCH_CHECK(residual_limit >= 0.0, "residual_limit must not be negative or NaN, got ", residual_limit,
                  "; pass e.g. 1e-6.");
  STD_TORCH_CHECK(max_iterations >= 0, "max_iterations must not be negative, got ", max_iterations, "; pass e.g. 100.");
  Tensor x = make(arguments.event_sizes({arguments.batch()}, z.size(1)), z);
  Tensor iterations = make({arguments.batch()}, z, ScalarType::Long);
  Tensor residual = make({arguments.batch()}, z);
  if (x.numel() == 0) {  // no samples, or samples without numbers
    for (Tensor* t : {&iterations, &residual}) torch::stable::zero_(*t);
    return {x, iterations, residual};
  }
  with_branch(arguments, [&]<class T>(const Branch<T>& branch, T) {
    OnDevice<T>(z, precision)
        .residual_inverse(
            branch, {data<T>(arguments.x()), static_cast<T>(residual_limit), max_iterations,
                     iterations_to_rounding<T>(lipschitz) + accelerate, static_cast<T>(accelerate ? lipschitz : 0.0),
                     mutable_data<T>(x), mutable_data<int64_t>(iterations), mutable_data<T>(residual)});
  });
  return {x, iterations, residual};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iresnet_fast, IRF_DEVICE, m) { m.impl("residual_inverse", TORCH_BOX(&residual_inverse)); }

}  // namespace irf::binding
