// One stage's product over all rows of a batch, layer by layer, as an implicit GEMM:
//   C[row][n] = sum_tap sum_k A[row shifted by tap][k] B[tap][k][n],   zero outside the image.
// A block owns 128 rows and a tile of columns. It walks the flat reduction (tap, k) in steps of 64 bytes a row, fetched
// two steps ahead of use; the shift of a tap lives in the address of the fetch. The sums then pass through shared
// memory to an epilogue, which sees rows as whole 16-byte vectors and so reads and writes global memory coalesced.
#pragma once

#include "cuda/pack.h"
#include "cuda/tile.cuh"
#include "iresnet_fast/params.h"

namespace irf::cuda {

template <class T>
struct StageProduct {
  const T* a;  // [items * pixels][depth], depth = channel_pad(K)
  const T* b;  // packed weights, [kernel * kernel * depth][pitch], pitch = column_pitch(N)
  int depth, pitch;
  int columns;                // of the result: the pitch of its rows, channel_pad(N)
  int kernel, height, width;  // dense: all 1
  int64_t items;              // images
  int64_t samples;            // item i belongs to sample i % samples
  const int* active;          // [items]: blocks whose items are all 0 do nothing; or null

  __host__ __device__ int pixels() const { return height * width; }
  __host__ __device__ int64_t rows() const { return items * pixels(); }
};

// Where a row lies, and how to walk to later ones without a division a row.
struct RowPlace {
  int64_t item, sample;
  int64_t row;  // item * pixels + pixel
  int pixel, pixels;
  int64_t samples;

  __device__ RowPlace(int64_t item_, int pixel_, int pixels_, int64_t samples_)
      : item(item_),
        sample(item_ < samples_ ? item_ : item_ % samples_),
        row(item_ * pixels_ + pixel_),
        pixel(pixel_),
        pixels(pixels_),
        samples(samples_) {}
  __device__ RowPlace(int64_t row_, int pixels_, int64_t samples_)
      : RowPlace(row_ / pixels_, static_cast<int>(row_ % pixels_), pixels_, samples_) {}
  __device__ void advance(int rows) {
    row += rows;
    pixel += rows;
    if (pixel < pixels) return;
    const int images = pixel / pixels;
    pixel -= images * pixels;
    item += images;
    sample += images;
    while (sample >= samples) sample -= samples;
  }
  // The row of what all items of a sample share.
  __device__ int64_t sample_row() const { return sample * pixels + pixel; }
};

// An epilogue is a struct of pointers, passed by value, with
//   static constexpr int kUnroll;  // vectors in flight
//   __device__ void begin();       // once a thread
//   template <int LANES> __device__ void apply(const RowPlace&, int column, bool inside, const Vector<T>& sums);
// LANES adjacent lanes hold one row of a tile and whole warps call together, so that sum_lanes(.., LANES) sums over a
// row; `inside` is false past the last row or column, where nothing may be stored. The number of the column tile is
// column / (LANES * kVector<T>).

// A block: four warps, one below the other. kRows x kColumns sums.
template <class Tile_>
struct ProductShape {
  using Tile = Tile_;
  using T = typename Tile::Element;
  static constexpr int kThreads = 4 * kWarp;
  static constexpr int kRows = 4 * Tile::kRows, kColumns = Tile::kColumns;
  static constexpr int kLanes = kColumns / kVector<T>;  // threads across a row of the result
  static constexpr int kChunks = 4;                     // 16-byte pieces of a row of A in a step
  static constexpr int kStep = kChunks * kVector<T>;
  static constexpr int kBuffers = 3;
  static constexpr int kPitchA = kStep + kVector<T>;
  static constexpr int kPitchB = kColumns + (Tile::kWidth == kVector<T> ? 0 : 8);  // fragments want 8 * odd
  static constexpr int kBufferSize = kRows * kPitchA + kStep * kPitchB;
  static_assert(kBuffers * kBufferSize >= kRows * kPitchB, "the sums reuse the memory of the pipeline");
  static_assert(kBuffers * kBufferSize * sizeof(T) <= 48 * 1024, "beyond 48 KB shared memory must be asked for");
};

// What a thread fetches: one chunk of a step for every 32nd row, and its share of B. Along the taps of a kernel's row
// the flat reduction is contiguous in a buffer of rows, so the address only jumps from one row of taps to the next.
template <class Shape>
class ProductFetch {
 public:
  using T = typename Shape::T;

