// A convolution of any stride, padding, dilation and groups as an operator on one image, and its transpose. A thread
// owns a tile of channels x pixels in registers; where tiles are few, threads share out the channels summed over and
// add up in turns, so the order of a sum never depends on timing.
#pragma once

#include "cuda/device/device.cuh"
#include "cuda/norms/norm_plan.h"

namespace irf::cuda {
namespace {

constexpr int kTilePixels = 4;
constexpr int kMostSlices = 16;
// Channels summed over before the next tap where the source is not in shared memory: their images stay in L1.
constexpr int kCachedChannels = 16;

constexpr int kNoSource = -(1 << 30);

__device__ __forceinline__ void swap(int& a, int& b) {
  const int c = a;
  a = b;
  b = c;
}

// One direction of a convolution; channels are those of one group. It lives in shared memory: registers are for tiles.
struct Direction {
  bool transposed;
  int groups, channels, height, width;  // of the source
  int target_channels, target_height, target_width;
  int kernel_height, kernel_width;
  int slots;   // threads along the pixels of an image: neighbours have neighbouring pixels, a thread every slots-th
  int tiles;   // over pixels, channels and groups
  int slices;  // threads that share out the channels of a tile
};

template <class T>
__device__ Direction direction_of(const NormTask<T>& task, bool transposed) {
  const NormLayer<T>& l = task.layer;
  Direction d{
      transposed,      l.groups,       l.in_channels / l.groups, l.height,      l.width, l.out_channels / l.groups,
      task.out_height, task.out_width, l.kernel_height,          l.kernel_width};
  if (transposed) {
    swap(d.channels, d.target_channels);
    swap(d.height, d.target_height);
    swap(d.width, d.target_width);
  }
  const int channel_tiles = packed_columns<T>(d.target_channels) / (tile_vectors<T>(d.target_channels) * kVector<T>);
  d.slots = ceil_div(d.target_height * d.target_width, kTilePixels);
  d.tiles = d.groups * channel_tiles * d.slots;
  d.slices = d.tiles == 0 ? 0 : max(1, min(min(kNormThreads / d.tiles, d.channels), kMostSlices));
  return d;
}

// The row (column) of the source that a tap meets at row `at` of the target, or -1: outside, or between strides.
__device__ __forceinline__ int source_of(int at, int tap_offset, int stride, int size, bool transposed) {
  int from = at * stride + tap_offset;
  if (transposed) {
    from = (at - tap_offset) / stride;
    if (from * stride != at - tap_offset) return -1;
  }
  return from < size ? from : -1;
}

// Fills the tables by which a tap finds its source: lines[tap][target row] + columns[tap][target column], negative if
// there is none. The block has to meet before they are read.
template <class T>
__device__ __forceinline__ void find_sources(const NormLayer<T>& l, const Direction& d, int* lines) {
  int* columns = lines + d.kernel_height * d.target_height;
  for (int i = threadIdx.x; i < d.kernel_height * d.target_height; i += kNormThreads) {
    const int tap = i / d.target_height;
    const int from = source_of(i - tap * d.target_height, tap * l.dilation_height - l.padding_height, l.stride_height,
                               d.height, d.transposed);
    lines[i] = from < 0 ? kNoSource : from * d.width;
  }
  for (int i = threadIdx.x; i < d.kernel_width * d.target_width; i += kNormThreads) {
    const int tap = i / d.target_width;
    const int from = source_of(i - tap * d.target_width, tap * l.dilation_width - l.padding_width, l.stride_width,
                               d.width, d.transposed);
    columns[i] = from < 0 ? kNoSource : from;
  }
}

// target = the direction's product with source, with packed weights [group][channel][tap][target channel].
template <class T, int kVectors, bool kShared>
struct Product {
  static constexpr int kChannels = kVectors * kVector<T>;
  static constexpr int kUnroll = sizeof(T) == 4 ? 2 : 1;  // what 128 registers allow

