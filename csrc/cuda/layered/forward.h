// The forward walk, layer by layer.
#pragma once

#include <vector>

#include "cuda/device/context.h"
#include "cuda/forward.h"
#include "cuda/layered/stage_rows.h"
#include "cuda/layered/tangent.h"

namespace irf::cuda {

template <class T>
class LayeredForward {
 public:
  LayeredForward(const Forward<T>& forward, const Target& target, Workspace& workspace);

  cudaError_t launch(const Forward<T>& forward, const Context& context) const;

 private:
  std::vector<StageRows<Buffer<T>>> stages_;  // what is wanted, and h
  Buffer<T> g_;
  LayeredTangent<T> tangent_;
};

// The middle of the walk alone, from h_0 to h_{L-1}: all products but the last, each with the next activation. `active`
// as in StageProduct.
template <class T>
cudaError_t layered_hidden(const Branch<T>& branch, const std::vector<Buffer<T>>& weights,
                           const std::vector<StageRows<Buffer<T>>>& stages, const int* active, const Context& context);

}  // namespace irf::cuda
