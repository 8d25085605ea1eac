// The inner product of everything: out[m][p] = sum over taps t and channels c of w[m][c][t] * in[c][p + offset_t], for
// all vector positions p of a layout. A convolution is k * k shifted matrix products; a dense stage has one tap of
// offset 0. The state is vectorised over columns and the weights are broadcast, so wide and narrow channel counts run
// alike.
#pragma once

#include "cpu/bf16.h"
#include "cpu/layout.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Register tiles: rows (output channels) x vectors (columns). Rows * vectors accumulators, `vectors` loads and one
// broadcast must fit the registers. Few rows for narrow outputs, where a taller tile would compute rows nobody needs.
#if defined(__AVX512F__) || defined(IRF_NEON)
constexpr int kTileRows[3] = {8, 6, 4};
constexpr int kTileVectors[3] = {3, 4, 6};
#else
constexpr int kTileRows[3] = {6, 4, 2};
constexpr int kTileVectors[3] = {2, 3, 5};
#endif
static_assert(kTileRows[0] * kTileVectors[0] + kTileVectors[0] + 1 <= kVectorRegisters, "tile 0 spills");
static_assert(kTileRows[1] * kTileVectors[1] + kTileVectors[1] + 1 <= kVectorRegisters, "tile 1 spills");
static_assert(kTileRows[2] * kTileVectors[2] + kTileVectors[2] + 1 <= kVectorRegisters, "tile 2 spills");

// The channels first .. last - 1.
struct ChannelRange {
  int first, last;
};

// Weights of one linear map as the inner loop reads them: [tile][tap][channel][rows], rows padded with zeros; in
// bfloat16 two channels make one word of 32 bits, and a missing last one is zero.
template <class T>
struct PackedWeights {
  int rows, channels, taps;  // rows: output channels m
  int shape;                 // index into kTileRows
  const int* offset;         // [taps] column offset of each tap
  T* data;
  bool bf16 = false;  // products round their operands (product_bf16.h)
  // [taps], each [vectors] or null: the lanes that a tap takes to a pixel of the same row (only if the layout is
  // seamless).
  const LaneMask* const* edge = nullptr;
  // [tiles] The channels outside which all weights of a tile are zero, or null: not known. Masks of graphs and the
  // identity of a stage that only multiplies leave most of a matrix out.
  ChannelRange* used = nullptr;

  int depth() const { return bf16 ? divide_up(channels, 2) : channels; }
  int tiles() const { return divide_up(rows, kTileRows[shape]); }
  int64_t tile_size() const { return int64_t(kTileRows[shape]) * taps * depth(); }
};

// The tile shape that computes the fewest rows; the taller one on a tie (fewer loads per product).
inline int pick_tile_shape(int rows) {
  int best = 0;
  for (int shape = 1; shape < 3; ++shape)
    if (round_up(rows, kTileRows[shape]) < round_up(rows, kTileRows[best])) best = shape;
  return best;
}

template <class T>
PackedWeights<T> reserve_weights(int rows, int channels, int taps, const int* offset, bool bf16, Workspace& workspace) {
  PackedWeights<T> packed{rows, channels, taps, pick_tile_shape(rows), offset, nullptr, bf16};
  packed.data = workspace.take<T>(packed.tiles() * packed.tile_size());
  if (taps == 1 && !bf16) packed.used = workspace.take<ChannelRange>(packed.tiles());
  return packed;
}

// With operands rounded to bfloat16: product_bf16.h.
template <class T>
void pack_bf16_tile(const PackedWeights<T>& packed, int first, const T* source, int64_t row_stride,
                    int64_t channel_stride, T* out);

// The channels of a packed tile [channels][height] that have a weight.
template <class T>
ChannelRange used_channels(const T* weights, int height, int channels) {
  auto is_zero = [&](int c) {
    for (int i = 0; i < height; ++i)
      if (!(weights[c * height + i] == T(0))) return false;
    return true;
  };
  ChannelRange used{0, channels};
  while (used.last > 0 && is_zero(used.last - 1)) --used.last;
  while (used.first < used.last && is_zero(used.first)) ++used.first;
  return used;
}

// Fills tile `tile` from weight(m, c, t) = source[m * row_stride + c * channel_stride + t].
template <class T>
void pack_tile(const PackedWeights<T>& packed, int tile, const T* source, int64_t row_stride, int64_t channel_stride) {
  const int height = kTileRows[packed.shape], first = tile * height;
  T* out = packed.data + tile * packed.tile_size();
  if constexpr (kBf16Products<T>)
    if (packed.bf16) return pack_bf16_tile(packed, first, source, row_stride, channel_stride, out);
  for (int t = 0; t < packed.taps; ++t)
    for (int c = 0; c < packed.channels; ++c)
      for (int i = 0; i < height; ++i)
        *out++ = first + i < packed.rows ? source[(first + i) * row_stride + c * channel_stride + t] : T(0);
  if (packed.used) packed.used[tile] = used_channels(packed.data + tile * packed.tile_size(), height, packed.channels);
}

