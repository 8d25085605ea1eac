// Weight gradients: sum over columns p of a[m][p] * b[c][p + offset_t], summed over one or two operand pairs, added to
// packed sums that a thread keeps over all its tiles. In the padded layout a tap is again a constant offset; `a` is
// zero on pads, so no column needs to be left out.
#pragma once

#include "cpu/layout.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Accumulators: kContractRows x kContractChannels vectors, each a sum of its own that must be added across its lanes at
// the end. Four rows: their four sums come out side by side in one 128-bit lane, and are stored so.
constexpr int kContractRows = 4;
#if defined(__AVX512F__)
constexpr int kContractChannels = 6;
#elif defined(IRF_NEON)
constexpr int kContractChannels = 5;  // GCC loads a whole turn ahead on AArch64, and of six it spills two
#else
constexpr int kContractChannels = 2;
#endif
static_assert(kContractRows * kContractChannels + kContractRows + 1 <= kVectorRegisters, "the contraction tile spills");

template <class T>
struct OperandPair {
  const T* a;  // [rows][stride], zero on pads
  const T* b;  // [channels][stride]
};

// The gradient sums of one linear map, as [tap][channel][rows], rows rounded up.
template <class T>
struct WeightSums {
  int rows, channels, taps;
  const int* offset;  // [taps]
  T* sums;

  int padded_rows() const { return rows < 16 ? round_up(rows, kContractRows) : channel_stride<T>(rows); }
  int64_t size() const { return int64_t(taps) * channels * padded_rows(); }

  // out[m][c][t] += sums, for [begin, end) of the rows m. A transposition: done in blocks, since rows a power of two
  // apart would push each other out of the cache.
  void add_to(T* out, int begin, int end) const {
    constexpr int kStrip = 64 / sizeof(T), kColumns = 256;
    const int row_size = channels * taps;
    T block[kStrip][kColumns];
    for (int first = begin; first < end; first += kStrip)
      for (int start = 0; start < row_size; start += kColumns) {
        const int rows_here = min_of(kStrip, end - first), columns = min_of(kColumns, row_size - start);
        for (int k = 0; k < columns; ++k) {
          const int c = (start + k) / taps, t = (start + k) % taps;
          const T* from = sums + (int64_t(t) * channels + c) * padded_rows() + first;
          for (int i = 0; i < rows_here; ++i) block[i][k] = from[i];
        }
        for (int i = 0; i < rows_here; ++i) {
          T* to = out + int64_t(first + i) * row_size + start;
          for (int k = 0; k < columns; ++k) to[k] += block[i][k];
        }
      }
  }
};

// sums[i] += the sum of the lanes of row[i].
template <class T, int kRows>
IRF_ALWAYS_INLINE void add_lane_sums(const Vector<T> (&row)[kRows], T* sums) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4 && kRows == 4) {
    const __m512 a = (__m512)row[0], b = (__m512)row[1], c = (__m512)row[2], d = (__m512)row[3];
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d low = _mm512_unpacklo_pd((__m512d)ab, (__m512d)cd),
                  high = _mm512_unpackhi_pd((__m512d)ab, (__m512d)cd);
    const __m512 quarters = _mm512_add_ps((__m512)low, (__m512)high);  // four partial sums of a, b, c, d
    const __m256 halves =
        _mm256_add_ps(_mm512_castps512_ps256(quarters), (__m256)_mm512_extractf64x4_pd((__m512d)quarters, 1));
    const __m128 total = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm_loadu_ps(sums), total));
    return;
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4 && kRows == 4) {
    const __m256 ab = _mm256_hadd_ps((__m256)row[0], (__m256)row[1]),
                 cd = _mm256_hadd_ps((__m256)row[2], (__m256)row[3]);
    const __m256 halves = _mm256_hadd_ps(ab, cd);
    const __m128 total = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm_loadu_ps(sums), total));
    return;
  }
#elif defined(IRF_NEON)
  if constexpr (sizeof(T) == 4 && kRows == 4) {
    const float32x4_t ab = vpaddq_f32((float32x4_t)row[0], (float32x4_t)row[1]),
                      cd = vpaddq_f32((float32x4_t)row[2], (float32x4_t)row[3]);
    vst1q_f32(sums, vaddq_f32(vld1q_f32(sums), vpaddq_f32(ab, cd)));
    return;
  }
