// Activations whose derivatives follow from their value, and what the backward pass of a training step makes of it.
#pragma once

#include "cpu/layout.h"
#include "cpu/vector_math.h"

namespace irf {
namespace IRF_ISA {
namespace {

// An activation whose value h tells its derivatives d and e = ratio * d: a backward pass that has h needs no
// exponential.
template <class Act>
struct FromValue {
  static constexpr bool possible = false;
};

template <>
struct FromValue<Identity> {
  static constexpr bool possible = true;
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V derivative(V) {
    return M::constant(1);
  }
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V ratio(V) {
    return M::constant(0);
  }
};

template <>
struct FromValue<Relu> {
  static constexpr bool possible = true;
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V derivative(V h) {
    return M::select(h > M::constant(0), M::constant(1), M::constant(0));
  }
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V ratio(V) {
    return M::constant(0);
  }
};

template <>
struct FromValue<Elu> {
  static constexpr bool possible = true;
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V derivative(V h) {
    return M::select(h > M::constant(0), M::constant(1), h + M::constant(1));
  }
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V ratio(V h) {
    return M::select(h < M::constant(0), M::constant(1), M::constant(0));
  }
};

template <>
struct FromValue<Tanh> {
  static constexpr bool possible = true;
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V derivative(V h) {
    return M::constant(1) - h * h;
  }
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V ratio(V h) {
    return M::constant(-2) * h;
  }
};

inline bool known_from_value(Activation activation) {
  switch (activation) {
#define IRF_CASE(name, Struct) \
  case Activation::k##Struct:  \
    return FromValue<Struct>::possible;
    IRF_FOR_EACH_ACTIVATION(IRF_CASE)
#undef IRF_CASE
    case Activation::kCount:
      break;
  }
  return false;
}

// h_i and D t_i -> D and E t_i.
template <class T, class Act>
void derivatives_as(const Layout<T>& layout, const T* h, const T* dt, int channels, T* d, T* et) {
  using F = FromValue<Act>;
  using M = VectorMath<T>;
  if constexpr (F::possible)
    for (int c = 0; c < channels; ++c)
      for (int j = 0; j < layout.vectors; ++j) {
        const int64_t at = int64_t(c) * layout.stride + layout.position[j];
        const Vector<T> value = load(h + at);
        store(d + at, keep_pixels(layout, layout.position[j], F::template derivative<M>(value)));
        store(et + at, F::template ratio<M>(value) * load(dt + at));
      }
}

template <class T>
void derivatives(Activation activation, const Layout<T>& layout, const T* h, const T* dt, int channels, T* d, T* et) {
  switch (activation) {
#define IRF_CASE(name, Struct) \
  case Activation::k##Struct:  \
    return derivatives_as<T, Struct>(layout, h, dt, channels, d, et);
    IRF_FOR_EACH_ACTIVATION(IRF_CASE)
#undef IRF_CASE
    case Activation::kCount:
      break;
  }
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
