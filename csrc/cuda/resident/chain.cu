#include "cuda/resident/chain.cuh"

namespace irf::cuda {

template <>
cudaError_t resident_chain(const Chain<float>& chain, const ResidentPlan& plan, const Context& context) {
  switch (plan.family) {
    case Family::kDense4:
      return launch_chain<DenseTiles<float, 4>>(chain, plan, context);
    case Family::kDense8:
      return launch_chain<DenseTiles<float, 8>>(chain, plan, context);
    case Family::kDense16:
      return launch_chain<DenseTiles<float, 16>>(chain, plan, context);
    case Family::kDense32:
      return launch_chain<DenseTiles<float, 32>>(chain, plan, context);
    case Family::kImage7:
      return launch_chain<ImageTiles<float, 7>>(chain, plan, context);
    case Family::kImage8:
      return launch_chain<ImageTiles<float, 8>>(chain, plan, context);
    default:
      return resident_chain_tensor(chain, plan, context);
  }
}

}  // namespace irf::cuda