// What happens to a finished sum `acc` at out[m][p]. D, E, t, u have the layout of `out`.
enum class Epilogue {
  kBias,       // out = acc + bias[m], or acc + second
  kScale,      // out = D acc                         vector-Jacobian chain
  kTangent,    // out = acc, second = D acc           Jacobian-vector chain
  kCotangent,  // out = D acc, second (+)= E t acc    cotangent, with what it sends back through D
  kBackward    // out = D acc + second                ordinary backward
};

template <class T>
struct EpilogueOperands {
  Epilogue kind;
  const T* bias = nullptr;  // [rows] or null
  const T* d = nullptr;
  const T* e = nullptr;
  const T* t = nullptr;
  T* second = nullptr;
  bool accumulate = false;  // kCotangent: second += instead of =
  T* raw = nullptr;         // if set: acc itself, for the gradient of an activation's slope
};

// Calls body(offset, sum) for every sum of a tile; offset is that of out[m][p]. Unrolled, so that the sums stay in
// registers.
template <class T, int kRows, int kVectors, class Body>
IRF_ALWAYS_INLINE void each_sum(const Vector<T> (&acc)[kRows][kVectors], int rows, int64_t first, int64_t stride,
                                const int64_t (&at)[kVectors], const Body& body) {
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    if (i >= rows) continue;
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) body(first + i * stride + at[j], acc[i][j]);
  }
}

template <class T, int kRows, int kVectors>
IRF_ALWAYS_INLINE void finish_tile(const Vector<T> (&acc)[kRows][kVectors], int rows, int first_row,
                                   const int64_t (&at)[kVectors], int64_t stride, const EpilogueOperands<T>& op,
                                   T* out) {
  using V = Vector<T>;
  const int64_t first = first_row * stride;
  switch (op.kind) {
    case Epilogue::kBias:
      if (op.bias) {
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          if (i >= rows) continue;
          const V bias = broadcast(op.bias[first_row + i]);
#pragma GCC unroll 8
          for (int j = 0; j < kVectors; ++j) store(out + first + i * stride + at[j], acc[i][j] + bias);
        }
      } else if (op.second) {
        each_sum<T>(acc, rows, first, stride, at, [&](int64_t k, V a) { store(out + k, a + load(op.second + k)); });
      } else {
        each_sum<T>(acc, rows, first, stride, at, [&](int64_t k, V a) { store(out + k, a); });
      }
      return;
    case Epilogue::kScale:
      each_sum<T>(acc, rows, first, stride, at, [&](int64_t k, V a) { store(out + k, a * load(op.d + k)); });
      return;
    case Epilogue::kTangent:
      each_sum<T>(acc, rows, first, stride, at, [&](int64_t k, V a) {
        store(out + k, a);
        store(op.second + k, a * load(op.d + k));
      });
      return;
    case Epilogue::kCotangent:
      each_sum<T>(acc, rows, first, stride, at, [&](int64_t k, V a) {
        const V through_d = load(op.e + k) * load(op.t + k) * a;
        store(out + k, a * load(op.d + k));
        store(op.second + k, op.accumulate ? load(op.second + k) + through_d : through_d);
        if (op.raw) store(op.raw + k, a);
      });
      return;
    case Epilogue::kBackward:
      each_sum<T>(acc, rows, first, stride, at, [&](int64_t k, V a) {
        const V scaled = a * load(op.d + k);
        store(out + k, op.second ? scaled + load(op.second + k) : scaled);
        if (op.raw) store(op.raw + k, a);
      });
      return;
  }
}

// Products after which a sum is added to those before: a sum of sums rounds less than one as long.
constexpr int kLongestRun = 128;

// acc += the products of one tap; `load_lanes(p, j)` loads vector j from p.
template <class T, int kRows, int kVectors, class Load>
IRF_ALWAYS_INLINE void add_tap(Vector<T> (&acc)[kRows][kVectors], const T* w, int channels, const T* column,
                               int64_t stride, const int64_t (&at)[kVectors], const Load& load_lanes) {
  for (int c = 0; c < channels; ++c) {
    Vector<T> x[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) x[j] = load_lanes(column + at[j], j);
    const Factors<T, kRows> factor(w);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const Vector<T> s = factor[i];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(s, x[j], acc[i][j]);
    }
    w += kRows;
    column += stride;
  }
}

