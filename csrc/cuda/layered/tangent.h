// The tangents of a training step, layer by layer: one launch per product.
#pragma once

#include "cuda/device/context.h"
#include "cuda/forward.h"

namespace irf::cuda {

template <class T>
class LayeredTangent {
 public:
  LayeredTangent(const Forward<T>& forward, const Target& target, Workspace& workspace);

  // After the forward walk, which leaves the derivatives; nothing if forward.tangent has no v.
  cudaError_t launch(const Forward<T>& forward, const Context& context) const;

 private:
  Buffer<T> entry_;  // rows of D_0 v
};

}  // namespace irf::cuda
