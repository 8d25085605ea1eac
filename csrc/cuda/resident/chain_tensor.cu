#include "cuda/resident/chain.cuh"

namespace irf::cuda {

cudaError_t resident_chain_tensor(const Chain<float>& chain, const ResidentPlan& plan, const Context& context) {
  return with_tensor_tiles(plan, [&](auto tiles) { return launch_chain<decltype(tiles)>(chain, plan, context); });
}

}  // namespace irf::cuda
