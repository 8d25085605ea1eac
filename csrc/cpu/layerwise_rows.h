// What the layer-by-layer way does between two products of a library: passes over events [samples][channels][pixels],
// each fused into one, shared out over the threads.
#pragma once

#include "cpu/from_value.h"
#include "cpu/parallel.h"
#include "cpu/slope.h"

namespace irf {
namespace IRF_ISA {
namespace {

// The first `count` lanes; the others are zero, and what lies there in memory is not touched.
template <class T>
IRF_ALWAYS_INLINE Vector<T> load_first(const T* p, int count) {
  if (count == kLanes<T>) return load(p);
  T lane[kLanes<T>] = {};
  std::memcpy(lane, p, sizeof(T) * count);
  return load(lane);
}

template <class T>
IRF_ALWAYS_INLINE void store_first(T* p, Vector<T> v, int count) {
  if (count == kLanes<T>) return store(p, v);
  std::memcpy(p, &v, sizeof(T) * count);
}

// Calls body(offset, lanes) for the vectors over [begin, end) of a flat array.
template <class T, class Body>
IRF_ALWAYS_INLINE void each_vector(int64_t begin, int64_t end, const Body& body) {
  int64_t at = begin;
  for (; at + kLanes<T> <= end; at += kLanes<T>) body(at, kLanes<T>);
  if (at < end) body(at, static_cast<int>(end - at));
}

// Calls body(begin, end) for shares of [0, count), in parallel where `numbers` of them are worth the start of threads.
// Shares begin at multiples of `unit`.
template <class Body>
void each_share(const Parallel& parallel, int64_t count, int64_t numbers, int64_t unit, const Body& body) {
  constexpr int64_t kNumbersWorthThreads = 1 << 14;
  const int64_t units = divide_up(count, unit);
  const int64_t shares =
      numbers < kNumbersWorthThreads ? 1 : min_of(int64_t(parallel.threads), max_of(units, int64_t(1)));
  auto share = [&](int64_t i) { body(units * i / shares * unit, min_of(count, units * (i + 1) / shares * unit)); };
  if (shares == 1) return share(0);
  run_each(parallel, shares, share);
}

// Shares of a flat array.
template <class T, class Body>
void each_flat_share(const Parallel& parallel, int64_t size, const Body& body) {
  each_share(parallel, size, size, kLanes<T>, body);
}

// The events of one stage in a slab. Dense events have one pixel.
struct EventSizes {
  int64_t samples;
  int channels;
  int64_t pixels;

