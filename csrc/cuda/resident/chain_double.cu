#include "cuda/resident/chain.cuh"

namespace irf::cuda {

template <>
cudaError_t resident_chain(const Chain<double>& chain, const ResidentPlan& plan, const Context& context) {
  return with_double_tiles(plan, [&](auto tiles) { return launch_chain<decltype(tiles)>(chain, plan, context); });
}

}  // namespace irf::cuda
