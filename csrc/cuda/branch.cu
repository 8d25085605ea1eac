// The op `branch`: g(x).
#include "cuda/device/pack_weights.h"
#include "cuda/layered/sums.h"
#include "cuda/planned.h"

namespace irf::cuda {
namespace {

template <class T>
cudaError_t run(const Branch<T>& branch, const BranchOperands<T>& op, Context context, Carver& carver) {
  context.precision = cheapest_precision(shape_of(branch), kForwardWalk, context.precision, sizeof(T), context.card);
  context.sums = carver.take<T>(largest_sums(branch, 1, context.precision, context.card));
  const std::vector<T*> weights = carve_packed(branch, Form::kForward, context.precision, carver);
  const PlannedForward<T> forward(branch, weights.data(), op.x, {}, nullptr, op.g, {}, context, carver);
  if (carver.counting()) return cudaSuccess;
  const cudaError_t error = pack_weights(branch, Form::kForward, context.precision, weights.data(), context.stream);
  return error == cudaSuccess ? forward.run() : error;
}

}  // namespace

template <class T>
size_t branch_workspace(const Branch<T>& branch, const BranchOperands<T>& op, const Card& card, Precision precision) {
  Carver carver(nullptr);
  run(branch, op, Context{card, precision, nullptr, nullptr}, carver);
  return carver.used();
}

template <class T>
cudaError_t branch(const Branch<T>& branch, const BranchOperands<T>& op, const Context& context) {
  Carver carver(context.workspace);
  return run(branch, op, context, carver);
}

#define IRF_INSTANTIATE(T)                                                                                 \
  template size_t branch_workspace<T>(const Branch<T>&, const BranchOperands<T>&, const Card&, Precision); \
  template cudaError_t branch<T>(const Branch<T>&, const BranchOperands<T>&, const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
