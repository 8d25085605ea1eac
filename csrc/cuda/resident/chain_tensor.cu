#include "cuda/resident/chain.cuh"

namespace irf::cuda {

cudaError_t resident_chain_tensor(const Chain<float>& chain, const ResidentPlan& plan, const Context& context) {
  const bool dense = plan.family == Family::kTensorDense;
  if (plan.precision == Precision::kTf32)
    return dense ? launch_chain<TensorTiles<Precision::kTf32, 1>>(chain, plan, context)
                 : launch_chain<TensorTiles<Precision::kTf32, 8>>(chain, plan, context);
  return dense ? launch_chain<TensorTiles<Precision::kBf16, 1>>(chain, plan, context)
               : launch_chain<TensorTiles<Precision::kBf16, 8>>(chain, plan, context);
}

}  // namespace irf::cuda
