// W / max(1, sigma / c) for every layer of a model in one launch, and its gradient in two: <grad, W> of every layer by
// blocks, then the gradient with the share that goes through sigma. The layers travel as kernel arguments, so a model
// with more of them than a page holds takes another round.
#include <algorithm>

#include "cuda/device/block_sum.cuh"
#include "cuda/device/table.cuh"
#include "cuda/norms/sigma_gradient.cuh"
#include "cuda/ops.h"

namespace irf::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVectorsPerThread = 4;
template <class T>
constexpr int kChunk = kThreads * kVectorsPerThread * kVector<T>;  // elements of a block

template <class T>
struct ScaledLayer {
  const T* source;
  T* result;
  int64_t size;
  int first_block;
};

template <class T>
struct GradientLayer {
  NormLayer<T> layer;
  const T* grad;
  T* result;
  int out_height, out_width;
  int first_block;    // of gradients
  int first_partial;  // of sums
};

template <class T>
using ScaledPage = Page<ScaledLayer<T>, 24>;
template <class T>
using GradientPage = Page<GradientLayer<T>, 32>;

// The last of `count` rows that begins at or before `block`.
template <class Row>
__device__ __forceinline__ int row_of(const Row* rows, int count, int Row::* first, int block) {
  int low = 0;
  while (count - low > 1) {
    const int middle = (low + count) / 2;
    (rows[middle].*first <= block ? low : count) = middle;
  }
  return low;
}

// max(1, sigma / coeff), NaN if sigma is.
template <class T>
__device__ __forceinline__ T normalizer(T sigma, T coeff) {
  return sigma <= coeff ? T(1) : sigma / coeff;
}

template <class T>
__device__ __forceinline__ bool aligned(const T* a, const T* b) {
  return (reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) % 16 == 0;
}

// result[i] = body(source[i], i) for the `size` <= kChunk elements of a block.
template <class T, class Body>
__device__ __forceinline__ void transform(const T* source, T* result, int size, const Body& body) {
  const int whole = aligned(source, result) ? size / kVector<T> * kVector<T> : 0;
  Vector<T> piece[kVectorsPerThread];
#pragma unroll
  for (int k = 0; k < kVectorsPerThread; ++k) {
    const int i = (k * kThreads + threadIdx.x) * kVector<T>;
    if (i < whole) piece[k] = load16_readonly(source + i);
  }
#pragma unroll
  for (int k = 0; k < kVectorsPerThread; ++k) {
    const int i = (k * kThreads + threadIdx.x) * kVector<T>;
    if (i >= whole) continue;
#pragma unroll
    for (int j = 0; j < kVector<T>; ++j) piece[k][j] = body(piece[k][j], i + j);
    store16(result + i, piece[k]);
  }
#pragma unroll 4
  for (int i = whole + threadIdx.x; i < size; i += kThreads) result[i] = body(__ldg(source + i), i);
}

template <class T>
__device__ __forceinline__ T dot(const T* a, const T* b, int size) {
  const int whole = aligned(a, b) ? size / kVector<T> * kVector<T> : 0;
  T sum = T(0);
#pragma unroll
  for (int k = 0; k < kVectorsPerThread; ++k) {
    const int i = (k * kThreads + threadIdx.x) * kVector<T>;
    if (i >= whole) continue;
    const Vector<T> left = load16_readonly(a + i), right = load16_readonly(b + i);
#pragma unroll
    for (int j = 0; j < kVector<T>; ++j) sum += left[j] * right[j];
  }
#pragma unroll 4
  for (int i = whole + threadIdx.x; i < size; i += kThreads) sum += __ldg(a + i) * __ldg(b + i);
  return sum;
}

template <class T>
__device__ __forceinline__ int chunk_size(int64_t start, int64_t size) {
  return size - start < kChunk<T> ? static_cast<int>(size - start) : kChunk<T>;
}

// result = source / max(1, sigma / coeff).
template <class T>
__global__ __launch_bounds__(kThreads) void scale(const __grid_constant__ ScaledPage<T> page, int layers,
                                                  const T* sigma, const T* coeff) {
  const int index = row_of(page.row, layers, &ScaledLayer<T>::first_block, blockIdx.x);
  const ScaledLayer<T>& layer = page.row[index];
  const T factor = normalizer(sigma[index], coeff[index]);
  const int64_t start = int64_t(blockIdx.x - layer.first_block) * kChunk<T>;
  transform(layer.source + start, layer.result + start, chunk_size<T>(start, layer.size),
            [&](T w, int) { return w / factor; });
}

template <class T>
__device__ __forceinline__ int64_t weight_size(const NormLayer<T>& l) {
  const int columns = l.height == 0 ? l.in_channels : l.in_channels / l.groups * l.kernel_height * l.kernel_width;
  return int64_t(l.out_channels) * columns;
}

// Partial sums of <grad, W>, one per chunk.
template <class T>
__global__ __launch_bounds__(kThreads) void sum_products(const __grid_constant__ GradientPage<T> page, int layers,
                                                         const T* sigma, const T* coeff, T* partial_sums) {
  __shared__ T warp_sums[kThreads / kWarp];
  const int index = row_of(page.row, layers, &GradientLayer<T>::first_partial, blockIdx.x);
  const GradientLayer<T>& row = page.row[index];
  if (sigma[index] <= coeff[index]) return;
  const int64_t start = int64_t(blockIdx.x - row.first_partial) * kChunk<T>;
  const int size = chunk_size<T>(start, weight_size(row.layer));
  const T sum = block_sum(dot(row.grad + start, row.layer.weight + start, size), warp_sums);
  if (threadIdx.x == 0) partial_sums[blockIdx.x] = sum;
}