  const Direction& d;
  const T* source;
  const T* packed;
  const int* sources;
  T* target;

  __device__ __forceinline__ void run() const {
    const int span = d.slices > 1 ? d.tiles : kNormThreads, slice = threadIdx.x / span;
    for (int first = 0; first < d.tiles; first += span) {
      const int tile = slice < d.slices ? first + threadIdx.x - slice * span : d.tiles;
      T sum[kTilePixels][kChannels] = {};
      if (tile < d.tiles) accumulate(tile, slice, sum);
      for (int turn = 0; turn < d.slices; ++turn) {
        if (turn > 0) __syncthreads();
        if (tile < d.tiles && slice == turn) deposit(tile, turn > 0, sum);
      }
    }
  }

  // Channels of all groups before those of the tile.
  __device__ __forceinline__ int channel_of(int tile, int& group) const {
    const int channel_tiles = ceil_div(d.target_channels, kChannels);
    group = tile / d.slots / channel_tiles;
    return (tile / d.slots - group * channel_tiles) * kChannels;
  }

  __device__ __forceinline__ void accumulate(int tile, int slice, T (&sum)[kTilePixels][kChannels]) const {
    const int plane = d.height * d.width, taps = d.kernel_height * d.kernel_width;
    const int pitch = packed_pitch<T>(d.target_channels), last = d.channels * (slice + 1) / d.slices;
    const int *line[kTilePixels], *column[kTilePixels];
#pragma unroll
    for (int p = 0; p < kTilePixels; ++p) {
      const int pixel = min(tile % d.slots + p * d.slots, d.target_height * d.target_width - 1);
      const int y = pixel / d.target_width;
      line[p] = sources + y;
      column[p] = sources + d.kernel_height * d.target_height + pixel - y * d.target_width;
    }
    int group;
    const int channel = channel_of(tile, group);
    int next;
    for (int begin = d.channels * slice / d.slices; begin < last; begin = next) {
      next = kShared ? last : min(last, begin + kCachedChannels);
      const int row = group * d.channels + begin;
      const T* weight = packed + int64_t(row) * taps * pitch + channel;
      for (int tap = 0; tap < taps; ++tap, weight += pitch) {
        const int tap_y = tap / d.kernel_width, tap_x = tap - tap_y * d.kernel_width;
        int at[kTilePixels];
#pragma unroll
        for (int p = 0; p < kTilePixels; ++p)
          at[p] = line[p][tap_y * d.target_height] + column[p][tap_x * d.target_width];
        const T* image = source + int64_t(row) * plane;
        const T* w = weight;
#pragma unroll kUnroll
        for (int c = begin; c < next; ++c, image += plane, w += taps * pitch) add(image, w, at, sum);
      }
    }
  }

  static __device__ __forceinline__ void add(const T* image, const T* weight, const int (&at)[kTilePixels],
                                             T (&sum)[kTilePixels][kChannels]) {
    T w[kChannels];
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const Vector<T> vector = load16(weight + j * kVector<T>);
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) w[j * kVector<T> + i] = vector[i];
    }
#pragma unroll
    for (int p = 0; p < kTilePixels; ++p) {
      const T value = at[p] >= 0 ? image[at[p]] : T(0);
#pragma unroll
      for (int i = 0; i < kChannels; ++i) sum[p][i] += w[i] * value;
    }
  }

  __device__ __forceinline__ void deposit(int tile, bool add, const T (&sum)[kTilePixels][kChannels]) const {
    const int pixels = d.target_height * d.target_width, slot = tile % d.slots;
    int group;
    const int channel = channel_of(tile, group);
    T* image = target + int64_t(group * d.target_channels + channel) * pixels + slot;
#pragma unroll
    for (int i = 0; i < kChannels; ++i, image += pixels) {
      if (channel + i >= d.target_channels) break;
#pragma unroll
      for (int p = 0; p < kTilePixels; ++p)
        if (slot + p * d.slots < pixels) image[p * d.slots] = sum[p][i] + (add ? image[p * d.slots] : T(0));
    }
  }
};

