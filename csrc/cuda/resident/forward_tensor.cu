#include "cuda/resident/forward.cuh"

namespace irf::cuda {

cudaError_t launch_resident_forward_tensor(const ForwardArguments<float>& p, const Context& context) {
  const bool dense = p.plan.family == Family::kTensorDense;
  if (p.plan.precision == Precision::kTf32)
    return dense ? launch_forward<TensorTiles<Precision::kTf32, 1>>(p, context)
                 : launch_forward<TensorTiles<Precision::kTf32, 8>>(p, context);
  return dense ? launch_forward<TensorTiles<Precision::kBf16, 1>>(p, context)
               : launch_forward<TensorTiles<Precision::kBf16, 8>>(p, context);
}

}  // namespace irf::cuda
