#include "cuda/resident_chain.cuh"

namespace irf::cuda {

cudaError_t resident_chain_tensor(const Chain<float>& chain, const ResidentPlan& plan, cudaStream_t stream) {
  const bool dense = plan.family == Family::kTensorDense;
  if (plan.precision == Precision::kTf32)
    return dense ? launch_chain<TensorTiles<Precision::kTf32, 1>>(chain, plan, stream)
                 : launch_chain<TensorTiles<Precision::kTf32, 8>>(chain, plan, stream);
  return dense ? launch_chain<TensorTiles<Precision::kBf16, 1>>(chain, plan, stream)
               : launch_chain<TensorTiles<Precision::kBf16, 8>>(chain, plan, stream);
}

}  // namespace irf::cuda
