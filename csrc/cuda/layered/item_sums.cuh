// Sums over an item that a product's epilogue begins and a small kernel finishes: the epilogue leaves one partial sum
// per row and tile of columns, adjacent for an item, and a few lanes add them in a fixed order.
#pragma once

#include "cuda/layered/product.cuh"

namespace irf::cuda {

constexpr int kItemThreads = 128;

template <class T, int VALUES>
struct ItemSums {
  T* partials;  // [items][count][VALUES]
  int64_t items;
  int count;  // rows of an item times tiles of columns
  int lanes;  // that share an item: a power of two
  int tiles;

  static int64_t size(const StageProduct<T>& product, int tile_columns) {
    return product.rows() * ceil_div(product.columns, tile_columns) * VALUES;
  }

  ItemSums() = default;
  ItemSums(T* partials_, const StageProduct<T>& product, int tile_columns)
      : ItemSums(partials_, product.items, product.pixels(), ceil_div(product.columns, tile_columns)) {}
  ItemSums(T* partials_, int64_t items_, int pixels, int tiles_)
      : partials(partials_), items(items_), count(pixels * tiles_), lanes(1), tiles(tiles_) {
    while (lanes < kWarp && 4 * lanes < count) lanes *= 2;
  }

  // Where the sums number i of several lie, one set behind the other.
  __host__ __device__ ItemSums number(int i) const {
    ItemSums other = *this;
    other.partials += i * items * count * VALUES;
    return other;
  }

  unsigned blocks() const { return static_cast<unsigned>(ceil_div(items * lanes, int64_t(kItemThreads))); }

  // In an epilogue: this vector's part of row `place`. Whole warps call.
  template <int LANES>
  __device__ __forceinline__ void add(const RowPlace& place, int column, bool inside, T (&values)[VALUES]) const {
#pragma unroll
    for (int i = 0; i < VALUES; ++i) values[i] = sum_lanes(values[i], LANES);
    constexpr int kColumns = LANES * kVector<T>;
    if (!inside || column % kColumns != 0) return;
    T* to = partials + (place.row * tiles + column / kColumns) * VALUES;
#pragma unroll
    for (int i = 0; i < VALUES; ++i) to[i] = values[i];
  }

  // In a kernel of blocks() x kItemThreads threads: the sums of `item`, for one thread of it, which gets true. Those of
  // items whose number in `active`, if given, is below `least` were not written, and are not read.
  __device__ __forceinline__ bool gather(int64_t& item, T (&values)[VALUES], const int* active = nullptr,
                                         int least = 0) const {
    const int64_t thread = int64_t(blockIdx.x) * kItemThreads + threadIdx.x;
    item = thread / lanes;
    const int lane = static_cast<int>(thread % lanes);
#pragma unroll
    for (int i = 0; i < VALUES; ++i) values[i] = T(0);
    const bool wanted = item < items && (!active || active[item] >= least);
    if (wanted) {
      const T* from = partials + item * count * VALUES;
      for (int j = lane; j < count; j += lanes)
#pragma unroll
        for (int i = 0; i < VALUES; ++i) values[i] += from[j * VALUES + i];
    }
#pragma unroll
    for (int i = 0; i < VALUES; ++i) values[i] = sum_lanes(values[i], lanes);
    return wanted && lane == 0;
  }
};

}  // namespace irf::cuda
