// d sigma / dW of a convolution with u and v held constant: the weight gradient at input v and output gradient u.
#pragma once

#include "cuda/device/device.cuh"
#include "iresnet_fast/params.h"

namespace irf::cuda {
namespace {

// A warp sums a tile of output channels x consecutive (channel, tap) over the pixels, lanes along pixels.
constexpr int kTileOut = 4, kTileIn = 8;
static_assert(kTileOut * kTileIn == kWarp, "in the end every lane holds one sum");

template <class T>
IRF_HOST_DEVICE int64_t sigma_gradient_tiles(const NormLayer<T>& l) {
  const int row_size = l.in_channels / l.groups * l.kernel_height * l.kernel_width;
  return int64_t(l.groups) * ceil_div(l.out_channels / l.groups, kTileOut) * ceil_div(row_size, kTileIn);
}

// Where a tile begins: a group, an output channel of it, and an element of the rows [channel][tap] of the weight.
struct TileStart {
  int group, out, k;
};

template <class T>
__device__ __forceinline__ TileStart tile_start(const NormLayer<T>& l, int64_t tile) {
  const int row_tiles = ceil_div(l.in_channels / l.groups * l.kernel_height * l.kernel_width, kTileIn);
  const int out_tiles = ceil_div(l.out_channels / l.groups, kTileOut);
  const int line = static_cast<int>(tile / row_tiles);
  return {line / out_tiles, line % out_tiles * kTileOut, static_cast<int>(tile % row_tiles) * kTileIn};
}

// The element of the weight whose gradient this lane gets, or -1.
template <class T>
__device__ __forceinline__ int64_t sigma_gradient_index(const NormLayer<T>& l, int64_t tile) {
  const int lane = threadIdx.x % kWarp, out = l.out_channels / l.groups;
  const int row_size = l.in_channels / l.groups * l.kernel_height * l.kernel_width;
  const TileStart start = tile_start(l, tile);
  const int o = start.out + lane / kTileIn, k = start.k + lane % kTileIn;
  return o < out && k < row_size ? int64_t(start.group * out + o) * row_size + k : -1;
}

// Lane i gets the sum over the warp of a[i].
template <class T>
__device__ __forceinline__ T sum_across(T (&a)[kWarp]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int half = kWarp / 2 / step;
    const bool upper = lane & half;
#pragma unroll
    for (int i = 0; i < half; ++i)
      a[i] = (upper ? a[i + half] : a[i]) + __shfl_xor_sync(kAllLanes, upper ? a[i] : a[i + half], half);
  }
  return a[0];
}

template <class T>
__device__ __forceinline__ T sigma_gradient(const NormLayer<T>& l, int out_height, int out_width, int64_t tile) {
  const int taps = l.kernel_height * l.kernel_width, out = l.out_channels / l.groups, in = l.in_channels / l.groups;
  const TileStart start = tile_start(l, tile);
  int line[kTileIn], column[kTileIn];
  const T* image[kTileIn];
#pragma unroll
  for (int j = 0; j < kTileIn; ++j) {
    const int k = min(start.k + j, in * taps - 1), c = k / taps, tap_y = (k - c * taps) / l.kernel_width;
    line[j] = tap_y * l.dilation_height - l.padding_height;
    column[j] = (k - c * taps - tap_y * l.kernel_width) * l.dilation_width - l.padding_width;
    image[j] = l.v + int64_t(start.group * in + c) * l.height * l.width;
  }
  const int pixels = out_height * out_width;
  T sum[kWarp] = {};
  for (int pixel = threadIdx.x % kWarp; pixel < pixels; pixel += kWarp) {
    const int y = pixel / out_width, from_y = y * l.stride_height, from_x = (pixel - y * out_width) * l.stride_width;
    T u[kTileOut];
#pragma unroll
    for (int i = 0; i < kTileOut; ++i)
      u[i] = __ldg(l.u + int64_t(start.group * out + min(start.out + i, out - 1)) * pixels + pixel);
#pragma unroll
    for (int j = 0; j < kTileIn; ++j) {
      const int at_y = from_y + line[j], at_x = from_x + column[j];
      const bool inside = at_y >= 0 && at_y < l.height && at_x >= 0 && at_x < l.width;
      const T v = inside ? __ldg(image[j] + at_y * l.width + at_x) : T(0);
#pragma unroll
      for (int i = 0; i < kTileOut; ++i) sum[i * kTileIn + j] += u[i] * v;
    }
  }
  return sum_across(sum);
}

}  // namespace
}  // namespace irf::cuda
