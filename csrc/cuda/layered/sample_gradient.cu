#include "cuda/layered/sample_gradient.cuh"

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
    Vector<T> v;
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) v[e] = load_operand(rows, place.row * pitch + column + e, precision);
    return v;
  }
};

}  // namespace

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

template cudaError_t sample_gradient(const RowsLayout&, const float*, Precision, Spread, float*, cudaStream_t);
template cudaError_t sample_gradient(const RowsLayout&, const double*, Precision, Spread, double*, cudaStream_t);

}  // namespace irf::cuda