  int64_t numbers() const { return samples * channels * pixels; }
};

// Calls body(offset, lanes, bias of them) for the vectors of all events, in parallel, `copies` of them for one call.
template <class T, class Body>
void each_biased_vector(const Parallel& parallel, const EventSizes& sizes, int copies, const T* bias,
                        const Body& body) {
  const int64_t planes = sizes.pixels == 1 ? sizes.samples : sizes.samples * sizes.channels;
  const int64_t length = sizes.pixels == 1 ? sizes.channels : sizes.pixels;
  each_share(parallel, planes, sizes.numbers() * copies, 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const Vector<T> of_plane = bias && sizes.pixels > 1 ? broadcast(bias[plane % sizes.channels]) : Vector<T>{};
      each_vector<T>(0, length, [&](int64_t k, int lanes) {
        body(plane * length + k, lanes, bias && sizes.pixels == 1 ? load_first(bias + k, lanes) : of_plane);
      });
    }
  });
}

// The parameters of the activation in the lanes of a vector that begins at `at` of events of this size.
template <class Act, class T>
IRF_ALWAYS_INLINE Parameters<Vector<T>> lane_parameters(const Parameters<T>& p, const EventSizes& sizes, int64_t at) {
  if constexpr (Act::kByChannel) {
    if (sizes.pixels == 1) {
      T lane[kLanes<T>];
      const int first = static_cast<int>(at % sizes.channels);
      for (int k = 0; k < kLanes<T>; ++k) lane[k] = static_cast<T>(Act::constant_of(first + k, sizes.channels));
      return {broadcast(p.slope), load(lane)};
    }
  }
  return spread_parameters<Act>(p, static_cast<int>(at / sizes.pixels % sizes.channels), sizes.channels);
}

// What one stage holds of a slab: n numbers for the events and as many for each of m tangents.
template <class T>
struct StageRows {
  T* h = nullptr;   // [1 + m][n] h, then D t of every tangent: what the product is taken of
  T* d = nullptr;   // [n], or null: not wanted, or the identity's ones
  T* et = nullptr;  // [m][n] E t, or null
  T* a = nullptr;   // [1 + m][n] a, then t of every tangent, or null
};

// a (= source + bias) and tangents [m][n] -> what `out` wants of a stage.
template <class T, class Act>
void activate_rows_as(const Parallel& parallel, const EventSizes& sizes, const T* source, const T* bias,
                      const T* tangents, int m, const Parameters<T>& p, const StageRows<T>& out) {
  const int64_t n = sizes.numbers();
  each_biased_vector<T>(parallel, sizes, 1 + m, bias, [&](int64_t at, int lanes, Vector<T> b) {
    const Vector<T> a = load_first(source + at, lanes) + b;
    const Jet<Vector<T>> jet = Act::template jet<VectorMath<T>>(a, lane_parameters<Act>(p, sizes, at));
    if (out.a) store_first(out.a + at, a, lanes);
    store_first(out.h + at, jet.h, lanes);
    if (out.d) store_first(out.d + at, jet.d, lanes);
    for (int j = 0; j < m; ++j) {
      const Vector<T> t = load_first(tangents + j * n + at, lanes);
      if (out.a) store_first(out.a + (1 + j) * n + at, t, lanes);
      store_first(out.h + (1 + j) * n + at, jet.d * t, lanes);
      if (out.et) store_first(out.et + j * n + at, jet.e * t, lanes);
    }
  });
}

template <class T>
void activate_rows(Activation activation, const Parallel& parallel, const EventSizes& sizes, const T* source,
                   const T* bias, const T* tangents, int m, const Parameters<T>& p, const StageRows<T>& out) {
  switch (activation) {
#define IRF_CASE(name, Struct) \
  case Activation::k##Struct:  \
    return activate_rows_as<T, Struct>(parallel, sizes, source, bias, tangents, m, p, out);
    IRF_FOR_EACH_ACTIVATION(IRF_CASE)
#undef IRF_CASE
    case Activation::kCount:
      break;
  }
}

// out = D source, for `copies` arrays [n] that share D; null: D is one.
template <class T>
void scale_rows(const Parallel& parallel, int64_t n, int copies, const T* source, const T* d, T* out) {
  each_flat_share<T>(parallel, n, [&](int64_t begin, int64_t end) {
    for (int j = 0; j < copies; ++j)
      each_vector<T>(begin, end, [&](int64_t k, int lanes) {
        const Vector<T> value = load_first(source + j * n + k, lanes);
        store_first(out + j * n + k, d ? value * load_first(d + k, lanes) : value, lanes);
      });
  });
}

// source [1 + m][n] is A^T [s, r] -> out: s = D source_0 + sum_j E t_j source_j, r_j = D source_j. `derivative(k,
// lanes)` gives D and `bend(j, k, lanes)` gives E t_j.
template <class T, class Derivative, class Bend>
void cotangent_pass(const Parallel& parallel, int64_t n, int m, const T* source, const Derivative& derivative,
                    const Bend& bend, T* out) {
  each_flat_share<T>(parallel, n, [&](int64_t begin, int64_t end) {
    each_vector<T>(begin, end, [&](int64_t k, int lanes) {
      const Vector<T> d = derivative(k, lanes);
      Vector<T> s = d * load_first(source + k, lanes);
      for (int j = 0; j < m; ++j) {
        const Vector<T> r = load_first(source + (1 + j) * n + k, lanes);
        s = fma(bend(j, k, lanes), r, s);
        store_first(out + (1 + j) * n + k, d * r, lanes);
      }
      store_first(out + k, s, lanes);
    });
  });
}

// The same with D and E t from memory, null for the identity's one and zero.
template <class T>
void cotangent_rows(const Parallel& parallel, int64_t n, int m, const T* source, const T* d, const T* et, T* out) {
  cotangent_pass<T>(
      parallel, n, m, source, [&](int64_t k, int lanes) { return d ? load_first(d + k, lanes) : broadcast(T(1)); },
      [&](int j, int64_t k, int lanes) { return et ? load_first(et + j * n + k, lanes) : Vector<T>{}; }, out);
}

// The same with D and E t from `h` [1 + m][n], the value and D t.
template <class T>
void cotangent_rows_from_value(Activation activation, const Parallel& parallel, int64_t n, int m, const T* source,
                               const T* h, T* out) {
  auto as = [&]<class Act>(Act) {
    using F = FromValue<Act>;
    using M = VectorMath<T>;
    if constexpr (F::possible)
      cotangent_pass<T>(
          parallel, n, m, source,
          [&](int64_t k, int lanes) { return F::template derivative<M>(load_first(h + k, lanes)); },
          [&](int j, int64_t k, int lanes) {
            return F::template ratio<M>(load_first(h + k, lanes)) * load_first(h + (1 + j) * n + k, lanes);
          },
          out);
  };
  switch (activation) {
#define IRF_CASE(name, Struct) \
  case Activation::k##Struct:  \
    return as(Struct{});
    IRF_FOR_EACH_ACTIVATION(IRF_CASE)
#undef IRF_CASE
    case Activation::kCount:
      break;
  }
}

constexpr int64_t kSlopeBlock = 4096;

// What a slab adds to the gradient of beta: source [1 + m][n] is A^T [s, r], `a` [1 + m][n] holds a and the tangents.
// Sums of blocks of fixed size, added in order: the same for any number of threads.
template <class T>
T slope_gradient_of_rows(const Stage<T>& stage, const Parallel& parallel, int64_t n, int m, const T* source, const T* a,
                         T* block_sums) {
  const Parameters<Vector<T>> p{broadcast(slope_of(stage)), broadcast(stage.constant)};
  const int64_t blocks = divide_up(n, kSlopeBlock);
  each_share(parallel, blocks, n * (1 + m), 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      Vector<T> sum{};
      each_vector<T>(block * kSlopeBlock, min_of(n, (block + 1) * kSlopeBlock), [&](int64_t k, int lanes) {
        const auto by_slope = slope_gradient<VectorMath<T>>(stage.activation, load_first(a + k, lanes), p);
        sum += load_first(source + k, lanes) * by_slope.h;
        for (int j = 1; j <= m; ++j)
          sum += load_first(source + j * n + k, lanes) * load_first(a + j * n + k, lanes) * by_slope.d;
      });
      block_sums[block] = sum_lanes<T>(sum);
    }
  });
  T total{};
  for (int64_t block = 0; block < blocks; ++block) total += block_sums[block];
  return total * slope_derivative(stage);
}

