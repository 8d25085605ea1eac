#include "cuda/resident_chain.cuh"

namespace irf::cuda {

template <>
cudaError_t resident_chain(const Chain<float>& chain, const ResidentPlan& plan, cudaStream_t stream) {
  switch (plan.family) {
    case Family::kDense4:
      return launch_chain<DenseTiles<float, 4>>(chain, plan, stream);
    case Family::kDense8:
      return launch_chain<DenseTiles<float, 8>>(chain, plan, stream);
    case Family::kDense16:
      return launch_chain<DenseTiles<float, 16>>(chain, plan, stream);
    case Family::kDense32:
      return launch_chain<DenseTiles<float, 32>>(chain, plan, stream);
    case Family::kImage7:
      return launch_chain<ImageTiles<float, 7>>(chain, plan, stream);
    case Family::kImage8:
      return launch_chain<ImageTiles<float, 8>>(chain, plan, stream);
    default:
      return resident_chain_tensor(chain, plan, stream);
  }
}

}  // namespace irf::cuda
