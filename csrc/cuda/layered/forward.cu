#include <algorithm>

#include "cuda/layered/activate.cuh"
#include "cuda/layered/forward.h"
#include "cuda/layered/rows.cuh"

namespace irf::cuda {
template <class T>
LayeredForwardScratch<T>::LayeredForwardScratch(const LayeredForward<T>& forward, Precision precision, Carver& carver)
    : stages(forward.branch.stages) {
  const Branch<T>& branch = forward.branch;
  int64_t size = 0;
  for (int i = 0; i < branch.stages; ++i)
    size = std::max(size, rows_of(branch, branch.stage[i].in_channels, precision).row_elements());
  size = operand_size(size, precision);
  T* const h[2] = {carver.take<T>(size), branch.stages > 1 ? carver.take<T>(size) : nullptr};
  for (int i = 0; i < branch.stages; ++i) {
    if (forward.stages) stages[i] = forward.stages[i];
    if (!stages[i].h) stages[i].h = h[i % 2];
  }
  g = carver.take<T>(rows_of(branch, branch.stage[branch.stages - 1].out_channels, precision).row_elements());
}

template <class T>
std::vector<T*> carve_derivatives(const Branch<T>& branch, Precision precision, Carver& carver) {
  std::vector<T*> derivatives(branch.stages);
  for (int i = 0; i < branch.stages; ++i)
    if (branch.stage[i].activation != Activation::kIdentity)
      derivatives[i] = carver.take<T>(rows_of(branch, branch.stage[i].in_channels, precision).row_elements());
  return derivatives;
}

template <class T>
cudaError_t layered_hidden(const Branch<T>& branch, const T* const* weights, const StageRows<T>* stages,
                           const int* active, const Context& context) {
  cudaError_t error = cudaSuccess;
  for (int i = 0; i + 1 < branch.stages && error == cudaSuccess; ++i) {
    StageProduct<T> product = product_of(branch, i, false, context.precision, weights[i], stages[i].h, branch.batch);
    product.active = active;
    error = stage_product(product, activation_of(branch, i + 1, context.precision, stages[i + 1]), context.precision,
                          context.card, context.stream);
  }
  return error;
}

template <class T>
cudaError_t layered_forward(const LayeredForward<T>& forward, const LayeredForwardScratch<T>& scratch,
                            const Context& context) {
  const Branch<T>& branch = forward.branch;
  const Precision precision = context.precision;
  const int last = branch.stages - 1;
  const RowsLayout input = rows_of(branch, branch.stage[0].in_channels, precision);
  cudaError_t error = to_rows<T>(input, Events<T>{forward.x, input.size()},
                                 activation_of(branch, 0, precision, scratch.stages[0]), context.stream);
  if (error == cudaSuccess) error = layered_hidden(branch, forward.weights, scratch.stages.data(), nullptr, context);
  if (error != cudaSuccess) return error;

  Activate<T> bias{};
  bias.bias = branch.stage[last].bias;
  bias.channels = branch.stage[last].out_channels;
  const RowsLayout output = rows_of(branch, bias.channels, precision);
  bias.pitch = output.pitch;
  bias.rows.a = scratch.g;
  error = stage_product(
      product_of(branch, last, false, precision, forward.weights[last], scratch.stages[last].h, branch.batch), bias,
      precision, context.card, context.stream);
  const Rows<T> g{scratch.g, output.pitch};
  if (forward.g && error == cudaSuccess)
    error = from_rows<T>(output, g, StoreEvents<T>{nullptr, forward.g, output.size()}, context.stream);
  if (forward.z && error == cudaSuccess)
    error = from_rows<T>(output, g, StoreEvents<T>{forward.x, forward.z, output.size()}, context.stream);
  return error;
}

#define IRF_INSTANTIATE(T)                                                                                   \
  template struct LayeredForwardScratch<T>;                                                                  \
  template std::vector<T*> carve_derivatives<T>(const Branch<T>&, Precision, Carver&);                       \
  template cudaError_t layered_hidden<T>(const Branch<T>&, const T* const*, const StageRows<T>*, const int*, \
                                         const Context&);                                                    \
  template cudaError_t layered_forward<T>(const LayeredForward<T>&, const LayeredForwardScratch<T>&, const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