#endif
  for (int i = 0; i < kRows; ++i) sums[i] += sum_lanes<T>(row[i]);
}

template <class T, int kRows, int kChannels>
__attribute__((noinline)) void contract_tile(const WeightSums<T>& target, const OperandPair<T>* pair, int pairs,
                                             const Layout<T>& layout, int row, int channel, int tap) {
  const int64_t stride = layout.stride;
  Vector<T> acc[kChannels][kRows];
#pragma GCC unroll 8
  for (int k = 0; k < kChannels; ++k)
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) acc[k][i] = Vector<T>{};
  for (int p = 0; p < pairs; ++p) {
    const T* a[kRows];  // AArch64 adds no more than one index to an address
    const T* b[kChannels];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) a[i] = pair[p].a + (row + i) * stride;
#pragma GCC unroll 8
    for (int k = 0; k < kChannels; ++k) b[k] = pair[p].b + (channel + k) * stride + target.offset[tap];
    for (int j = 0; j < layout.vectors; ++j) {
      const int64_t at = layout.position[j];
      Vector<T> x[kRows];
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) x[i] = load(a[i] + at);
#pragma GCC unroll 8
      for (int k = 0; k < kChannels; ++k) {
        const Vector<T> y = load(b[k] + at);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) acc[k][i] = fma(x[i], y, acc[k][i]);
      }
    }
  }
  T* sums = target.sums + (int64_t(tap) * target.channels + channel) * target.padded_rows() + row;
#pragma GCC unroll 8
  for (int k = 0; k < kChannels; ++k) add_lane_sums<T>(acc[k], sums + int64_t(k) * target.padded_rows());
}

template <class T, int kRows, int kChannels = kContractChannels>
IRF_ALWAYS_INLINE void contract_channels(int count, const WeightSums<T>& target, const OperandPair<T>* pair, int pairs,
                                         const Layout<T>& layout, int row, int channel, int tap) {
  if constexpr (kChannels > 1) {
    if (count < kChannels)
      return contract_channels<T, kRows, kChannels - 1>(count, target, pair, pairs, layout, row, channel, tap);
  }
  contract_tile<T, kRows, kChannels>(target, pair, pairs, layout, row, channel, tap);
}

template <class T, int kRows = kContractRows>
IRF_ALWAYS_INLINE void contract_rows(int rows, int count, const WeightSums<T>& target, const OperandPair<T>* pair,
                                     int pairs, const Layout<T>& layout, int row, int channel, int tap) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return contract_rows<T, kRows - 1>(rows, count, target, pair, pairs, layout, row, channel, tap);
  }
  contract_channels<T, kRows>(count, target, pair, pairs, layout, row, channel, tap);
}

template <class T>
void contract(const WeightSums<T>& target, const OperandPair<T>* pair, int pairs, const Layout<T>& layout) {
  // Rows are passed over once per strip of channels: a block of them must stay in the second-level cache.
  constexpr int kBlockBytes = 256 << 10;
  const int64_t row_bytes = int64_t(pairs) * layout.stride * static_cast<int>(sizeof(T));
  const int block = static_cast<int>(max_of(int64_t(1), kBlockBytes / (row_bytes * kContractRows))) * kContractRows;
  // Strips of nearly equal width: 32 channels in sixes go as 6 6 5 5 5 5, not 6 6 6 6 6 2.
  const int strips = divide_up(target.channels, kContractChannels);
  for (int first = 0; first < target.rows; first += block)
    for (int tap = 0; tap < target.taps; ++tap)
      for (int strip = 0, channel = 0, count; strip < strips; ++strip, channel += count) {
        count = divide_up(target.channels - channel, strips - strip);
        for (int row = first; row < min_of(first + block, target.rows); row += kContractRows)
          contract_rows<T>(min_of(kContractRows, target.rows - row), count, target, pair, pairs, layout, row, channel,
                           tap);
      }
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
