// Between the layout of torch, [item][channel][pixel], and rows, [item][pixel][pitch] with zero pads. A block carries a
// tile of items x channels x pixels through shared memory, so that both sides are read and written in contiguous runs
// whatever the shape: a dense sample is an image of one pixel.
#pragma once

#include "cuda/device/operand.cuh"
#include "cuda/layered/product.cuh"

namespace irf::cuda {

struct RowsLayout {
  int64_t items, samples;  // as in StageProduct
  int channels, pixels, pitch;

  __host__ __device__ int64_t size() const { return int64_t(channels) * pixels; }  // of an item, in torch
  __host__ __device__ int64_t row_elements() const { return items * pixels * pitch; }
};

// Rows of `probes` items per sample with so many channels.
template <class T>
RowsLayout rows_of(const Branch<T>& branch, int channels, Precision precision, int probes = 1) {
  return {probes * branch.batch, branch.batch, channels, static_cast<int>(branch.pixels()),
          channel_pad(channels, precision)};
}

// Rows of a_i, once per sample or once per pair of a sample.
template <class T>
RowsLayout layout_of(const Branch<T>& branch, int i, Precision precision, int repeat = 1) {
  const bool last = i == branch.stages;
  return rows_of(branch, last ? branch.stage[i - 1].out_channels : branch.stage[i].in_channels, precision, repeat);
}

constexpr int kRowsTile = 64 * 33;  // elements of shared memory
constexpr int kRowsThreads = 256;

// The tile of a block: [items][channels][lane], lane odd, so that walks along pixels and along channels both spread
// over the banks.
struct RowsTile {
  int items, channels, pixels;
  int lane, channel_tiles, pixel_tiles;

  explicit RowsTile(const RowsLayout& layout) {
    pixels = layout.pixels < kWarp ? layout.pixels : kWarp;
    lane = pixels | 1;
    channels = 4;
    while (channels * 2 * lane <= kRowsTile) channels *= 2;
    if (layout.pitch < channels) channels = layout.pitch;
    channel_tiles = ceil_div(layout.pitch, channels);
    pixel_tiles = ceil_div(layout.pixels, pixels);
    items = channel_tiles * pixel_tiles == 1 ? kRowsTile / (channels * lane) : 1;
  }

  unsigned blocks(const RowsLayout& layout) const {
    return static_cast<unsigned>(ceil_div(layout.items, int64_t(items)) * channel_tiles * pixel_tiles);
  }
};

// What a block does of it, and the two orders of walking.
struct RowsBlock {
  const RowsLayout& layout;
  const RowsTile& tile;
  int64_t first_item;
  int first_channel, first_pixel, items, channels, padded, pixels;

  __device__ RowsBlock(const RowsLayout& layout_, const RowsTile& tile_) : layout(layout_), tile(tile_) {
    int block = static_cast<int>(blockIdx.x);
    first_channel = block % tile.channel_tiles * tile.channels;
    block /= tile.channel_tiles;
    first_pixel = block % tile.pixel_tiles * tile.pixels;
    first_item = int64_t(block / tile.pixel_tiles) * tile.items;
    items = static_cast<int>(min(int64_t(tile.items), layout.items - first_item));
    channels = min(tile.channels, layout.channels - first_channel);
    padded = min(tile.channels, layout.pitch - first_channel);
    pixels = min(tile.pixels, layout.pixels - first_pixel);
  }

  // visit(index in the tile, item, offset within the item) in the order of torch.
  template <class Visit>
  __device__ void for_each_element(Visit visit) const {
    for (int i = static_cast<int>(threadIdx.x); i < items * channels * pixels; i += kRowsThreads) {
      const int line = i / pixels, pixel = i % pixels, item = line / channels, channel = line % channels;
      visit((item * tile.channels + channel) * tile.lane + pixel, first_item + item,
            int64_t(first_channel + channel) * layout.pixels + first_pixel + pixel);
    }
  }

