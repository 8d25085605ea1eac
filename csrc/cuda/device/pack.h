// Layout facts that everything on the GPU shares. A buffer of rows is [row][pitch], the channels of one position
// adjacent and padded with zeros to channel_pad. Weights are packed as flat rows tap * channel_pad(K) + k of
// column_pitch(N) columns, pads zero: the forward form has K = in, N = out; the transposed form K = out, N = in and the
// taps flipped. Plans use it on the host.
//
// What feeds products of a layered walk, rows and packed weights, are operands: values of the numbers' own type T in
// full precision, floats rounded to TF32, or Bf16. They are rounded once, when they are stored (device/operand.cuh).
// Buffers of operands are of type T* all the same, since the precision is known only at run time. Packed for TF32, four
// flat rows are one, a column's four numbers side by side (adjacent_k). Resident walks have their state in full
// precision and round what they load from it, so their weights are packed as values.
#pragma once

#include <cstdint>

#include "cuda/device/card.h"
#include "iresnet_fast/macros.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

// Rows of the reduction that a tile takes at once: kDepth of the tiles in device/tile.cuh.
constexpr IRF_HOST_DEVICE int depth_of(Precision precision) {
  return precision == Precision::kFull ? 4 : precision == Precision::kTf32 ? 8 : 16;
}

constexpr IRF_HOST_DEVICE int channel_pad(int channels, Precision precision) {
  const int depth = depth_of(precision);
  return (channels + depth - 1) / depth * depth;
}

// Elements of rows of so many channels, one for every pixel of a batch.
template <class T>
int64_t rows_size(const Branch<T>& branch, int channels, Precision precision) {
  return branch.batch * branch.pixels() * channel_pad(channels, precision);
}

enum class Packing { kValues, kOperands };

// Flat rows of operands that are one row in memory. A load of fragments wants 16 bytes of one column: of bf16 it gets
// eight k by transposing, which it cannot do with words of 32 bits, so a quad of TF32 lies side by side.
constexpr IRF_HOST_DEVICE int adjacent_k(Precision precision) { return precision == Precision::kTf32 ? 4 : 1; }

// Where flat row `row` of packed operands has column `column`.
constexpr IRF_HOST_DEVICE int64_t packed_at(int64_t row, int column, int pitch, Precision precision) {
  const int adjacent = adjacent_k(precision);
  return (row / adjacent * pitch + column) * adjacent + row % adjacent;
}

struct Bf16 {
  uint16_t bits;  // the upper half of a float's
};

// Elements of T that `count` operands take; an even count where they are Bf16.
constexpr IRF_HOST_DEVICE int64_t operand_size(int64_t count, Precision precision) {
  return precision == Precision::kBf16 ? count / 2 : count;
}

// Columns of a packed row. Rows of bf16 operands are whole sectors of 32 bytes. The others that tensor cores take are
// 8 * odd, so that rows which a resident walk copies to shared memory as they are lie in different banks.
constexpr IRF_HOST_DEVICE int column_pitch(int columns, Precision precision, Packing packing) {
  if (precision == Precision::kFull) return (columns + 3) / 4 * 4;
  if (precision == Precision::kBf16 && packing == Packing::kOperands) return (columns + 15) / 16 * 16;
  const int groups = (columns + 7) / 8;
  return 8 * (groups + 1 - groups % 2);
}

// Elements of T of the packed weights of a kernel x kernel stage that reduces over K channels and yields N.
constexpr IRF_HOST_DEVICE int64_t packed_size(int K, int N, int kernel, Precision precision, Packing packing) {
  const int64_t count = int64_t(kernel) * kernel * channel_pad(K, precision) * column_pitch(N, precision, packing);
  return packing == Packing::kOperands ? operand_size(count, precision) : count;
}

}  // namespace irf::cuda
