// Products by cuDNN, through torch's own operator: what cuda/device/library.h asks for.
#pragma once

#include <map>

#include "cuda/device/library.h"
#include "torch/operands.h"

namespace irf::binding {

// Whether torch would give tensors like this one to cuDNN: it is there, and torch.backends.cudnn.enabled.
bool cudnn_takes(const Tensor& like);

// The products of one call of an op.
class CudnnProducts : public cuda::LibraryProducts {
 public:
  explicit CudnnProducts(const Tensor& like) : like_(like) {}
  cudaError_t multiply(const cuda::LibraryProduct& product, float* sums) override;

 private:
  Tensor weight_of(const cuda::LibraryProduct& product);

  const Tensor like_;
  // By the address of the packed weights: torch's operator wants them in another order, which is made once a call.
  std::map<const float*, Tensor> weights_;
};

}  // namespace irf::binding
