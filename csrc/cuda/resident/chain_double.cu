#include "cuda/resident/chain.cuh"

namespace irf::cuda {

template <>
cudaError_t resident_chain(const Chain<double>& chain, const ResidentPlan& plan, const Context& context) {
  return plan.family == Family::kDense16 ? launch_chain<DenseTiles<double, 16>>(chain, plan, context)
                                         : launch_chain<ImageTiles<double, 8>>(chain, plan, context);
}

}  // namespace irf::cuda
