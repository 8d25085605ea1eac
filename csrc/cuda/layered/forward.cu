#include <algorithm>

#include "cuda/layered/activate.cuh"
#include "cuda/layered/forward.h"
#include "cuda/layered/launch_product.cuh"
#include "cuda/layered/rows.cuh"
#include "cuda/layered/sums.h"

namespace irf::cuda {

template <class T>
LayeredForward<T>::LayeredForward(const Forward<T>& forward, const Target& target, Workspace& workspace)
    : stages_(forward.branch.stages), tangent_(forward, target, workspace) {
  const Branch<T>& branch = forward.branch;
  share_sums(branch, 1, target, workspace);
  int64_t size = 0;
  for (int i = 0; i < branch.stages; ++i)
    size = std::max(size, rows_size(branch, branch.stage[i].in_channels, target.precision));
  size = operand_size(size, target.precision);
  // The rows of h that nobody keeps.
  const Buffer<T> h[2] = {workspace.take<T>(size), branch.stages > 1 ? workspace.take<T>(size) : Buffer<T>()};
  for (int i = 0; i < branch.stages; ++i) {
    StageRows<Buffer<T>>& stage = stages_[i];
    stage.h = h[i % 2];
    if (!forward.derivatives.empty()) stage.d = forward.derivatives[i];
    if (!forward.tangent.v || i == 0) continue;
    stage.a = forward.tangent.kept[i].a;
    stage.h = forward.tangent.kept[i].h;
  }
  g_ = workspace.take<T>(rows_size(branch, branch.stage[branch.stages - 1].out_channels, target.precision));
}

template <class T>
cudaError_t LayeredForward<T>::launch(const Forward<T>& forward, const Context& context) const {
  const Branch<T>& branch = forward.branch;
  const Memory& memory = context.memory;
  const Precision precision = context.precision;
  const int last = branch.stages - 1;
  const RowsLayout input = rows_of(branch, branch.stage[0].in_channels, precision);
  cudaError_t error = to_rows<T>(input, Events<T>{forward.x, input.size()},
                                 activation_of(branch, 0, precision, at(memory, stages_[0])), context.stream);
  if (error == cudaSuccess) error = layered_hidden(branch, forward.weights, stages_, nullptr, context);
  if (error != cudaSuccess) return error;

  Activate<T> bias{};
  bias.bias = bias_of(branch, last);
  bias.channels = branch.stage[last].out_channels;
  const RowsLayout output = rows_of(branch, bias.channels, precision);
  bias.pitch = output.pitch;
  bias.rows.a = memory[g_];
  const T *packed = memory[forward.weights[last]], *h = memory[stages_[last].h];
  error = launch_product(product_of(branch, last, false, precision, packed, h, branch.batch), bias, context);
  const LoadRows<T> g{bias.rows.a, output.pitch};
  if (forward.g && error == cudaSuccess)
    error = from_rows<T>(output, g, StoreEvents<T>{nullptr, forward.g, output.size()}, context.stream);
  if (forward.z && error == cudaSuccess)
    error = from_rows<T>(output, g, StoreEvents<T>{forward.x, forward.z, output.size()}, context.stream);
  return error == cudaSuccess ? tangent_.launch(forward, context) : error;
}

template <class T>
cudaError_t layered_hidden(const Branch<T>& branch, const std::vector<Buffer<T>>& weights,
                           const std::vector<StageRows<Buffer<T>>>& stages, const int* active, const Context& context) {
  const Memory& memory = context.memory;
  cudaError_t error = cudaSuccess;
  for (int i = 0; i + 1 < branch.stages && error == cudaSuccess; ++i) {
    const T *packed = memory[weights[i]], *h = memory[stages[i].h];
    StageProduct<T> product = product_of(branch, i, false, context.precision, packed, h, branch.batch);
    product.active = active;
    const Activate<T> activate = activation_of(branch, i + 1, context.precision, at(memory, stages[i + 1]));
    error = launch_product(product, activate, context);
  }
  return error;
}

#define IRF_INSTANTIATE(T)                                                             \
  template class LayeredForward<T>;                                                    \
  template cudaError_t layered_hidden(const Branch<T>&, const std::vector<Buffer<T>>&, \
                                      const std::vector<StageRows<Buffer<T>>>&, const int*, const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
