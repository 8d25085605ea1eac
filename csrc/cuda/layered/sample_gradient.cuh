// The gradient of what every sample has of its own, a bias or a factor: rows of it brought to torch's layout, or summed
// over the pixels of each sample.
#pragma once

#include "cuda/layered/rows.cuh"
#include "iresnet_fast/params.h"

namespace irf::cuda {

// `rows`: [samples * pixels][layout.pitch], operands of this precision. `spread`: that of the gradient.
template <class T>
cudaError_t sample_gradient(const RowsLayout& layout, const T* rows, Precision precision, Spread spread, T* gradient,
                            cudaStream_t stream);

}  // namespace irf::cuda
