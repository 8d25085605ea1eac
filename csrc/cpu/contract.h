// Weight gradients: out[m][c][t] += sum over columns p of a[m][p] * b[c][p + offset_t], summed over one or two operand pairs.
// In the padded layout a tap is again a constant offset; `a` is zero on pads, so no column needs to be left out.
#pragma once

#include "cpu/layout.h"

namespace irf {
namespace IRF_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kContractRows = 4, kContractChannels = 6;
#else
constexpr int kContractRows = 3, kContractChannels = 3;
#endif
static_assert(kContractRows * kContractChannels + kContractRows + 1 <= kVectorRegisters, "the contraction tile spills");

template <class T>
struct OperandPair {
  const T* a;  // [rows][stride], zero on pads
  const T* b;  // [channels][stride]
};

template <class T>
struct Contraction {
  int rows, channels, taps;
  const int* offset;  // [taps]
  T* out;             // [rows, channels, taps]
  int pairs;
  OperandPair<T> pair[2];
};

template <class T, int kRows, int kChannels>
__attribute__((noinline)) void contract_tile(const Contraction<T>& op, const Layout<T>& layout, int row, int channel, int tap) {
  const int64_t stride = layout.stride;
  Vector<T> acc[kRows][kChannels];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int k = 0; k < kChannels; ++k) acc[i][k] = Vector<T>{};
  for (int pair = 0; pair < op.pairs; ++pair) {
    const T* a = op.pair[pair].a + row * stride;
    const T* b = op.pair[pair].b + channel * stride + op.offset[tap];
    for (int j = 0; j < layout.vectors; ++j) {
      const int64_t at = layout.position[j];
      Vector<T> x[kRows];
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) x[i] = load(a + i * stride + at);
#pragma GCC unroll 8
      for (int k = 0; k < kChannels; ++k) {
        const Vector<T> y = load(b + k * stride + at);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) acc[i][k] = fma(x[i], y, acc[i][k]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int k = 0; k < kChannels; ++k)
      op.out[(int64_t(row + i) * op.channels + channel + k) * op.taps + tap] += sum_lanes<T>(acc[i][k]);
}

template <class T, int kRows, int kChannels = kContractChannels>
IRF_ALWAYS_INLINE void contract_channels(int count, const Contraction<T>& op, const Layout<T>& layout, int row, int channel,
                                         int tap) {
  if constexpr (kChannels > 1) {
    if (count < kChannels) return contract_channels<T, kRows, kChannels - 1>(count, op, layout, row, channel, tap);
  }
  contract_tile<T, kRows, kChannels>(op, layout, row, channel, tap);
}

template <class T, int kRows = kContractRows>
IRF_ALWAYS_INLINE void contract_rows(int rows, int count, const Contraction<T>& op, const Layout<T>& layout, int row,
                                     int channel, int tap) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return contract_rows<T, kRows - 1>(rows, count, op, layout, row, channel, tap);
  }
  contract_channels<T, kRows>(count, op, layout, row, channel, tap);
}

template <class T>
void contract(const Contraction<T>& op, const Layout<T>& layout) {
  for (int tap = 0; tap < op.taps; ++tap)
    for (int channel = 0; channel < op.channels; channel += kContractChannels)
      for (int row = 0; row < op.rows; row += kContractRows)
        contract_rows<T>(min_of(kContractRows, op.rows - row), min_of(kContractChannels, op.channels - channel), op, layout, row,
                         channel, tap);
}

// out[m] += sum over columns of a[m][p].
template <class T>
void add_row_sums(const T* a, int rows, const Layout<T>& layout, T* out) {
  for (int m = 0; m < rows; ++m) {
    Vector<T> sum{};
    for (int j = 0; j < layout.vectors; ++j) sum += load(a + int64_t(m) * layout.stride + layout.position[j]);
    out[m] += sum_lanes<T>(sum);
  }
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
