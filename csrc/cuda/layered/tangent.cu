#include "cuda/layered/chain_step.cuh"
#include "cuda/layered/rows.cuh"
#include "cuda/layered/tangent.h"

namespace irf::cuda {

template <class T>
cudaError_t layered_tangent(const Branch<T>& branch, const T* const* weights, const T* const* derivatives,
                            const Tangent<T>& tangent, T* entry, const Context& context) {
  const RowsLayout events = rows_of(branch, branch.stage[0].in_channels, context.precision);
  ChainStep<T> start{};
  start.pitch = events.pitch;
  start.d = derivatives[0];
  start.out = entry;
  start.precision = context.precision;
  cudaError_t error = to_rows<T>(events, Events<T>{tangent.v, events.size()}, start, context.stream);
  const T* from = entry;
  for (int i = 0; i < branch.stages && error == cudaSuccess; ++i) {
    const bool last = i + 1 == branch.stages;
    const StageProduct<T> product = product_of(branch, i, false, context.precision, weights[i], from, branch.batch);
    ChainStep<T> step{};
    step.pitch = product.columns;
    step.d = last ? nullptr : derivatives[i + 1];
    step.product = last ? nullptr : tangent.kept[i + 1].t;
    if (last)
      step.result = tangent.product;
    else
      from = step.out = tangent.kept[i + 1].scaled;
    step.precision = context.precision;
    error = stage_product(product, step, context.precision, context.card, context.stream);
  }
  return error;
}

#define IRF_INSTANTIATE(T)                                                                                           \
  template cudaError_t layered_tangent<T>(const Branch<T>&, const T* const*, const T* const*, const Tangent<T>&, T*, \
                                          const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
