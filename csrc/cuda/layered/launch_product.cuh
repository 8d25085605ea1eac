// How a layered walk puts a product on its stream: as one kernel, or as sums and the kernel that gathers them.
#pragma once

#include "cuda/layered/gather.cuh"
#include "cuda/layered/product.cuh"

namespace irf::cuda {

template <class T>
ProductPlan plan_of(const StageProduct<T>& product, const Target& target) {
  const ProductShape shape{product.depth, product.columns, product.kernel, product.rows()};
  return plan_product(shape, target.precision, sizeof(T), target.card);
}

template <class T, class Epilogue>
cudaError_t launch_product(const StageProduct<T>& product, const Epilogue& epilogue, const ProductPlan& plan,
                           const Context& context) {
  if (!plan.gathered()) return launch_tiles(product, epilogue, plan, context.precision, context.stream);
  GatheredSums<T> sums;
  const cudaError_t error = put_sums(product, plan, context, sums);
  return error == cudaSuccess ? gather_sums(product, sums, plan, epilogue, context.stream) : error;
}
template <class T, class Epilogue>
cudaError_t launch_product(const StageProduct<T>& product, const Epilogue& epilogue, const Context& context) {
  return product.rows() == 0 ? cudaSuccess : launch_product(product, epilogue, plan_of(product, context), context);
}

}  // namespace irf::cuda