// W_eff = W c / sigma: the gradient is grad c / sigma - <grad, W> c / sigma^2 d sigma / dW.
template <class T>
__global__ __launch_bounds__(kThreads) void gradient(const __grid_constant__ GradientPage<T> page, int layers,
                                                     const T* sigma, const T* coeff, const T* partial_sums) {
  __shared__ T warp_sums[kThreads / kWarp];
  const int index = row_of(page.row, layers, &GradientLayer<T>::first_block, blockIdx.x);
  const GradientLayer<T>& row = page.row[index];
  const NormLayer<T>& layer = row.layer;
  const T norm = sigma[index], target = coeff[index], factor = normalizer(norm, target);
  const bool through = !(norm <= target);
  const int64_t size = weight_size(layer);
  T share = T(0);
  if (through) {
    const int partials = static_cast<int>(ceil_div(size, int64_t(kChunk<T>)));
    for (int i = threadIdx.x; i < partials; i += kThreads) share += partial_sums[row.first_partial + i];
    share = -(block_sum(share, warp_sums) / norm) * (target / norm);
  }
  const int block = blockIdx.x - row.first_block;
  if (layer.height == 0) {
    const int64_t start = int64_t(block) * kChunk<T>;
    const int columns = layer.in_channels, first_row = static_cast<int>(start / columns);
    const int first_column = static_cast<int>(start - int64_t(first_row) * columns);
    transform(row.grad + start, row.result + start, chunk_size<T>(start, size), [&](T grad, int i) {
      const int line = (first_column + i) / columns, column = first_column + i - line * columns;
      return through ? grad / factor + share * __ldg(layer.u + first_row + line) * __ldg(layer.v + column) : grad;
    });
    return;
  }
  const int64_t tile = int64_t(block) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (tile >= sigma_gradient_tiles(layer)) return;
  const int64_t at = sigma_gradient_index(layer, tile);
  const T direction = through ? sigma_gradient(layer, row.out_height, row.out_width, tile) : T(0);
  if (at >= 0) row.result[at] = through ? __ldg(row.grad + at) / factor + share * direction : __ldg(row.grad + at);
}

template <class T>
int partials_of(const NormLayer<T>& layer) {
  return static_cast<int>(ceil_div(layer.weight_size(), int64_t(kChunk<T>)));
}

// Source: the weights, or their gradients.
template <class T>
struct ScaleAll {
  SpectralNormalizeOperands<T> op;
  bool gradients;

  cudaError_t launch(const Context& context) const {
    for (int first = 0; first < op.layers; first += ScaledPage<T>::kRows) {
      const int layers = std::min(op.layers - first, ScaledPage<T>::kRows);
      ScaledPage<T> page;
      int blocks = 0;
      for (int i = 0; i < layers; ++i) {
        const NormLayer<T>& layer = op.layer[first + i];
        page.row[i] = {gradients ? op.grad[first + i] : layer.weight, op.result[first + i], layer.weight_size(),
                       blocks};
        blocks += partials_of(layer);
      }
      if (blocks > 0)
        scale<T><<<blocks, kThreads, 0, context.stream>>>(page, layers, op.sigma + first, op.coeff + first);
    }
    return cudaGetLastError();
  }
};

template <class T>
struct GradientThroughSigma {
  SpectralNormalizeOperands<T> op;
  Buffer<T> partial_sums;

  cudaError_t launch(const Context& context) const {
    T* sums = context.memory[partial_sums];
    for (int first = 0; first < op.layers; first += GradientPage<T>::kRows) {
      const int layers = std::min(op.layers - first, GradientPage<T>::kRows);
      GradientPage<T> page;
      int partials = 0, blocks = 0;
      for (int i = 0; i < layers; ++i) {
        const NormLayer<T>& layer = op.layer[first + i];
        const bool matrix = layer.matrix();
        page.row[i] = {layer,
                       op.grad[first + i],
                       op.result[first + i],
                       matrix ? 1 : layer.out_height(),
                       matrix ? 1 : layer.out_width(),
                       blocks,
                       partials};
        partials += partials_of(layer);
        blocks += matrix ? partials_of(layer)
                         : static_cast<int>(ceil_div(sigma_gradient_tiles(layer), int64_t(kThreads / kWarp)));
      }
      if (partials == 0) continue;
      const T *sigma = op.sigma + first, *coeff = op.coeff + first;
      sum_products<T><<<partials, kThreads, 0, context.stream>>>(page, layers, sigma, coeff, sums);
      gradient<T><<<blocks, kThreads, 0, context.stream>>>(page, layers, sigma, coeff, sums);
      sums += partials;
    }
    return cudaGetLastError();
  }
};

}  // namespace

template <class T>
Operation spectral_normalize(const SpectralNormalizeOperands<T>& op, const Target& target) {
  return Operation(target, Workspace(), ScaleAll<T>{op, false});
}

template <class T>
Operation spectral_normalize_backward(const SpectralNormalizeOperands<T>& op, const Target& target) {
  if (!op.through_sigma) return Operation(target, Workspace(), ScaleAll<T>{op, true});
  int64_t partials = 0;
  for (int i = 0; i < op.layers; ++i) partials += partials_of(op.layer[i]);
  Workspace workspace;
  const auto partial_sums = workspace.take<T>(partials);
  return Operation(target, workspace, GradientThroughSigma<T>{op, partial_sums});
}

#define IRF_INSTANTIATE(T)                                                                   \
  template Operation spectral_normalize(const SpectralNormalizeOperands<T>&, const Target&); \
  template Operation spectral_normalize_backward(const SpectralNormalizeOperands<T>&, const Target&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
