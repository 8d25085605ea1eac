// The second half of the parameter gradients: the splits of every stage, added up in a fixed order.
#include "cuda/device/device.cuh"
#include "cuda/layered/parameter_gradients.h"
#include "cuda/layered/weight_gradient.h"

namespace irf::cuda {
namespace {

constexpr int kStagesAtOnce = 8;  // the parameters of a launch travel by value
constexpr int kLanes = 8;         // threads that share the splits of one sum

template <class T>
struct GatherStage {
  WeightGradient<T> partial;
  T *weight, *bias, *beta;  // the last two: null without; a bias that samples have of their own is not summed here
  const T* parameter;       // beta itself
  int first_block;
};

template <class T>
struct GatherStages {
  GatherStage<T> stage[kStagesAtOnce];
  int count;
};

// A block takes 32 neighbouring sums.
template <class T>
__global__ void __launch_bounds__(kWarp* kLanes) gather_kernel(const __grid_constant__ GatherStages<T> stages) {
  __shared__ T lane_sums[kLanes][kWarp];
  int which = 0;
  while (which + 1 < stages.count && static_cast<int>(blockIdx.x) >= stages.stage[which + 1].first_block) ++which;
  const GatherStage<T>& stage = stages.stage[which];
  const WeightGradient<T>& partial = stage.partial;
  const int x = static_cast<int>(threadIdx.x) % kWarp, lane = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t at = int64_t(static_cast<int>(blockIdx.x) - stage.first_block) * kWarp + x;
  const int64_t weights = int64_t(partial.partial_columns()) * partial.out_channels;
  T sum = T(0);
  if (at <= weights + partial.out_channels) {
#pragma unroll 4
    for (int split = lane; split < partial.splits; split += kLanes)
      sum += partial.partial[split * partial.partial_size() + at];
  }
  lane_sums[lane][x] = sum;
  __syncthreads();
  if (lane > 0 || at > weights + partial.out_channels) return;
#pragma unroll
  for (int i = 1; i < kLanes; ++i) sum += lane_sums[i][x];

  if (at < weights) {
    const int out = static_cast<int>(at / partial.partial_columns());
    const int column = static_cast<int>(at % partial.partial_columns());
    const int tap = column / partial.tap_columns(), in = column % partial.tap_columns();
    const int taps = partial.kernel * partial.kernel;
    if (in < partial.in_channels) stage.weight[(int64_t(out) * partial.in_channels + in) * taps + tap] = sum;
  } else if (at < weights + partial.out_channels) {
    if (stage.bias) stage.bias[at - weights] = sum;
  } else if (stage.beta) {
    // The slope is softplus(beta).
    *stage.beta = sum * Softplus::jet<ScalarMath<T>>(*stage.parameter, {}).d;
  }
}

}  // namespace

template <class T>
cudaError_t gather_gradients(const Branch<T>& branch, const WeightGradient<T>* partials, T* result,
                             cudaStream_t stream) {
  const std::vector<ParameterGradients<T>> gradients = parameter_gradients(branch, result).stages;
  for (int first = 0; first < branch.stages; first += kStagesAtOnce) {
    GatherStages<T> stages;
    stages.count = branch.stages - first < kStagesAtOnce ? branch.stages - first : kStagesAtOnce;
    int64_t blocks = 0;
    for (int i = 0; i < stages.count; ++i) {
      const Stage<T>& from = branch.stage[first + i];
      const WeightGradient<T>& partial = partials[first + i];
      GatherStage<T>& to = stages.stage[i];
      to.partial = partial;
      to.weight = gradients[first + i].weight;
      to.bias = from.bias_spread == Spread::kShared ? gradients[first + i].bias : nullptr;
      to.beta = gradients[first + i].beta;
      to.parameter = from.beta;
      to.first_block = static_cast<int>(blocks);
      blocks += ceil_div(partial.partial_size(), int64_t(kWarp));
    }
    gather_kernel<T><<<static_cast<unsigned>(blocks), kWarp * kLanes, 0, stream>>>(stages);
  }
  return cudaGetLastError();
}

template <class T>
cudaError_t gather_gradient(const WeightGradient<T>& partial, T* result, cudaStream_t stream) {
  GatherStages<T> stages;
  stages.count = 1;
  stages.stage[0] = {partial, result, nullptr, nullptr, nullptr, 0};
  const unsigned blocks = static_cast<unsigned>(ceil_div(partial.partial_size(), int64_t(kWarp)));
  gather_kernel<T><<<blocks, kWarp * kLanes, 0, stream>>>(stages);
  return cudaGetLastError();
}

template cudaError_t gather_gradient(const WeightGradient<float>&, float*, cudaStream_t);
template cudaError_t gather_gradient(const WeightGradient<double>&, double*, cudaStream_t);
template cudaError_t gather_gradients(const Branch<float>&, const WeightGradient<float>*, float*, cudaStream_t);
template cudaError_t gather_gradients(const Branch<double>&, const WeightGradient<double>*, double*, cudaStream_t);

}  // namespace irf::cuda