// out = source + bias + addend; bias [channels] and addend may be null.
template <class T>
void add_rows(const Parallel& parallel, const EventSizes& sizes, const T* source, const T* bias, const T* addend,
              T* out) {
  each_biased_vector<T>(parallel, sizes, 1, bias, [&](int64_t at, int lanes, Vector<T> b) {
    const Vector<T> value = load_first(source + at, lanes) + b;
    store_first(out + at, addend ? value + load_first(addend + at, lanes) : value, lanes);
  });
}

// sums[c] += the sum of source[.][c][.], block by block, so that long sums round like short ones.
template <class T>
void add_channel_sums(const Parallel& parallel, const EventSizes& sizes, const T* source, T* sums) {
  constexpr int64_t kBlock = 64;
  const int64_t channels = sizes.channels, pixels = sizes.pixels;
  each_share(parallel, channels, sizes.numbers(), pixels == 1 ? kLanes<T> : 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; pixels > 1 && c < end; ++c)
      for (int64_t s = 0; s < sizes.samples; ++s) {
        Vector<T> sum{};
        const T* plane = source + (s * channels + c) * pixels;
        each_vector<T>(0, pixels, [&](int64_t k, int lanes) { sum += load_first(plane + k, lanes); });
        sums[c] += sum_lanes<T>(sum);
      }
    for (int64_t first = 0; pixels == 1 && first < sizes.samples; first += kBlock)
      each_vector<T>(begin, end, [&](int64_t c, int lanes) {
        Vector<T> sum{};
        for (int64_t s = first; s < min_of(sizes.samples, first + kBlock); ++s)
          sum += load_first(source + s * channels + c, lanes);
        store_first(sums + c, load_first(sums + c, lanes) + sum, lanes);
      });
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
