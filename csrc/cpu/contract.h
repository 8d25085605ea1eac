// Weight gradients: sum over columns p of a[m][p] * b[c][p + offset_t], summed over one or two operand pairs, added to
// packed sums that a thread keeps over all its tiles. One operand is transposed, a panel of its channels at a time: its
// channels are then the lanes, and the numbers of the other are broadcast, so that no sum has to be added across lanes.
#pragma once

#include "cpu/bf16.h"
#include "cpu/layout.h"
#include "cpu/tile_io.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Register tiles: vectors of a panel x broadcast channels. For 1, 2, ... vectors, the most channels that fit.
#if defined(__AVX512F__)
constexpr int kPanelVectors = 4;
constexpr int kPanelChannels[kPanelVectors] = {12, 12, 8, 6};
#elif defined(IRF_NEON)  // GCC loads a whole turn ahead on AArch64, and spills some of 24 sums
constexpr int kPanelVectors = 4;
constexpr int kPanelChannels[kPanelVectors] = {12, 10, 7, 5};
#else
constexpr int kPanelVectors = 3;
constexpr int kPanelChannels[kPanelVectors] = {8, 6, 4};
#endif
static_assert(kPanelVectors * kPanelChannels[kPanelVectors - 1] + kPanelVectors + 1 <= kVectorRegisters, "it spills");

template <class T>
struct OperandPair {
  const T* a;  // [rows][stride], zero on pads
  const T* b;  // [channels][stride]
};

// The gradient sums of one linear map: [tap][channel][rows] if its rows are the lanes, else [tap][row][channels]; the
// lanes rounded up.
template <class T>
struct WeightSums {
  int rows, channels, taps;
  const int* offset;  // [taps]
  T* sums;
  T* panel;           // [panel_size] scratch of the thread
  int kernel;         // side of the centred kernel whose taps these are, or 0: where they fall is not known
  bool bf16 = false;  // products round their operands (contract_bf16.h)

  // The operand that leaves fewer lanes idle; the one with fewer channels to transpose on a tie.
  bool row_lanes() const {
    if (bf16) return true;
    const int64_t by_rows = int64_t(round_up(rows, kLanes<T>)) * channels;
    const int64_t by_channels = int64_t(round_up(channels, kLanes<T>)) * rows;
    return by_rows != by_channels ? by_rows < by_channels : rows <= channels;
  }
  int lanes() const { return row_lanes() ? rows : channels; }
  int broadcasts() const { return row_lanes() ? channels : rows; }
  // An odd number of cache lines: powers of two apart, they would push each other out of the cache.
  int64_t pitch() const { return channel_stride<T>(lanes()); }
  int64_t size() const { return int64_t(taps) * broadcasts() * pitch(); }

  static int64_t panel_size(const Layout<T>& layout) { return int64_t(layout.stride) * kPanelVectors * kLanes<T>; }

  // out[m][c][t] += sums, for [begin, end) of the rows m.
  void add_to(T* out, int begin, int end) const {
    row_lanes() ? add_transposed(out, begin, end) : add(out, begin, end);
  }

 private:
  void add(T* out, int begin, int end) const {
    for (int m = begin; m < end; ++m) {
      T* to = out + int64_t(m) * channels * taps;
      for (int t = 0; t < taps; ++t) {
        const T* from = sums + (int64_t(t) * rows + m) * pitch();
        for (int c = 0; c < channels; ++c) to[c * taps + t] += from[c];
      }
    }
  }

  // In blocks: rows a power of two apart would push each other out of the cache.
  void add_transposed(T* out, int begin, int end) const {
    constexpr int kStrip = 64 / sizeof(T), kColumns = 256;
    const int row_size = channels * taps;
    T block[kStrip][kColumns];
    for (int first = begin; first < end; first += kStrip)
      for (int start = 0; start < row_size; start += kColumns) {
        const int rows_here = min_of(kStrip, end - first), columns = min_of(kColumns, row_size - start);
        for (int k = 0; k < columns; ++k) {
          const int c = (start + k) / taps, t = (start + k) % taps;
          const T* from = sums + (int64_t(t) * channels + c) * pitch() + first;
          for (int i = 0; i < rows_here; ++i) block[i][k] = from[i];
        }
        for (int i = 0; i < rows_here; ++i) {
          T* to = out + int64_t(first + i) * row_size + start;
          for (int k = 0; k < columns; ++k) to[k] += block[i][k];
        }
      }
  }
};

