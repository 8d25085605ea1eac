// A warp's tile of a sum of outer products, C[m][n] += sum_r A[r][m] B[r][n]: the reduction runs over rows and the
// columns of a row are adjacent in shared memory, for both operands. A[r] is at a + r * pitch, B[r] at b + r * pitch.
//
// Accumulators are seen as those of device/tile.cuh: at(i, g) points to kWidth adjacent columns from column(g) on of
// row(i).
#pragma once

#include "cuda/device/tensor_tile.cuh"

namespace irf::cuda {

// FFMA (or DFMA) tile: two vectors of rows by two of columns a thread. 8 x 8 floats make 64 FFMA of 4 LDS.128. All
// lanes read the same row of shared memory: no pitch gives bank conflicts.
template <class T, int ROW_LANES>
struct OuterTile {
  using Element = T;
  using Operand = T;
  static constexpr int kWidth = kVector<T>, kThreadRows = 2 * kWidth, kGroups = 2;
  static constexpr int kRowLanes = ROW_LANES, kColumnLanes = kWarp / ROW_LANES;
  static constexpr int kRows = kThreadRows * kRowLanes, kColumns = kGroups * kWidth * kColumnLanes;

  T sum[kThreadRows][kGroups * kWidth];

  static __device__ __forceinline__ int row(int i) {
    return (i / kWidth * kRowLanes + static_cast<int>(threadIdx.x) % kWarp / kColumnLanes) * kWidth + i % kWidth;
  }
  static __device__ __forceinline__ int column(int g) {
    return (g * kColumnLanes + static_cast<int>(threadIdx.x) % kColumnLanes) * kWidth;
  }
  __device__ __forceinline__ T* at(int i, int g) { return &sum[i][g * kWidth]; }

  template <int DEPTH>
  __device__ __forceinline__ void multiply(const T* a, const T* b, int pitch) {
    a += row(0);
    b += column(0);
#pragma unroll 4
    for (int r = 0; r < DEPTH; ++r) {
      Vector<T> left[2], right[2];
#pragma unroll
      for (int g = 0; g < 2; ++g) {
        left[g] = load16(a + r * pitch + g * kRowLanes * kWidth);
        right[g] = load16(b + r * pitch + g * kColumnLanes * kWidth);
      }
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i)
#pragma unroll
        for (int j = 0; j < kGroups * kWidth; ++j)
          sum[i][j] += left[i / kWidth][i % kWidth] * right[j / kWidth][j % kWidth];
    }
  }
};

// Tensor-core tile of operands already rounded. The pitch is 8 * odd elements, so that the rows of one load lie in
// different banks: four of TF32, whose words are loaded one by one, or eight of bf16, transposed as they are loaded.
template <Precision PRECISION, int FRAGMENT_ROWS, int FRAGMENT_COLUMNS>
struct FragmentOuterTile : FragmentSums<PRECISION, FRAGMENT_ROWS, FRAGMENT_COLUMNS> {
  using Sums = FragmentSums<PRECISION, FRAGMENT_ROWS, FRAGMENT_COLUMNS>;
  using Operand = typename Sums::Operand;

  template <int DEPTH>
  __device__ __forceinline__ void multiply(const Operand* a, const Operand* b, int pitch) {
    const int lane = lane_index();
    if constexpr (PRECISION == Precision::kBf16) {
      a += (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8;
      b += lane % 16 * pitch + lane / 16 * 8;
    } else {
      a += lane % 4 * pitch + lane / 4;
      b += lane % 4 * pitch + lane / 4;
    }
#pragma unroll 1
    for (int r = 0; r < DEPTH; r += Sums::kDepth, a += Sums::kDepth * pitch, b += Sums::kDepth * pitch) {
      unsigned left[FRAGMENT_ROWS][4];
#pragma unroll
      for (int i = 0; i < FRAGMENT_ROWS; ++i) load_left(left[i], a + 16 * i, pitch);
#pragma unroll
      for (int j = 0; j < FRAGMENT_COLUMNS; j += 2) {
        unsigned right[4];
        load_right(right, b + 8 * j, pitch);
        Sums::add(left, j, {right[0], right[1]});
        Sums::add(left, j + 1, {right[2], right[3]});
      }
    }
  }

 private:
  // A fragment of 16 rows.
  static __device__ __forceinline__ void load_left(unsigned (&to)[4], const Operand* a, int pitch) {
    if constexpr (PRECISION == Precision::kBf16) {
      load_matrices_transposed(to, a);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) to[e] = bits_of(a[e / 2 * 4 * pitch + e % 2 * 8]);
    }
  }

  // Two fragments of 8 columns.
  static __device__ __forceinline__ void load_right(unsigned (&to)[4], const Operand* b, int pitch) {
    if constexpr (PRECISION == Precision::kBf16) {
      load_matrices_transposed(to, b);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) to[e] = bits_of(b[e % 2 * 4 * pitch + e / 2 * 8]);
    }
  }
};

}  // namespace irf::cuda
