#include "cuda/layered/chain_step.cuh"
#include "cuda/layered/launch_product.cuh"
#include "cuda/layered/rows.cuh"
#include "cuda/layered/tangent.h"

namespace irf::cuda {

template <class T>
LayeredTangent<T>::LayeredTangent(const Forward<T>& forward, const Target& target, Workspace& workspace) {
  const Branch<T>& branch = forward.branch;
  if (forward.tangent.v) entry_ = workspace.take<T>(rows_size(branch, branch.stage[0].in_channels, target.precision));
}

template <class T>
cudaError_t LayeredTangent<T>::launch(const Forward<T>& forward, const Context& context) const {
  const Branch<T>& branch = forward.branch;
  const Tangent<T>& tangent = forward.tangent;
  const Memory& memory = context.memory;
  if (!tangent.v) return cudaSuccess;
  const RowsLayout events = rows_of(branch, branch.stage[0].in_channels, context.precision);
  ChainStep<T> start{};
  start.pitch = events.pitch;
  start.d = memory[forward.derivatives[0]];
  start.out = memory[entry_];
  start.precision = context.precision;
  cudaError_t error = to_rows<T>(events, Events<T>{tangent.v, events.size()}, start, context.stream);
  const T* from = start.out;
  for (int i = 0; i < branch.stages && error == cudaSuccess; ++i) {
    const bool last = i + 1 == branch.stages;
    const T* packed = memory[forward.weights[i]];
    const StageProduct<T> product = product_of(branch, i, false, context.precision, packed, from, branch.batch);
    ChainStep<T> step{};
    step.pitch = product.columns;
    step.d = last ? nullptr : memory[forward.derivatives[i + 1]];
    step.product = last ? nullptr : tangent.kept[i + 1].t;
    if (last)
      step.result = memory[tangent.product];
    else
      from = step.out = tangent.kept[i + 1].scaled;
    step.precision = context.precision;
    error = launch_product(product, step, context);
  }
  return error;
}

template class LayeredTangent<float>;
template class LayeredTangent<double>;

}  // namespace irf::cuda
