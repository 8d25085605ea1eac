// Layout facts that everything on the GPU shares. A buffer of rows is [row][pitch], the channels of one position
// adjacent and padded with zeros to channel_pad. Weights are packed as flat rows tap * channel_pad(K) + k of
// column_pitch(N) columns, pads zero: the forward form has K = in, N = out; the transposed form K = out, N = in and the
// taps flipped. Plans use it on the host.
#pragma once

#include <cstdint>

#include "cuda/device/card.h"
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

// Columns of a packed row. Tensor-core fragments want 8 * odd, so that the rows of one load lie in different banks.
constexpr IRF_HOST_DEVICE int column_pitch(int columns, Precision precision) {
  if (precision == Precision::kFull) return (columns + 3) / 4 * 4;
  const int groups = (columns + 7) / 8;
  return 8 * (groups + 1 - groups % 2);
}

// Elements of the packed weights of a kernel x kernel stage that reduces over K channels and yields N.
constexpr IRF_HOST_DEVICE int64_t packed_size(int K, int N, int kernel, Precision precision) {
  return int64_t(kernel) * kernel * channel_pad(K, precision) * column_pitch(N, precision);
}

}  // namespace irf::cuda
