// The weight gradients of contract.h from operands rounded to bfloat16, with float32 sums. Two columns make one 32-bit
// word, and the columns are the lanes: a tile is read as it lies, and sums are added across lanes at the end. A run of
// columns goes over the pads between the rows of an image, where `a` is zero: so 32 of them are always side by side.
#pragma once

#include "cpu/bf16.h"
#include "cpu/contract.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Where the rounded columns of a tile lie: those of a channel in one row, column `lead` of the tile at a whole vector.
struct NarrowRows {
  static constexpr int kColumns = 32;  // of a vector
  int shift, stride, first, steps;     // of columns; vectors of the sum

  explicit NarrowRows(const Layout<float>& layout) {
    const int begin = layout.position[0], end = layout.position[layout.vectors - 1] + kLanes<float>;
    first = round_up(begin, kColumns);
    shift = first - begin;
    steps = divide_up(end - begin, kColumns);
    // The last vector may go beyond the columns of the tile by half its size; an odd number of cache lines.
    stride = (divide_up(layout.stride + shift + kColumns / 2, kColumns) | 1) * kColumns;
  }
  int64_t floats(int channels) const { return int64_t(channels) * stride / 2; }
};

// Both operands are rounded first, which takes as long as some ten products of each of their numbers; and a tile of 16
// columns fills half a vector. Measured on a Zen 4: at least as fast from there on, 1.3 to 1.7 times with twice as
// many.
template <class T>
bool bf16_contraction_pays(const WeightSums<T>& target, const Layout<T>& layout) {
  if constexpr (kBf16Products<T>) {
    const int64_t rows = target.rows, channels = target.channels;
    return rows * channels * target.taps >= 12 * (rows + channels) &&
           4 * NarrowRows(layout).steps <= 3 * layout.vectors;
  }
  return false;
}

#if defined(__AVX512F__)
// Accumulators: rows x channels vectors. Four rows: their four sums come out side by side in one 128-bit lane.
constexpr int kContractRows = 4, kContractChannels = 6;
static_assert(kContractRows * kContractChannels + kContractRows + 1 <= kVectorRegisters, "the contraction tile spills");

IRF_BF16 inline void narrow_rows(const NarrowRows& rows, const float* tile, int channels, int stride, uint16_t* out) {
  for (int c = 0; c < channels; ++c, tile += stride, out += rows.stride)
    for (int p = 0; p < rows.stride; p += NarrowRows::kColumns) {
      const int from = p - rows.shift, next = from + kLanes<float>;
      const __m512 first = from >= 0 && from < stride ? _mm512_loadu_ps(tile + from) : _mm512_setzero_ps();
      const __m512 second = next < stride ? _mm512_loadu_ps(tile + next) : _mm512_setzero_ps();
      _mm512_storeu_si512(out + p, bf16_vector(first, second));
    }
}

struct NarrowPair {
  const uint16_t *a, *b;
};

// sums[i] += the sum of the lanes of row[i].
template <int kRows>
IRF_ALWAYS_INLINE void add_lane_sums(const __m512 (&row)[kRows], float* sums) {
  if constexpr (kRows == 4) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(row[0], row[1]), _mm512_unpackhi_ps(row[0], row[1]));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(row[2], row[3]), _mm512_unpackhi_ps(row[2], row[3]));
    const __m512d low = _mm512_unpacklo_pd((__m512d)ab, (__m512d)cd);
    const __m512d high = _mm512_unpackhi_pd((__m512d)ab, (__m512d)cd);
    const __m512 quarters = _mm512_add_ps((__m512)low, (__m512)high);  // four partial sums of each row
    const __m256 halves =
        _mm256_add_ps(_mm512_castps512_ps256(quarters), (__m256)_mm512_extractf64x4_pd((__m512d)quarters, 1));
    const __m128 total = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm_loadu_ps(sums), total));
  } else {
    for (int i = 0; i < kRows; ++i) sums[i] += _mm512_reduce_add_ps(row[i]);
  }
}

