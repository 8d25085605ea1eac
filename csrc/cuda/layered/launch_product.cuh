// How a layered walk puts a product on its stream.
#pragma once

#include "cuda/device/context.h"
#include "cuda/layered/product.cuh"

namespace irf::cuda {

template <class T, class Epilogue>
cudaError_t launch_product(const StageProduct<T>& product, const Epilogue& epilogue, const Context& context) {
  return stage_product(product, epilogue, context.precision, context.card, context.stream);
}

}  // namespace irf::cuda
