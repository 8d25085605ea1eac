// The gradients of what samples have of their own, biases and factors: rows of them brought to torch's layout, or
// summed over the pixels of each sample.
#pragma once

#include <vector>

#include "cuda/device/pack.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

// Writes them to their places in the packed result of branch_backward. `s`: [L + 1] rows of operands of this precision;
// s_{i+1} is the gradient of what was added as the bias of stage i. `factors`: [L] rows, where there is a factor.
template <class T>
cudaError_t sample_gradients(const Branch<T>& branch, const std::vector<T*>& s, const std::vector<T*>& factors,
                             Precision precision, T* result, cudaStream_t stream);

}  // namespace irf::cuda
