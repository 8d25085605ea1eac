#include "cuda/layered/parameter_gradients.h"
#include "cuda/layered/rows.cuh"
#include "cuda/layered/sample_gradients.h"

namespace irf::cuda {
namespace {

constexpr int kLanes = 8;  // threads that share the pixels of one sum

// A block takes 32 neighbouring channels of a sample.
template <class T>
__global__ void __launch_bounds__(kWarp* kLanes)
    sum_pixels_kernel(const RowsLayout layout, const T* rows, Precision precision, T* sums) {
  __shared__ T lane_sums[kLanes][kWarp];
  const int x = static_cast<int>(threadIdx.x) % kWarp, lane = static_cast<int>(threadIdx.x) / kWarp;
  const int tiles = ceil_div(layout.channels, kWarp), block = static_cast<int>(blockIdx.x);
  const int64_t sample = block / tiles;
  const int channel = block % tiles * kWarp + x;
  T sum = T(0);
  if (channel < layout.channels) {
    const int64_t first = sample * layout.pixels * layout.pitch + channel;
#pragma unroll 4
    for (int pixel = lane; pixel < layout.pixels; pixel += kLanes)
      sum += load_operand(rows, first + int64_t(pixel) * layout.pitch, precision);
  }
  lane_sums[lane][x] = sum;
  __syncthreads();
  if (lane > 0 || channel >= layout.channels) return;
#pragma unroll
  for (int i = 1; i < kLanes; ++i) sum += lane_sums[i][x];
  sums[sample * layout.channels + channel] = sum;
}

// Rows of operands, as the numbers they stand for.
template <class T>
struct LoadOperands {
  const T* rows;
  int pitch;
  Precision precision;
  __device__ Vector<T> operator()(const RowPlace& place, int column) const {
    return load_operands(rows, place.row * pitch + column, precision);
  }
};

// `rows` are operands of this precision, `spread` is that of the gradient.
template <class T>
cudaError_t sample_gradient(const RowsLayout& layout, const T* rows, Precision precision, Spread spread, T* gradient,
                            cudaStream_t stream) {
  if (spread == Spread::kPixel || layout.pixels == 1) {
    const StoreEvents<T> store{nullptr, gradient, layout.size()};
    return from_rows<T>(layout, LoadOperands<T>{rows, layout.pitch, precision}, store, stream);
  }
  if (layout.samples == 0) return cudaSuccess;
  const unsigned blocks = static_cast<unsigned>(layout.samples * ceil_div(layout.channels, kWarp));
  sum_pixels_kernel<T><<<blocks, kWarp * kLanes, 0, stream>>>(layout, rows, precision, gradient);
  return cudaGetLastError();
}

}  // namespace

template <class T>
cudaError_t sample_gradients(const Branch<T>& branch, const std::vector<T*>& s, const std::vector<T*>& factors,
                             Precision precision, T* result, cudaStream_t stream) {
  const std::vector<ParameterGradients<T>> gradients = parameter_gradients(branch, result).stages;
  cudaError_t error = cudaSuccess;
  for (int i = 0; i < branch.stages && error == cudaSuccess; ++i) {
    const Stage<T>& stage = branch.stage[i];
    if (gradients[i].bias && stage.bias_spread != Spread::kShared)
      error = sample_gradient(rows_of(branch, stage.out_channels, precision), s[i + 1], precision, stage.bias_spread,
                              gradients[i].bias, stream);
    if (gradients[i].factor && error == cudaSuccess)
      error = sample_gradient(rows_of(branch, stage.in_channels, precision), factors[i], Precision::kFull,
                              stage.factor_spread, gradients[i].factor, stream);
  }
  return error;
}

#define IRF_INSTANTIATE(T)                                                                                           \
  template cudaError_t sample_gradients(const Branch<T>&, const std::vector<T*>&, const std::vector<T*>&, Precision, \
                                        T*, cudaStream_t);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
