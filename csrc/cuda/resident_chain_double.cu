#include "cuda/resident_chain.cuh"

namespace irf::cuda {

template <>
cudaError_t resident_chain(const Chain<double>& chain, const ResidentPlan& plan, cudaStream_t stream) {
  return plan.family == Family::kDense16 ? launch_chain<DenseTiles<double, 16>>(chain, plan, stream)
                                         : launch_chain<ImageTiles<double, 8>>(chain, plan, stream);
}

}  // namespace irf::cuda