template <int kRows, int kChannels>
IRF_BF16 __attribute__((noinline)) void contract_bf16_tile(const WeightSums<float>& target, const NarrowPair* pair,
                                                           int pairs, const NarrowRows& rows, int row, int channel,
                                                           int tap) {
  __m512 sum[kChannels][kRows];
#pragma GCC unroll 8
  for (int k = 0; k < kChannels; ++k)
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) sum[k][i] = _mm512_setzero_ps();
  const int64_t stride = rows.stride;
  for (int p = 0; p < pairs; ++p) {
    const uint16_t* a = pair[p].a + row * stride + rows.first;
    const uint16_t* b = pair[p].b + channel * stride + rows.first + target.offset[tap];
    for (int step = 0; step < rows.steps; ++step, a += NarrowRows::kColumns, b += NarrowRows::kColumns) {
      __m512i x[kRows];
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) x[i] = _mm512_loadu_si512(a + i * stride);
#pragma GCC unroll 8
      for (int k = 0; k < kChannels; ++k) {
        const __m512i y = _mm512_loadu_si512(b + k * stride);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) sum[k][i] = add_bf16_products(sum[k][i], x[i], y);
      }
    }
  }
  float* sums = target.sums + (int64_t(tap) * target.channels + channel) * target.pitch() + row;
#pragma GCC unroll 8
  for (int k = 0; k < kChannels; ++k) add_lane_sums(sum[k], sums + int64_t(k) * target.pitch());
}

template <int kRows, int kChannels = kContractChannels>
void contract_bf16_channels(int count, const WeightSums<float>& target, const NarrowPair* pair, int pairs,
                            const NarrowRows& rows, int row, int channel, int tap) {
  if constexpr (kChannels > 1) {
    if (count < kChannels)
      return contract_bf16_channels<kRows, kChannels - 1>(count, target, pair, pairs, rows, row, channel, tap);
  }
  contract_bf16_tile<kRows, kChannels>(target, pair, pairs, rows, row, channel, tap);
}

template <int kRows = kContractRows>
void contract_bf16_rows(int left, int count, const WeightSums<float>& target, const NarrowPair* pair, int pairs,
                        const NarrowRows& rows, int row, int channel, int tap) {
  if constexpr (kRows > 1) {
    if (left < kRows) return contract_bf16_rows<kRows - 1>(left, count, target, pair, pairs, rows, row, channel, tap);
  }
  contract_bf16_channels<kRows>(count, target, pair, pairs, rows, row, channel, tap);
}

template <class T>
void contract_bf16(const WeightSums<T>& target, const OperandPair<T>* pair, int pairs, const Layout<T>& layout) {
  const NarrowRows rows(layout);
  NarrowPair narrow[2];
  auto* next = reinterpret_cast<uint16_t*>(layout.narrow);
  for (int p = 0; p < pairs; ++p) {
    narrow_rows(rows, pair[p].a, target.rows, layout.stride, next);
    narrow[p].a = next;
    next += int64_t(target.rows) * rows.stride;
    narrow_rows(rows, pair[p].b, target.channels, layout.stride, next);
    narrow[p].b = next;
    next += int64_t(target.channels) * rows.stride;
  }
  // As in `contract`: blocks of rows that stay in the second-level cache, strips of nearly equal width.
  constexpr int kBlockBytes = 256 << 10;
  const int64_t row_bytes = int64_t(pairs) * rows.stride * 2;
  const int block = static_cast<int>(max_of(int64_t(1), kBlockBytes / (row_bytes * kContractRows))) * kContractRows;
  const int strips = divide_up(target.channels, kContractChannels);
  for (int first = 0; first < target.rows; first += block)
    for (int tap = 0; tap < target.taps; ++tap)
      for (int strip = 0, channel = 0, count; strip < strips; ++strip, channel += count) {
        count = divide_up(target.channels - channel, strips - strip);
        for (int row = first; row < min_of(first + block, target.rows); row += kContractRows)
          contract_bf16_rows(min_of(kContractRows, target.rows - row), count, target, narrow, pairs, rows, row, channel,
                             tap);
      }
}
#endif

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