  __device__ ProductFetch(const StageProduct<T>& product, int64_t first_row, int first_column)
      : product_(product), total_(product.kernel * product.kernel * product.depth) {
    // Eight adjacent lanes take eight rows: at their pitch, the 16-byte stores of one phase meet no bank twice.
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int chunk = lane / 8 * kVector<T>, reach = product.kernel / 2;
    row_ = warp * 8 + lane % 8;
    const int pixels = product.pixels();
    const int first_pixel = static_cast<int>(first_row % pixels);
    const int64_t rows_left = product.rows() - first_row;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = row_ + i * kRowsAtOnce, pixel = (first_pixel + row) % pixels;
      y_[i] = row < rows_left ? pixel / product.width - reach : kOutside;
      x_[i] = pixel % product.width - reach;
    }
    from_ = product.a + (first_row + row_ - reach * product.width - reach) * product.depth + chunk;
    channel_ = chunk;
    tap_x_ = tap_y_ = 0;
    settle();
    const int column = first_column + static_cast<int>(threadIdx.x) % Shape::kLanes * kVector<T>;
    b_row_ = static_cast<int>(threadIdx.x) / Shape::kLanes;
    from_b_ = product.b + int64_t(b_row_) * product.pitch + column;
    b_inside_ = column < product.pitch;
  }

  __device__ int total() const { return total_; }

  // Starts the copies of the next step into `buffer`: A, then B. Nothing is read beyond the end of the reduction.
  __device__ __forceinline__ void next(T* buffer) {
    T* a = buffer + row_ * Shape::kPitchA + static_cast<int>(threadIdx.x) % kWarp / 8 * kVector<T>;
    if (tap_y_ < product_.kernel) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const bool inside = static_cast<unsigned>(y_[i] + tap_y_) < static_cast<unsigned>(product_.height) &&
                            static_cast<unsigned>(x_[i] + tap_x_) < static_cast<unsigned>(product_.width);
        const T* from = inside ? from_ + int64_t(i * kRowsAtOnce) * product_.depth : product_.a;
        __pipeline_memcpy_async(a + i * kRowsAtOnce * Shape::kPitchA, from, 16, inside ? 0 : 16);
      }
    }
    T* b = buffer + Shape::kRows * Shape::kPitchA + static_cast<int>(threadIdx.x) % Shape::kLanes * kVector<T>;
#pragma unroll
    for (int i = 0; i < Shape::kStep; i += kBRowsAtOnce) {
      const int row = i + static_cast<int>(threadIdx.x) / Shape::kLanes;
      if (row < Shape::kStep && b_row_ + i < total_)
        __pipeline_memcpy_async(b + row * Shape::kPitchB,
                                b_inside_ ? from_b_ + int64_t(i) * product_.pitch : product_.b, 16, b_inside_ ? 0 : 16);
    }
    from_ += Shape::kStep;
    channel_ += Shape::kStep;
    settle();
    b_row_ += Shape::kStep;
    from_b_ += int64_t(Shape::kStep) * product_.pitch;
  }

 private:
  static constexpr int kRowsAtOnce = Shape::kThreads / Shape::kChunks, kRows = Shape::kRows / kRowsAtOnce;
  static constexpr int kBRowsAtOnce = Shape::kThreads / Shape::kLanes;
  static constexpr int kOutside = -(1 << 24);  // no tap brings such a row into the image

  // Moves on to the tap that channel_ has reached.
  __device__ __forceinline__ void settle() {
    while (channel_ >= product_.depth) {
      channel_ -= product_.depth;
      if (++tap_x_ < product_.kernel) continue;
      tap_x_ = 0;
      ++tap_y_;
      from_ += int64_t(product_.width - product_.kernel) * product_.depth;
    }
  }

  const StageProduct<T>& product_;
  const int total_;
  const T *from_, *from_b_;
  int row_, b_row_, channel_, tap_x_, tap_y_;
  int x_[kRows], y_[kRows];  // of the pixel under the first tap
  bool b_inside_;
};

