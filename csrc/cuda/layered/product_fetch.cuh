// What a block of layered/product.cuh reads: the operands of the product, and the asynchronous copies of its tiles.
#pragma once

#include "cuda/device/pack.h"
#include "cuda/device/tensor_tile.cuh"
#include "cuda/device/tile.cuh"

namespace irf::cuda {

template <class T>
struct StageProduct {
  const T* a;  // operands, [items * pixels][depth], depth = channel_pad(K)
  const T* b;  // packed weights, kernel * kernel * depth flat rows of pitch = column_pitch(N) columns
  int depth, pitch;
  int columns;                // of the result: the pitch of its rows, channel_pad(N)
  int kernel, height, width;  // dense: all 1
  int64_t items;              // images
  int64_t samples;            // item i belongs to sample i % samples
  const int* active;          // [items]: blocks whose items are all below `least` do nothing; or null
  int least = 1;
  // Taps side by side: B has so many taps of `depth` rows, and the result as many groups of columns / taps columns;
  // `kernel` is 1 then. Otherwise 1.
  int taps = 1;

  __host__ __device__ int pixels() const { return height * width; }
  __host__ __device__ int64_t rows() const { return items * pixels(); }
};

// A block: four warps, one below the other. kRows x kColumns sums.
template <class Tile_>
struct BlockShape {
  using Tile = Tile_;
  using T = typename Tile::Element;
  using Operand = typename Tile::Operand;
  static constexpr int kThreads = 4 * kWarp;
  static constexpr int kRows = 4 * Tile::kRows, kColumns = Tile::kColumns;
  static constexpr int kLanes = kColumns / kVector<T>;  // threads across a row of the result
  static constexpr int kChunks = 4;                     // 16-byte pieces of a row of A in a step
  static constexpr int kChunk = kVector<Operand>;       // operands of a piece
  static constexpr int kStep = kChunks * kChunk;
  static constexpr int kBuffers = 3;
  static constexpr int kPitchA = kStep + kChunk;
  static constexpr int kAdjacent = adjacent_k(Tile::kPrecision);  // k of a row of B in memory
  static constexpr int kRowsB = kStep / kAdjacent, kPitchB = kColumns * kAdjacent + Tile::kPadding;
  static constexpr int kLanesB = kColumns * kAdjacent / kChunk;  // threads across such a row
  static constexpr int kBufferSize = kRows * kPitchA + kRowsB * kPitchB;
  static constexpr int kBytes = kBuffers * kBufferSize * static_cast<int>(sizeof(Operand));
  static constexpr int kPitchSums = kColumns + Tile::kSumPadding;
  static_assert(kBytes >= kRows * kPitchSums * static_cast<int>(sizeof(T)), "sums reuse the memory of the pipeline");
  static_assert(kBytes <= 48 * 1024, "beyond 48 KB shared memory must be asked for");
};

// What a thread fetches: one chunk of a step for every 32nd row, and its share of B. Along the taps of a kernel's row
// the flat reduction is contiguous in a buffer of rows, so the address only jumps from one row of taps to the next. The
// blocks of one tile, gridDim.y of them, share the reduction in whole steps.
template <class Shape>
class ProductFetch {
 public:
  using T = typename Shape::T;
  using Operand = typename Shape::Operand;

  __device__ ProductFetch(const StageProduct<T>& product, int64_t first_row, int first_column)
      : product_(product), pitch_b_(product.pitch * Shape::kAdjacent) {
    const int all = product.kernel * product.kernel * product.depth, steps = ceil_div(all, Shape::kStep);
    const int split = static_cast<int>(blockIdx.y), splits = static_cast<int>(gridDim.y);
    const int first = split * steps / splits * Shape::kStep;
    end_ = min(all, (split + 1) * steps / splits * Shape::kStep);
    length_ = end_ - first;
    // Eight adjacent lanes take eight rows: at their pitch, the 16-byte stores of one phase meet no bank twice.
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int chunk = lane / 8 * Shape::kChunk, reach = product.kernel / 2;
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
    from_ = operands(product.a) + (first_row + row_ - reach * product.width - reach) * product.depth + first + chunk;
    channel_ = first + chunk;
    tap_x_ = tap_y_ = 0;
    settle();
    const int column = first_column + static_cast<int>(threadIdx.x) % Shape::kLanesB * Shape::kChunk / Shape::kAdjacent;
    const int tap_columns = product.columns / product.taps, tap = column / tap_columns;
    const int tap_column = column - tap * tap_columns;
    first_b_row_ =
        copied_row<Shape::kLanesB, Shape::kPitchB * sizeof(Operand)>(static_cast<int>(threadIdx.x) / Shape::kLanesB);
    b_row_ = first / Shape::kAdjacent + first_b_row_;
    from_b_ = operands(product.b) + (int64_t(tap) * (product.depth / Shape::kAdjacent) + b_row_) * pitch_b_ +
              tap_column * Shape::kAdjacent;
    b_inside_ = tap < product.taps && tap_column < product.pitch;
  }

  // Rows of the reduction that this block sums.
  __device__ int length() const { return length_; }

  // Starts the copies of the next step into `buffer`: A, then B. Nothing is read beyond the end of the reduction.
  __device__ __forceinline__ void next(Operand* buffer) {
    Operand* a = buffer + row_ * Shape::kPitchA + static_cast<int>(threadIdx.x) % kWarp / 8 * Shape::kChunk;
    if (tap_y_ < product_.kernel) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const bool inside = static_cast<unsigned>(y_[i] + tap_y_) < static_cast<unsigned>(product_.height) &&
                            static_cast<unsigned>(x_[i] + tap_x_) < static_cast<unsigned>(product_.width);
        const Operand* from = inside ? from_ + int64_t(i * kRowsAtOnce) * product_.depth : operands(product_.a);
        __pipeline_memcpy_async(a + i * kRowsAtOnce * Shape::kPitchA, from, 16, inside ? 0 : 16);
      }
    }
    Operand* b =
        buffer + Shape::kRows * Shape::kPitchA + static_cast<int>(threadIdx.x) % Shape::kLanesB * Shape::kChunk;
#pragma unroll
    for (int i = 0; i < Shape::kRowsB; i += kBRowsAtOnce) {
      const int row = i + first_b_row_;
      if (row < Shape::kRowsB && (b_row_ + i) * Shape::kAdjacent < end_)
        __pipeline_memcpy_async(b + row * Shape::kPitchB,
                                b_inside_ ? from_b_ + int64_t(i) * pitch_b_ : operands(product_.b), 16,
                                b_inside_ ? 0 : 16);
    }
    from_ += Shape::kStep;
    channel_ += Shape::kStep;
    settle();
    b_row_ += Shape::kRowsB;
    from_b_ += int64_t(Shape::kRowsB) * pitch_b_;
  }

 private:
  static constexpr int kRowsAtOnce = Shape::kThreads / Shape::kChunks, kRows = Shape::kRows / kRowsAtOnce;
  static constexpr int kBRowsAtOnce = Shape::kThreads / Shape::kLanesB;
  static constexpr int kOutside = -(1 << 24);  // no tap brings such a row into the image

  static __device__ const Operand* operands(const T* buffer) { return reinterpret_cast<const Operand*>(buffer); }

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
  const int pitch_b_;
  int length_, end_;  // of this block's part of the flat reduction: how long it is, and where it ends
  const Operand *from_, *from_b_;
  int row_, first_b_row_, b_row_, channel_, tap_x_, tap_y_;
  int x_[kRows], y_[kRows];  // of the pixel under the first tap
  bool b_inside_;
};

}  // namespace irf::cuda