// The pixels that one tap takes to pixels of the image.
struct Reach {
  int first_row, rows, first_column, columns;

  template <class T>
  Reach(const Layout<T>& layout, int kernel, int tap)
      : first_row(0), rows(layout.height), first_column(0), columns(layout.row_columns()) {
    if (kernel == 0) return;
    const int down = tap / kernel - kernel / 2, right = (tap % kernel - kernel / 2) * layout.images;
    first_row = max_of(0, -down);
    rows -= max_of(down, -down);
    first_column = max_of(0, -right);
    columns -= max_of(right, -right);
  }
};

// Columns after which a sum is added to those before: a sum of sums rounds less than one as long.
constexpr int kLongestSum = 112;

// sums[k][lane] += sum over columns of panel[column][lane] * broadcast[k][column].
template <class T, int kVectors, int kChannels>
__attribute__((noinline)) void contract_tile(const Layout<T>& layout, const Reach& reach, const T* panel,
                                             const T* broadcasts, T* sums, int64_t pitch) {
  constexpr int kWidth = kVectors * kLanes<T>;
  const int64_t stride = layout.stride;
  Vector<T> acc[kChannels][kVectors];
#pragma GCC unroll 16
  for (int k = 0; k < kChannels; ++k)
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) acc[k][j] = Vector<T>{};
  int summed = 0;
  for (int row = reach.first_row; row < reach.first_row + reach.rows; ++row) {
    const int64_t column = layout.lead + row * layout.pitch + reach.first_column;
    const T *x = panel + column * kWidth, *y = broadcasts + column;
    for (const T* end = y + reach.columns; y < end; ++y, x += kWidth) {
      Vector<T> lanes[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) lanes[j] = load(x + j * kLanes<T>);
#pragma GCC unroll 16
      for (int k = 0; k < kChannels; ++k) {
        const Vector<T> factor = broadcast(y[k * stride]);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) acc[k][j] = fma(factor, lanes[j], acc[k][j]);
      }
    }
    summed += reach.columns;
    if (summed < kLongestSum && row + 1 < reach.first_row + reach.rows) continue;
    summed = 0;
#pragma GCC unroll 16
    for (int k = 0; k < kChannels; ++k)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        T* to = sums + k * pitch + j * kLanes<T>;
        store(to, load(to) + acc[k][j]);
        acc[k][j] = Vector<T>{};
      }
  }
}

template <class T, int kVectors, int kChannels = kPanelChannels[kVectors - 1]>
IRF_ALWAYS_INLINE void contract_channels(int count, const Layout<T>& layout, const Reach& reach, const T* panel,
                                         const T* broadcasts, T* sums, int64_t pitch) {
  if constexpr (kChannels > 1) {
    if (count < kChannels)
      return contract_channels<T, kVectors, kChannels - 1>(count, layout, reach, panel, broadcasts, sums, pitch);
  }
  contract_tile<T, kVectors, kChannels>(layout, reach, panel, broadcasts, sums, pitch);
}

// panel[column][lane] = source[lane][column] for one vector of lanes and four columns.
template <class T>
IRF_ALWAYS_INLINE void fill_panel_vector(const T* source, int64_t stride, T* panel, int width) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    __m512 quads[4];  // of lanes k, k + 4, k + 8, k + 12
    for (int k = 0; k < 4; ++k) {
      const T* from = source + k * stride;
      const __m512 first = _mm512_castps128_ps512(_mm_loadu_ps(from));
      const __m512 half = _mm512_insertf32x4(first, _mm_loadu_ps(from + 4 * stride), 1);
      const __m512 more = _mm512_insertf32x4(half, _mm_loadu_ps(from + 8 * stride), 2);
      quads[k] = _mm512_insertf32x4(more, _mm_loadu_ps(from + 12 * stride), 3);
    }
    const __m512d ab_low = (__m512d)_mm512_unpacklo_ps(quads[0], quads[1]);
    const __m512d ab_high = (__m512d)_mm512_unpackhi_ps(quads[0], quads[1]);
    const __m512d cd_low = (__m512d)_mm512_unpacklo_ps(quads[2], quads[3]);
    const __m512d cd_high = (__m512d)_mm512_unpackhi_ps(quads[2], quads[3]);
    _mm512_storeu_pd(panel, _mm512_unpacklo_pd(ab_low, cd_low));
    _mm512_storeu_pd(panel + width, _mm512_unpackhi_pd(ab_low, cd_low));
    _mm512_storeu_pd(panel + 2 * width, _mm512_unpacklo_pd(ab_high, cd_high));
    _mm512_storeu_pd(panel + 3 * width, _mm512_unpackhi_pd(ab_high, cd_high));
    return;
  }