// to += from, or to = from where `to` is not set; from = 0.
template <class T, int kRows, int kVectors>
IRF_ALWAYS_INLINE void move_sums(Vector<T> (&from)[kRows][kVectors], Vector<T> (&to)[kRows][kVectors], bool is_set) {
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      to[i][j] = is_set ? to[i][j] + from[i][j] : from[i][j];
      from[i][j] = Vector<T>{};
    }
}

// Vectors `first` .. `first` + kVectors - 1 of the layout.
template <class T, int kRows, int kVectors>
__attribute__((noinline)) void product_tile(const PackedWeights<T>& packed, int tile, const T* in,
                                            const Layout<T>& layout, int first, const EpilogueOperands<T>& op, T* out) {
  Vector<T> acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) acc[i][j] = Vector<T>{};
  int64_t at[kVectors];
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) at[j] = layout.position[first + j];
  Vector<T> total[kRows][kVectors];  // of the runs before, if there are any
  bool runs_before = false;
  int run = 0;  // products in acc
  const ChannelRange used = packed.used ? packed.used[tile] : ChannelRange{0, packed.channels};
  for (int t = 0; t < packed.taps; ++t) {
    const int64_t begin = at[0] + packed.offset[t], end = at[kVectors - 1] + packed.offset[t] + kLanes<T>;
    if (end <= layout.lead || begin >= layout.end()) continue;  // nothing but pads
    const T* w = packed.data + tile * packed.tile_size() + int64_t(t) * packed.channels * kRows;
    const LaneMask* edge = kLaneMasks && packed.edge ? packed.edge[t] : nullptr;
    for (int channel = used.first, count; channel < used.last; channel += count, run += count) {
      if (run == kLongestRun) {
        move_sums<T>(acc, total, runs_before);
        runs_before = true;
        run = 0;
      }
      count = min_of(used.last - channel, kLongestRun - run);
      const T* column = in + packed.offset[t] + layout.size(channel);
      if (edge)
        add_tap(acc, w + channel * kRows, count, column, layout.stride, at,
                [edge = edge + first](const T* p, int j) { return load_lanes(p, edge[j]); });
      else
        add_tap(acc, w + channel * kRows, count, column, layout.stride, at, [](const T* p, int) { return load(p); });
    }
  }
  if (runs_before) move_sums<T>(total, acc, true);
  const int first_row = tile * kRows;
  finish_tile<T, kRows, kVectors>(acc, packed.rows - first_row, first_row, at, layout.stride, op, out);
}

template <class T, int kShape, int kVectors = kTileVectors[kShape]>
IRF_ALWAYS_INLINE void product_group(int vectors, const PackedWeights<T>& packed, const T* in, const Layout<T>& layout,
                                     int first, const EpilogueOperands<T>& op, T* out) {
  if constexpr (kVectors > 1) {
    if (vectors < kVectors) return product_group<T, kShape, kVectors - 1>(vectors, packed, in, layout, first, op, out);
  }
  for (int tile = 0; tile < packed.tiles(); ++tile)
    product_tile<T, kTileRows[kShape], kVectors>(packed, tile, in, layout, first, op, out);
}

template <class T, int kShape>
void product_shape(const PackedWeights<T>& packed, const T* in, const Layout<T>& layout, const EpilogueOperands<T>& op,
                   T* out) {
  // Groups of nearly equal width: 16 vectors in threes go as 3 3 3 3 2 2, not 3 3 3 3 3 1.
  const int groups = divide_up(layout.vectors, kTileVectors[kShape]);
  int done = 0;
  for (int group = 0; group < groups; ++group) {
    const int vectors = divide_up(layout.vectors - done, groups - group);
    product_group<T, kShape>(vectors, packed, in, layout, done, op, out);
    done += vectors;
  }
}

// With operands rounded to bfloat16: product_bf16.h.
template <class T>
void product_bf16(const PackedWeights<T>& packed, const T* in, const Layout<T>& layout, const EpilogueOperands<T>& op,
                  T* out);

template <class T>
void product(const PackedWeights<T>& packed, const T* in, const Layout<T>& layout, const EpilogueOperands<T>& op,
             T* out) {
  if constexpr (kBf16Products<T>)
    if (packed.bf16) return product_bf16(packed, in, layout, op, out);
  switch (packed.shape) {
    case 0:
      return product_shape<T, 0>(packed, in, layout, op, out);
    case 1:
      return product_shape<T, 1>(packed, in, layout, op, out);
    default:
      return product_shape<T, 2>(packed, in, layout, op, out);
  }
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
