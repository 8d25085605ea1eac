// The op `residual_inverse`: x with x + g(x) = z by the fixed-point iteration x <- z - g(x), accelerated, each sample
// stopped by its own residual and then frozen (docs/mathematics.md, 5).
#include <optional>

#include "cuda/device/pack_weights.h"
#include "cuda/layered/inverse.h"
#include "cuda/layered/sums.h"
#include "cuda/resident/forward.h"

namespace irf::cuda {
namespace {

constexpr int kExpectedIterations = 20;

template <class T>
cudaError_t run(const Branch<T>& branch, const ResidualInverseOperands<T>& op, Context context, Carver& carver) {
  const BranchShape shape = shape_of(branch);
  const WalkRequest request{WalkKind::kInverse, 1, kExpectedIterations, false, false};
  context.precision = cheapest_precision(shape, request, context.precision, sizeof(T), context.card);
  const ResidentPlan plan = plan_walk(shape, request, context.precision, sizeof(T), context.card);
  context.sums = carver.take<T>(largest_sums(branch, 1, context.precision, context.card));
  const std::vector<T*> weights = carve_packed(branch, Form::kForward, context.precision, carver);
  std::optional<LayeredInverseScratch<T>> scratch;
  ResidentHistory<T> history{};
  const bool accelerated = op.lipschitz > T(0);
  if (!plan.resident)
    scratch.emplace(branch, accelerated, context.precision, context.card, carver);
  else if (accelerated)
    history = ResidentHistory<T>(plan, carver);
  if (carver.counting()) return cudaSuccess;
  const cudaError_t error = pack_weights(branch, Form::kForward, context.precision, weights.data(), context.stream);
  if (error != cudaSuccess) return error;
  return scratch ? layered_inverse(branch, weights.data(), op, *scratch, context)
                 : resident_inverse(branch, weights.data(), op, plan, history, context);
}

}  // namespace

template <class T>
size_t residual_inverse_workspace(const Branch<T>& branch, const ResidualInverseOperands<T>& op, const Card& card,
                                  Precision precision) {
  Carver carver(nullptr);
  run(branch, op, Context{card, precision, nullptr, nullptr}, carver);
  return carver.used();
}

template <class T>
cudaError_t residual_inverse(const Branch<T>& branch, const ResidualInverseOperands<T>& op, const Context& context) {
  Carver carver(context.workspace);
  return run(branch, op, context, carver);
}

#define IRF_INSTANTIATE(T)                                                                                        \
  template size_t residual_inverse_workspace<T>(const Branch<T>&, const ResidualInverseOperands<T>&, const Card&, \
                                                Precision);                                                       \
  template cudaError_t residual_inverse<T>(const Branch<T>&, const ResidualInverseOperands<T>&, const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
