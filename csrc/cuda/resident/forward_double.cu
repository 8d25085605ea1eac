#include "cuda/resident/forward.cuh"

namespace irf::cuda {

template <>
cudaError_t launch_resident_forward(const ForwardArguments<double>& p, const Context& context) {
  return with_double_tiles(p.plan, [&](auto tiles) { return launch_forward<decltype(tiles)>(p, context); });
}

}  // namespace irf::cuda
