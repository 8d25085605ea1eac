// One activation, backward: what arrives at its value and at the tangent of its value, made what arrives at its
// argument and at the tangent of that.
#pragma once

#include "cpu/from_value.h"
#include "cpu/slope.h"
#include "cpu/tile_io.h"

namespace irf {
namespace IRF_ISA {
namespace {

// A trace <D, map> that takes no other derivatives, and is the only one that takes these.
template <class T>
struct LoneTrace {
  const T* scale;  // [slots], of each sample
  const T* map;    // [channels] if dense, else a tile
  T* sums;         // gradient of the map, added up: likewise
};

// Adds scale * D to the gradient of the map (in `sum` if dense) and returns what arrives at D, scale * map.
template <class T>
IRF_ALWAYS_INLINE Vector<T> through_trace(const Layout<T>& layout, const LoneTrace<T>& trace, int c, int column,
                                          Vector<T> d, Vector<T>& sum) {
  const Vector<T> scale = sample_vector(layout, trace.scale, column);
  if (layout.dense) {
    sum = fma(scale, d, sum);
    return scale * broadcast(trace.map[c]);
  }
  const int64_t at = layout.size(c) + column;
  store(trace.sums + at, fma(scale, d, load(trace.sums + at)));
  return scale * load(trace.map + at);
}

// Tiles of one stage. On entry r and s hold R = A^T r_{i+1} and S = A^T s_{i+1}; on return r = D R and s = D S + E q,
// where q = t R + the gradient that arrives at D itself. With a factor f, D is f phi' and E is f phi''.
template <class T>
struct ActivationBackward {
  int channels;
  Parameters<T> parameters;
  const T* kept;     // h if the derivatives are known from it, which they are not with a factor, else a
  const T* tangent;  // D t in the first case, else t
  T *r, *s;
  T *h, *dt;                  // set to h and D t in the second case
  const T* factor;            // null without one
  T* factor_gradient;         // set to phi S + phi' q where there is a factor
  const T* of_d;              // the gradient that arrives at D, or null
  T* d;                       // set to D unless null
  const LoneTrace<T>* trace;  // adds to what arrives at D, or null
};

template <class T, class Act>
void activation_backward_by_value(const Layout<T>& layout, const ActivationBackward<T>& op) {
  using M = VectorMath<T>;
  for (int c = 0; c < op.channels; ++c) {
    Vector<T> sum{};
    for (int j = 0; j < layout.vectors; ++j) {
      const int64_t at = layout.size(c) + layout.position[j];
      const Vector<T> h = load(op.kept + at), r = load(op.r + at);
      const Vector<T> d = keep_pixels(layout, layout.position[j], FromValue<Act>::template derivative<M>(h));
      Vector<T> s = d * load(op.s + at), of_d{};
      if (op.of_d) of_d = load(op.of_d + at);
      if (op.trace) of_d += through_trace(layout, *op.trace, c, layout.position[j], d, sum);
      if constexpr (!FromValue<Act>::straight) {
        const Vector<T> q = fma(d, of_d, load(op.tangent + at) * r);  // D q
        s = fma(FromValue<Act>::template ratio<M>(h), q, s);
      }
      if (op.d) store(op.d + at, d);
      store(op.r + at, d * r);
      store(op.s + at, s);
    }
    if (op.trace && layout.dense) op.trace->sums[c] += sum_lanes<T>(sum);
  }
}

// Returns the gradient of the slope, zero without one.
template <class T, class Act, bool kFactor>
T activation_backward_by_argument(const Layout<T>& layout, const ActivationBackward<T>& op) {
  using M = VectorMath<T>;
  Vector<T> gradient{};
  for (int c = 0; c < op.channels; ++c) {
    const Parameters<Vector<T>> p = spread_parameters<Act>(op.parameters, c, op.channels);
    Vector<T> sum{};
    for (int j = 0; j < layout.vectors; ++j) {
      const int column = layout.position[j];
      const int64_t at = layout.size(c) + column;
      const Vector<T> a = load(op.kept + at), t = load(op.tangent + at);
      Vector<T> r = load(op.r + at), s = load(op.s + at);
      const Jet<Vector<T>> jet = Act::template jet<M>(a, p);
      const Vector<T> d = keep_pixels(layout, column, jet.d), e = keep_pixels(layout, column, jet.e);
      const Vector<T> h = keep_pixels(layout, column, jet.h), dt = d * t;
      Vector<T> q = t * r;
      if (op.of_d) q += load(op.of_d + at);
      if constexpr (kFactor) {
        // Whatever goes through the activation is multiplied by f on its way.
        const Vector<T> f = load(op.factor + at);
        if (op.trace) q += through_trace(layout, *op.trace, c, column, f * d, sum);
        store(op.factor_gradient + at, fma(d, q, h * s));
        store(op.h + at, f * h);
        store(op.dt + at, f * dt);
        if (op.d) store(op.d + at, f * d);
        r = f * r;
        s = f * s;
        q = f * q;
      } else {
        if (op.trace) q += through_trace(layout, *op.trace, c, column, d, sum);
        store(op.h + at, h);
        store(op.dt + at, dt);
        if (op.d) store(op.d + at, d);
      }
      store(op.r + at, d * r);
      store(op.s + at, fma(e, q, d * s));
      if constexpr (Act::kHasSlope) {
        const SlopeGradient<Vector<T>> by_slope = Act::template slope_gradient<M>(a, p);
        gradient += keep_pixels(layout, column, fma(q, by_slope.d, s * by_slope.h));
      }
    }
    if (op.trace && layout.dense) op.trace->sums[c] += sum_lanes<T>(sum);
  }
  return sum_lanes<T>(gradient);
}

template <class T, class Act>
T activation_backward_as(const Layout<T>& layout, const ActivationBackward<T>& op) {
  if (op.factor) return activation_backward_by_argument<T, Act, true>(layout, op);
  if constexpr (FromValue<Act>::possible) {
    activation_backward_by_value<T, Act>(layout, op);
    return T(0);
  } else {
    return activation_backward_by_argument<T, Act, false>(layout, op);
  }
}

template <class T>
T activation_backward(Activation activation, const Layout<T>& layout, const ActivationBackward<T>& op) {
  switch (activation) {
#define IRF_CASE(name, Struct) \
  case Activation::k##Struct:  \
    return activation_backward_as<T, Struct>(layout, op);
    IRF_FOR_EACH_ACTIVATION(IRF_CASE)
#undef IRF_CASE
    case Activation::kCount:
      break;
  }
  return T(0);
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
