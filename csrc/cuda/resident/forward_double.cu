#include "cuda/resident/forward.cuh"

namespace irf::cuda {

template <>
cudaError_t launch_resident_forward(const ForwardArguments<double>& p, const Context& context) {
  return p.plan.family == Family::kDense16 ? launch_forward<DenseTiles<double, 16>>(p, context)
                                           : launch_forward<ImageTiles<double, 8>>(p, context);
}

}  // namespace irf::cuda
