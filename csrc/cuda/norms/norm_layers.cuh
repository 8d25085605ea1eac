// What the kernels of norms find ready: the table of layers, and the weights packed that have no room in shared memory.
#pragma once

#include "cuda/device/table.cuh"
#include "cuda/norms/convolution_map.cuh"
#include "cuda/norms/norm_plan.h"

namespace irf::cuda {
namespace {

constexpr int kPackBlocks = 64;  // per layer

template <class T>
__global__ __launch_bounds__(kNormThreads) void pack_weights(const NormTask<T>* table, T* workspace) {
  const NormTask<T>& task = table[blockIdx.y];
  if (task.layer.height == 0) return;
  T* forward = task.forward_at == kElsewhere ? workspace + task.forward : nullptr;
  T* transposed = task.transposed_at == kElsewhere ? workspace + task.transposed : nullptr;
  if (forward || transposed)
    pack_convolution(task.layer, forward, transposed, blockIdx.x * kNormWarps + threadIdx.x / kWarp,
                     gridDim.x * kNormWarps);
}

// `workspace`: plan.workspace elements.
template <class T>
void prepare_layers(const NormPlan<T>& plan, NormTask<T>* table, T* workspace, cudaStream_t stream) {
  const int layers = static_cast<int>(plan.tasks.size());
  upload(plan.tasks.data(), layers, table, stream);
  if (plan.workspace > 0) pack_weights<T><<<dim3(kPackBlocks, layers), kNormThreads, 0, stream>>>(table, workspace);
}

}  // namespace
}  // namespace irf::cuda
