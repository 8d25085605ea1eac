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

// An operand of a stage for the samples of a slab.
template <class T>
struct RowOperand {
  const T* numbers = nullptr;  // null: there is none
  Spread spread = Spread::kShared;
};

// Calls body(offset, lanes, bias of them) for the vectors of all events, in parallel, `copies` of them for one call. No
// vector spans two samples, nor two channels of an image.
template <class T, class Body>
void each_biased_vector(const Parallel& parallel, const EventSizes& sizes, int copies, const RowOperand<T>& bias,
                        const Body& body) {
  const int64_t planes = sizes.pixels == 1 ? sizes.samples : sizes.samples * sizes.channels;
  const int64_t length = sizes.pixels == 1 ? sizes.channels : sizes.pixels;
  each_share(parallel, planes, sizes.numbers() * copies, 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const bool shared = bias.spread == Spread::kShared;
      const T* row = bias.numbers;  // a number for each of the plane, else one for all
      Vector<T> of_plane{};
      if (bias.numbers && sizes.pixels > 1 && bias.spread != Spread::kPixel)
        of_plane = broadcast(bias.numbers[shared ? plane % sizes.channels : plane]), row = nullptr;
      if (row && !shared) row += plane * length;
      each_vector<T>(0, length, [&](int64_t k, int lanes) {
        body(plane * length + k, lanes, row ? load_first(row + k, lanes) : of_plane);
      });
    }
  });
}

// The given factors in the lanes of a vector that begins at `at` of events of this size.
template <class T>
IRF_ALWAYS_INLINE Vector<T> lane_factors(const RowOperand<T>& factor, const EventSizes& sizes, int64_t at, int lanes) {
  if (factor.spread == Spread::kPixel || sizes.pixels == 1) return load_first(factor.numbers + at, lanes);
  const int64_t first = at / sizes.pixels, last = (at + lanes - 1) / sizes.pixels;
  if (first == last) return broadcast(factor.numbers[first]);
  T lane[kLanes<T>] = {};
  for (int k = 0; k < lanes; ++k) lane[k] = factor.numbers[(at + k) / sizes.pixels];
  return load(lane);
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
  T* e = nullptr;   // [n], or null
};

// What the activation of a stage is of, besides its argument.
template <class T>
struct RowParameters {
  Parameters<T> of_activation;
  RowOperand<T> factor;
};

// a (= source + bias) and tangents [m][n] -> what `out` wants of a stage.
template <class T, class Act, bool kFactor>
void activate_rows_as(const Parallel& parallel, const EventSizes& sizes, const T* source, const RowOperand<T>& bias,
                      const T* tangents, int m, const RowParameters<T>& p, const StageRows<T>& out) {
  const int64_t n = sizes.numbers();
  each_biased_vector<T>(parallel, sizes, 1 + m, bias, [&](int64_t at, int lanes, Vector<T> b) {
    const Vector<T> a = load_first(source + at, lanes) + b;
    Jet<Vector<T>> jet = Act::template jet<VectorMath<T>>(a, lane_parameters<Act>(p.of_activation, sizes, at));
    if constexpr (kFactor) {
      const Vector<T> f = lane_factors(p.factor, sizes, at, lanes);
      jet = {f * jet.h, f * jet.d, f * jet.e};
    }
    if (out.a) store_first(out.a + at, a, lanes);
    store_first(out.h + at, jet.h, lanes);
    if (out.d) store_first(out.d + at, jet.d, lanes);
    if (out.e) store_first(out.e + at, jet.e, lanes);
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
                   const RowOperand<T>& bias, const T* tangents, int m, const RowParameters<T>& p,
                   const StageRows<T>& out) {
  switch (activation) {
#define IRF_CASE(name, Struct)                      \
  case Activation::k##Struct:                       \
    return (p.factor.numbers                        \
                ? activate_rows_as<T, Struct, true> \
                : activate_rows_as<T, Struct, false>)(parallel, sizes, source, bias, tangents, m, p, out);
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

// out = source + bias + addend; there may be no bias, and addend may be null.
template <class T>
void add_rows(const Parallel& parallel, const EventSizes& sizes, const T* source, const RowOperand<T>& bias,
              const T* addend, T* out) {
  each_biased_vector<T>(parallel, sizes, 1, bias, [&](int64_t at, int lanes, Vector<T> b) {
    const Vector<T> value = load_first(source + at, lanes) + b;
    store_first(out + at, addend ? value + load_first(addend + at, lanes) : value, lanes);
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
