// Tensor-core tiles of FRAGMENT_ROWS x FRAGMENT_COLUMNS fragments of 16 x 8: one for operands that were rounded when
// they were stored (device/operand.cuh), and one that rounds them itself.
#pragma once

#include "cuda/device/device.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/pack.h"

namespace irf::cuda {

template <Precision PRECISION>
struct OperandOf {
  using Type = float;
};
template <>
struct OperandOf<Precision::kBf16> {
  using Type = Bf16;
};

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }

// The accumulators, in the view of device/tile.cuh.
template <Precision PRECISION, int FRAGMENT_ROWS, int FRAGMENT_COLUMNS>
struct FragmentSums {
  using Element = float;
  using Operand = typename OperandOf<PRECISION>::Type;
  static constexpr int kWidth = 2, kThreadRows = 2 * FRAGMENT_ROWS, kGroups = FRAGMENT_COLUMNS;
  static constexpr int kRows = 16 * FRAGMENT_ROWS, kColumns = 8 * FRAGMENT_COLUMNS;
  static constexpr int kDepth = depth_of(PRECISION);  // of a fragment

  float sum[FRAGMENT_ROWS][FRAGMENT_COLUMNS][4];

  static __device__ __forceinline__ int row(int i) { return i * 8 + lane_index() / 4; }
  static __device__ __forceinline__ int column(int g) { return g * 8 + lane_index() % 4 * 2; }
  __device__ __forceinline__ float* at(int i, int g) { return &sum[i / 2][g][i % 2 * 2]; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < FRAGMENT_ROWS; ++i)
#pragma unroll
      for (int j = 0; j < FRAGMENT_COLUMNS; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][j][e] = 0.f;
  }

  // Adds the products of all row fragments and of column fragment j.
  __device__ __forceinline__ void add(const unsigned (&left)[FRAGMENT_ROWS][4], int j, const unsigned (&right)[2]) {
#pragma unroll
    for (int i = 0; i < FRAGMENT_ROWS; ++i) {
      if constexpr (PRECISION == Precision::kBf16)
        mma_bf16(sum[i][j], left[i], right);
      else
        mma_tf32(sum[i][j], left[i], right);
    }
  }
};

// The tile of layered products: its inner loop loads fragments as the instruction wants them and converts nothing. Both
// operands of the product of device/tile.cuh come by load_matrices: its matrices are 8 rows of A by 16 bytes, and of B
// in bf16 8 k by 8 columns, transposed on the way, in TF32 8 columns by a quad of k, which packed weights have side by
// side (adjacent_k). A's pitch is an odd number of 16 bytes, and so is B's in bf16.
template <Precision PRECISION, int FRAGMENT_ROWS, int FRAGMENT_COLUMNS>
struct FragmentTile : FragmentSums<PRECISION, FRAGMENT_ROWS, FRAGMENT_COLUMNS> {
  using Sums = FragmentSums<PRECISION, FRAGMENT_ROWS, FRAGMENT_COLUMNS>;
  using Operand = typename Sums::Operand;
  static constexpr Precision kPrecision = PRECISION;
  static constexpr int kDepth = Sums::kDepth, kLoadRows = FRAGMENT_ROWS;
  static constexpr int kPadding = PRECISION == Precision::kBf16 ? 8 : 0, kSumPadding = 8;
  static_assert(FRAGMENT_COLUMNS % 2 == 0, "a load brings two fragments of B");

  static __device__ __forceinline__ int load_row(int i) { return 16 * i + lane_index() % 16; }

  // `pitch`: between rows of B, each of adjacent_k(PRECISION) k.
  __device__ __forceinline__ void multiply(const Operand* a, const int (&offset)[kLoadRows], const Operand* b,
                                           int pitch, int depth) {
    constexpr int kAdjacent = adjacent_k(PRECISION);
    const int lane = lane_index();
    a += lane / 16 * kVector<Operand>;
    if constexpr (kAdjacent == 1)
      b += lane % 16 * pitch + lane / 16 * 8;
    else
      b += lane / 8 % 2 * pitch + (lane / 16 * 8 + lane % 8) * kAdjacent;
#pragma unroll 1
    for (int k = 0; k < depth; k += kDepth, a += kDepth, b += kDepth / kAdjacent * pitch) {
      unsigned left[FRAGMENT_ROWS][4];
#pragma unroll
      for (int i = 0; i < FRAGMENT_ROWS; ++i) load_matrices(left[i], a + offset[i]);
#pragma unroll
      for (int j = 0; j < FRAGMENT_COLUMNS; j += 2) {
        unsigned right[4];
        if constexpr (kAdjacent == 1)
          load_matrices_transposed(right, b + 8 * j);
        else
          load_matrices(right, b + 8 * j * kAdjacent);
        Sums::add(left, j, {right[0], right[1]});
        Sums::add(left, j + 1, {right[2], right[3]});
      }
    }
  }
};

// The tile of resident walks, whose state is in full precision: operands are rounded as they leave shared memory. B's
// pitch is 8 * odd, so that its fragment loads are free of conflicts like A's. Which k of memory plays which k of the
// instruction does not matter as long as A and B agree: bf16 pairs k with k + 4, so that its loads are those of TF32.
template <Precision PRECISION, int FRAGMENT_ROWS, int FRAGMENT_COLUMNS>
struct TensorTile : FragmentSums<PRECISION, FRAGMENT_ROWS, FRAGMENT_COLUMNS> {
  using Sums = FragmentSums<PRECISION, FRAGMENT_ROWS, FRAGMENT_COLUMNS>;
  static constexpr int kDepth = Sums::kDepth;

  __device__ __forceinline__ void multiply(const float* a, const int (&offset)[Sums::kThreadRows], const float* b,
                                           int pitch, int limit, int depth) {
    const int lane = lane_index(), g = lane / 4, t = lane % 4;
    a += t;
    b += t * pitch;
#pragma unroll 1
    for (int k = 0; k < depth; k += kDepth) {
      unsigned left[FRAGMENT_ROWS][4];
#pragma unroll
      for (int i = 0; i < FRAGMENT_ROWS; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) left[i][e] = operand(a + offset[2 * i + e % 2] + k, e / 2, 1);
#pragma unroll
      for (int j = 0; j < FRAGMENT_COLUMNS; ++j) {
        const float* from = b + k * pitch + (8 * j + g < limit ? 8 * j + g : 0);
        Sums::add(left, j, {operand(from, 0, pitch), operand(from, 1, pitch)});
      }
    }
  }

 private:
  // Word `half` of a fragment from an operand whose k are `stride` apart.
  static __device__ __forceinline__ unsigned operand(const float* p, int half, int stride) {
    if constexpr (PRECISION == Precision::kBf16)
      return to_bf16_pair(p[8 * half * stride], p[(8 * half + 4) * stride]);
    else
      return to_tf32(p[4 * half * stride]);
  }
};

}  // namespace irf::cuda
