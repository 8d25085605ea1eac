#include "cuda/resident/forward.cuh"

namespace irf::cuda {

cudaError_t launch_resident_forward_tensor(const ForwardArguments<float>& p, const Context& context) {
  return with_tensor_tiles(p.plan, [&](auto tiles) { return launch_forward<decltype(tiles)>(p, context); });
}

}  // namespace irf::cuda