  // visit(index in the tile, place, column) for whole vectors of rows; the tile's channels are `lane` apart.
  template <class T, class Visit>
  __device__ void for_each_vector(Visit visit) const {
    const int vectors = padded / kVector<T>;
    for (int i = static_cast<int>(threadIdx.x); i < items * pixels * vectors; i += kRowsThreads) {
      const int line = i / vectors, channel = i % vectors * kVector<T>, item = line / pixels, pixel = line % pixels;
      visit((item * tile.channels + channel) * tile.lane + pixel,
            RowPlace(first_item + item, first_pixel + pixel, layout.pixels, layout.samples), first_channel + channel);
    }
  }
};

// source(item, offset) gives an element in the layout of torch; the epilogue (of layered/product.cuh) takes the
// vectors.
template <class T, class Source, class Epilogue>
__global__ void __launch_bounds__(kRowsThreads, 1)
    to_rows_kernel(const RowsLayout layout, const RowsTile tile, const Source source, Epilogue epilogue) {
  __shared__ T memory[kRowsTile];
  const RowsBlock block(layout, tile);
  block.for_each_element([&](int at, int64_t item, int64_t offset) { memory[at] = source(item, offset); });
  __syncthreads();
  epilogue.begin();
  block.template for_each_vector<T>([&](int at, const RowPlace& place, int column) {
    Vector<T> v;
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) v[e] = column + e < layout.channels ? memory[at + e * tile.lane] : T(0);
    EpilogueRow<Epilogue> row;
    row.load(epilogue, place, column, true);
    row.template apply<1>(epilogue, place, column, true, v);
  });
}

// source(place, column) gives a vector of rows; sink(item, offset, value) takes the elements.
template <class T, class Source, class Sink>
__global__ void __launch_bounds__(kRowsThreads, 1)
    from_rows_kernel(const RowsLayout layout, const RowsTile tile, const Source source, const Sink sink) {
  __shared__ T memory[kRowsTile];
  const RowsBlock block(layout, tile);
  block.template for_each_vector<T>([&](int at, const RowPlace& place, int column) {
    const Vector<T> v = source(place, column);
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) memory[at + e * tile.lane] = v[e];
  });
  __syncthreads();
  block.for_each_element([&](int at, int64_t item, int64_t offset) { sink(item, offset, memory[at]); });
}

template <class T, class Source, class Epilogue>
cudaError_t to_rows(const RowsLayout& layout, const Source& source, const Epilogue& epilogue, cudaStream_t stream) {
  if (layout.items == 0) return cudaSuccess;
  const RowsTile tile(layout);
  to_rows_kernel<T, Source, Epilogue><<<tile.blocks(layout), kRowsThreads, 0, stream>>>(layout, tile, source, epilogue);
  return cudaGetLastError();
}

template <class T, class Source, class Sink>
cudaError_t from_rows(const RowsLayout& layout, const Source& source, const Sink& sink, cudaStream_t stream) {
  if (layout.items == 0) return cudaSuccess;
  const RowsTile tile(layout);
  from_rows_kernel<T, Source, Sink><<<tile.blocks(layout), kRowsThreads, 0, stream>>>(layout, tile, source, sink);
  return cudaGetLastError();
}

// The usual ends. An array of items in the layout of torch ...
template <class T>
struct Events {
  const T* x;
  int64_t size;  // of an item
  __device__ T operator()(int64_t item, int64_t offset) const { return x[item * size + offset]; }
};

// ... rows as they are ...
template <class T>
struct LoadRows {
  const T* rows;
  int pitch;
  __device__ Vector<T> operator()(const RowPlace& place, int column) const {
    return load16(rows + place.row * pitch + column);
  }
};

// ... and an array to be written, plus `add` of the same shape where given.
template <class T>
struct StoreEvents {
  const T* add;
  T* x;
  int64_t size;
  __device__ void operator()(int64_t item, int64_t offset, T value) const {
    const int64_t at = item * size + offset;
    x[at] = add ? add[at] + value : value;
  }
};

// An epilogue that only stores, as operands of a precision.
template <class T>
struct StoreRows {
  static constexpr int kUnroll = 2;
  T* rows;
  int pitch;
  Precision precision;
  __device__ void begin() {}
  template <int LANES>
  __device__ __forceinline__ void apply(const RowPlace& place, int column, bool inside, const Vector<T>& v) {
    if (inside) store_operands(rows, place.row * pitch + column, v, precision);
  }
};

}  // namespace irf::cuda