// Whether any item of these rows is active. A barrier, if `active` is given.
template <class T>
__device__ __forceinline__ bool any_active(const StageProduct<T>& product, int64_t first_row, int rows) {
  if (!product.active) return true;
  const int64_t last_row = first_row + rows < product.rows() ? first_row + rows - 1 : product.rows() - 1;
  const int64_t last = last_row / product.pixels();
  int active = 0;
  for (int64_t i = first_row / product.pixels() + threadIdx.x; i <= last; i += blockDim.x) active |= product.active[i];
  return __syncthreads_or(active);
}

template <class Tile>
__device__ __forceinline__ void store_group(typename Tile::Element* to, const typename Tile::Element* sums) {
  using T = typename Tile::Element;
  if constexpr (Tile::kWidth == kVector<T>) {
    Vector<T> group;
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) group[e] = sums[e];
    store16(to, group);
  } else {
    *reinterpret_cast<float2*>(to) = make_float2(sums[0], sums[1]);
  }
}

template <class Shape, class Epilogue>
__global__ void __launch_bounds__(Shape::kThreads)
    stage_product_kernel(const StageProduct<typename Shape::T> product, Epilogue epilogue) {
  using T = typename Shape::T;
  using Tile = typename Shape::Tile;
  __shared__ __align__(16) T memory[Shape::kBuffers * Shape::kBufferSize];

  const int column_tiles = ceil_div(product.columns, Shape::kColumns);
  const int first_column = static_cast<int>(blockIdx.x) % column_tiles * Shape::kColumns;
  const int64_t first_row = int64_t(static_cast<int>(blockIdx.x) / column_tiles) * Shape::kRows;
  if (!any_active(product, first_row, Shape::kRows)) return;

  ProductFetch<Shape> fetch(product, first_row, first_column);
#pragma unroll
  for (int i = 0; i + 1 < Shape::kBuffers; ++i) {
    fetch.next(memory + i * Shape::kBufferSize);
    __pipeline_commit();
  }
  const int warp_row = static_cast<int>(threadIdx.x) / kWarp * Tile::kRows;
  int offset[Tile::kThreadRows];
#pragma unroll
  for (int i = 0; i < Tile::kThreadRows; ++i) offset[i] = (warp_row + Tile::row(i)) * Shape::kPitchA;
  Tile tile;
  tile.clear();
  T *full = memory, *empty = memory + (Shape::kBuffers - 1) * Shape::kBufferSize;
  T* const end = memory + Shape::kBuffers * Shape::kBufferSize;
  for (int left = fetch.total(); left > 0; left -= Shape::kStep) {
    __pipeline_wait_prior(Shape::kBuffers - 2);
    __syncthreads();  // the step has arrived for all, and all are done with the buffer to be filled
    fetch.next(empty);
    __pipeline_commit();
    tile.multiply(full, offset, full + Shape::kRows * Shape::kPitchA, Shape::kPitchB, kAllColumns,
                  left < Shape::kStep ? left : Shape::kStep);
    full = full + Shape::kBufferSize == end ? memory : full + Shape::kBufferSize;
    empty = empty + Shape::kBufferSize == end ? memory : empty + Shape::kBufferSize;
  }

  __syncthreads();  // the pipeline's memory is free; from here on every warp minds its own rows
  T* mine = memory + warp_row * Shape::kPitchB;
#pragma unroll
  for (int i = 0; i < Tile::kThreadRows; ++i)
#pragma unroll
    for (int g = 0; g < Tile::kGroups; ++g)
      store_group<Tile>(mine + Tile::row(i) * Shape::kPitchB + Tile::column(g), tile.at(i, g));
  __syncwarp();
  constexpr int kRowsAtOnce = kWarp / Shape::kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, lane_row = lane / Shape::kLanes;
  const int lane_column = lane % Shape::kLanes * kVector<T>, column = first_column + lane_column;
  RowPlace place(first_row + warp_row + lane_row, product.pixels(), product.samples);
  const int64_t rows = product.rows();
  epilogue.begin();
#pragma unroll Epilogue::kUnroll
  for (int i = lane_row; i < Tile::kRows; i += kRowsAtOnce) {
    epilogue.template apply<Shape::kLanes>(place, column, place.row < rows && column < product.columns,
                                           load16(mine + i * Shape::kPitchB + lane_column));
    place.advance(kRowsAtOnce);
  }
}

