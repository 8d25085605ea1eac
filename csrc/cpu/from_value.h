// Activations whose derivatives follow from their value.
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
  static constexpr bool possible = true, straight = true;
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
  static constexpr bool possible = true, straight = true;
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
  static constexpr bool possible = true, straight = false;
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
  static constexpr bool possible = true, straight = false;
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V derivative(V h) {
    return M::constant(1) - h * h;
  }
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V ratio(V h) {
    return M::constant(-2) * h;
  }
};

template <>
struct FromValue<Selu> {
  static constexpr bool possible = true, straight = false;
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V derivative(V h) {
    return M::select(h > M::constant(0), M::constant(Selu::kScale), h + M::constant(Selu::kLeftScale));
  }
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V ratio(V h) {
    return M::select(h < M::constant(0), M::constant(1), M::constant(0));
  }
};

template <>
struct FromValue<Sigmoid> {
  static constexpr bool possible = true, straight = false;
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V derivative(V h) {
    return h * (M::constant(1) - h);
  }
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V ratio(V h) {
    return M::constant(1) - M::constant(2) * h;
  }
};

// Exact: the derivative is 0 at -1 and 1 themselves.
template <>
struct FromValue<Hardtanh> {
  static constexpr bool possible = true, straight = true;
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V derivative(V h) {
    return M::select(h * h >= M::constant(1), M::constant(0), M::constant(1));
  }
  template <class M, class V = typename M::V>
  static IRF_ALWAYS_INLINE V ratio(V) {
    return M::constant(0);
  }
};

// Whether the derivatives of a stage follow from its h; a factor hides them.
template <class T>
bool known_from_value(const Stage<T>& stage) {
  if (stage.factor) return false;
  switch (stage.activation) {
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

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
