#include "cuda/resident/chain.cuh"

namespace irf::cuda {

template <>
cudaError_t resident_chain(const Chain<float>& chain, const ResidentPlan& plan, const Context& context) {
  if (plan.precision != Precision::kFull) return resident_chain_tensor(chain, plan, context);
  return with_float_tiles(plan, [&](auto tiles) { return launch_chain<decltype(tiles)>(chain, plan, context); });
}

}  // namespace irf::cuda