// Writes the weights [group][o][c][tap] as [group][c][tap][o] and [group][o][tap][c], columns up to packed_columns;
// either may be null. Reads each weight once, along the rows; `warp` of `warps` takes its share.
template <class T>
__device__ void pack_convolution(const NormLayer<T>& layer, T* forward, T* transposed, int warp, int warps) {
  const int in = layer.in_channels / layer.groups, out = layer.out_channels / layer.groups;
  const int taps = layer.kernel_height * layer.kernel_width;
  const int out_columns = packed_columns<T>(out), out_pitch = packed_pitch<T>(out);
  const int in_columns = packed_columns<T>(in), in_pitch = packed_pitch<T>(in);
  for (int row = warp; row < layer.groups * out_columns; row += warps) {
    const int group = row / out_columns, o = row - group * out_columns;
    const T* from = layer.weight + int64_t(group * out + o) * in * taps;
    T* to_forward = forward + int64_t(group) * in * taps * out_pitch + o;
    T* to_transposed = transposed + int64_t(group * out + o) * taps * in_pitch;
    for (int k = threadIdx.x % kWarp; k < in_columns * taps; k += kWarp) {
      const int c = k / taps, tap = k - c * taps;
      const T weight = o < out && c < in ? from[k] : T(0);
      if (forward && c < in) to_forward[int64_t(k) * out_pitch] = weight;
      if (transposed && o < out) to_transposed[tap * in_pitch + c] = weight;
    }
  }
}

template <class T>
struct ConvolutionMap {
  const NormTask<T>& task;
  T* shared;
  T* workspace;

  // Read again where they are needed: registers are for the tiles.
  __device__ T* u() const { return task.u_at == kElsewhere ? task.u : shared + task.u_at; }
  __device__ T* v() const { return task.v_at == kElsewhere ? task.v : shared + task.v_at; }
  __device__ T* image() const { return v(); }

  __device__ void prepare() {
    T* forward = task.forward_at == kElsewhere ? nullptr : shared + task.forward_at;
    T* transposed = task.transposed_at == kElsewhere ? nullptr : shared + task.transposed_at;
    if (forward || transposed) pack_convolution(task.layer, forward, transposed, threadIdx.x / kWarp, kNormWarps);
  }

  // v = A^T u, or u = A v.
  __device__ void apply(bool transposed, bool) {
    __shared__ Direction d;
    if (threadIdx.x == 0) d = direction_of(task, transposed);
    __syncthreads();
    const int source_at = transposed ? task.u_at : task.v_at;
    const int weight_at = transposed ? task.transposed_at : task.forward_at;
    int* sources =
        reinterpret_cast<int*>(task.sources_at == kElsewhere ? workspace + task.sources : shared + task.sources_at);
    T* target = transposed ? v() : u();
    find_sources(task.layer, d, sources);
    __syncthreads();
    if (source_at != kElsewhere && weight_at != kElsewhere && task.sources_at != kElsewhere) {
      product<true>(d, shared + source_at, shared + weight_at, reinterpret_cast<int*>(shared + task.sources_at),
                    target);
    } else {
      const T* weights = workspace + (transposed ? task.transposed : task.forward);
      product<false>(d, transposed ? u() : v(), weight_at == kElsewhere ? weights : shared + weight_at, sources,
                     target);
    }
  }

  template <bool kShared>
  __device__ void product(const Direction& d, const T* source, const T* weights, const int* sources, T* target) {
    if (tile_vectors<T>(d.target_channels) == 1)
      Product<T, 1, kShared>{d, source, weights, sources, target}.run();
    else
      Product<T, 2, kShared>{d, source, weights, sources, target}.run();
  }
};

}  // namespace
}  // namespace irf::cuda