// Columns of a block: the choice that finishes first when every multiprocessor takes blocks in turn. `cost` is in issue
// slots per step of the reduction.
inline int product_columns(int columns, int64_t rows, int element_bytes, Precision precision, const Card& card) {
  if (element_bytes == 8) return 32;
  if (precision != Precision::kFull && columns > 16) return 64;
  struct {
    int columns, cost;
  } const choices[] = {{64, 9}, {32, 6}, {16, 4}};
  int64_t best_cost = INT64_MAX;
  int best = 0;
  for (const auto& choice : choices) {
    const int64_t blocks = ceil_div(rows, int64_t(128)) * ceil_div(columns, choice.columns);
    const int64_t cost = ceil_div(blocks, int64_t(card.multiprocessors)) * choice.cost;
    if (cost < best_cost) best_cost = cost, best = choice.columns;
  }
  return best;
}

template <class T>
int product_columns(const StageProduct<T>& product, Precision precision, const Card& card) {
  return product_columns(product.columns, product.rows(), sizeof(T), precision, card);
}

template <class Tile, class Epilogue>
void launch_stage_product(const StageProduct<typename Tile::Element>& product, const Epilogue& epilogue,
                          cudaStream_t stream) {
  using Shape = ProductShape<Tile>;
  const int64_t blocks = ceil_div(product.rows(), int64_t(Shape::kRows)) * ceil_div(product.columns, Shape::kColumns);
  stage_product_kernel<Shape, Epilogue>
      <<<static_cast<unsigned>(blocks), Shape::kThreads, 0, stream>>>(product, epilogue);
}

// Puts one product on the stream. Instantiates six kernels for an epilogue: three FFMA tiles, two of tensor cores, one
// of double.
template <class T, class Epilogue>
cudaError_t stage_product(const StageProduct<T>& product, const Epilogue& epilogue, Precision precision,
                          const Card& card, cudaStream_t stream) {
  if (product.rows() == 0) return cudaSuccess;
  const int columns = product_columns(product, precision, card);
  if constexpr (sizeof(T) == 8) {
    launch_stage_product<SimtTile<double, 8, 4, 4>>(product, epilogue, stream);
  } else if (columns == 16) {
    launch_stage_product<SimtTile<float, 4, 4, 8>>(product, epilogue, stream);
  } else if (precision == Precision::kTf32) {
    launch_stage_product<TensorTile<Precision::kTf32, 2, 8>>(product, epilogue, stream);
  } else if (precision == Precision::kBf16) {
    launch_stage_product<TensorTile<Precision::kBf16, 2, 8>>(product, epilogue, stream);
  } else if (columns == 32) {
    launch_stage_product<SimtTile<float, 8, 4, 4>>(product, epilogue, stream);
  } else {
    launch_stage_product<SimtTile<float, 8, 8, 4>>(product, epilogue, stream);
  }
  return cudaGetLastError();
}

// The product of stage i of a branch, on all its samples or on `items` items of them: A_i h (forward form of the
// weights) or A_i^T r (transposed form).
template <class T>
StageProduct<T> product_of(const Branch<T>& branch, int i, bool transposed, Precision precision, const T* packed,
                           const T* a, int64_t items) {
  const Stage<T>& stage = branch.stage[i];
  const int K = transposed ? stage.out_channels : stage.in_channels;
  const int N = transposed ? stage.in_channels : stage.out_channels;
  StageProduct<T> product{};
  product.a = a;
  product.b = packed;
  product.depth = channel_pad(K, precision);
  product.pitch = column_pitch(N, precision);
  product.columns = channel_pad(N, precision);
  product.kernel = stage.kernel;
  product.height = branch.dense() ? 1 : branch.height;
  product.width = branch.dense() ? 1 : branch.width;
  product.items = items;
  product.samples = branch.batch;
  return product;
}

}  // namespace irf::cuda