#endif
  transpose(source, stride, kLanes<T>, 4, panel, width);
}

template <class T, int kWidth>
void fill_panel(const T* source, int64_t stride, int lanes, int columns, T* panel) {
  const int whole = lanes / kLanes<T> * kLanes<T>;
  for (int column = 0; column < columns; column += 4)
    for (int lane = 0; lane < whole; lane += kLanes<T>)
      fill_panel_vector(source + lane * stride + column, stride, panel + int64_t(column) * kWidth + lane, kWidth);
  if (whole < lanes) transpose(source + whole * stride, stride, lanes - whole, columns, panel + whole, kWidth);
}

// One panel of `kVectors` vectors of lanes, the first of which is `lane`.
template <class T, int kVectors>
void contract_panel(const WeightSums<T>& target, const OperandPair<T>& pair, const Layout<T>& layout, int lane) {
  constexpr int kWidth = kVectors * kLanes<T>;
  const bool row_lanes = target.row_lanes();
  const T* source = (row_lanes ? pair.a : pair.b) + layout.size(lane);
  const T* broadcasts = row_lanes ? pair.b : pair.a;
  // Pads are read where taps shift the panel and it is not known where they fall.
  const bool shifted = !row_lanes && target.taps > 1 && target.kernel == 0;
  const int first = shifted ? 0 : layout.lead;
  const int columns = shifted ? layout.stride : round_up((layout.height - 1) * layout.pitch + layout.row_columns(), 4);
  fill_panel<T, kWidth>(source + first, layout.stride, min_of(kWidth, target.lanes() - lane), columns,
                        target.panel + int64_t(first) * kWidth);
  const int strips = divide_up(target.broadcasts(), kPanelChannels[kVectors - 1]);
  for (int tap = 0; tap < target.taps; ++tap) {
    const int64_t offset = target.offset[tap];
    const Reach reach(layout, target.kernel, tap);
    const T* panel = target.panel + (row_lanes ? 0 : offset * kWidth);
    const T* factors = broadcasts + (row_lanes ? offset : 0);
    T* sums = target.sums + int64_t(tap) * target.broadcasts() * target.pitch() + lane;
    // Strips of nearly equal width: 32 channels in twelves go as 11 11 10, not 12 12 8.
    for (int strip = 0, channel = 0, count; strip < strips; ++strip, channel += count) {
      count = divide_up(target.broadcasts() - channel, strips - strip);
      contract_channels<T, kVectors>(count, layout, reach, panel, factors + layout.size(channel),
                                     sums + channel * target.pitch(), target.pitch());
    }
  }
}

template <class T, int kVectors = kPanelVectors>
IRF_ALWAYS_INLINE void contract_vectors(int vectors, const WeightSums<T>& target, const OperandPair<T>& pair,
                                        const Layout<T>& layout, int lane) {
  if constexpr (kVectors > 1) {
    if (vectors < kVectors) return contract_vectors<T, kVectors - 1>(vectors, target, pair, layout, lane);
  }
  contract_panel<T, kVectors>(target, pair, layout, lane);
}

// With operands rounded to bfloat16: contract_bf16.h.
template <class T>
void contract_bf16(const WeightSums<T>& target, const OperandPair<T>* pair, int pairs, const Layout<T>& layout);

template <class T>
void contract(const WeightSums<T>& target, const OperandPair<T>* pair, int pairs, const Layout<T>& layout) {
  if constexpr (kBf16Products<T>)
    if (target.bf16) return contract_bf16(target, pair, pairs, layout);
  const int vectors = divide_up(target.lanes(), kLanes<T>), panels = divide_up(vectors, kPanelVectors);
  for (int panel = 0, done = 0, count; panel < panels; ++panel, done += count) {
    count = divide_up(vectors - done, panels - panel);
    for (int p = 0; p < pairs; ++p) contract_vectors(count, target, pair[p], layout, done * kLanes<T>);
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
