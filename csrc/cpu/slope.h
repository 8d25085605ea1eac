// The parameters of an activation: the slope softplus(beta), its derivative, and the constant.
#pragma once

#include <limits>

#include "cpu/simd.h"
#include "iresnet_fast/params.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
T slope_of(const Stage<T>& stage) {
  const double beta = stage.beta ? *stage.beta : 0;
  const T slope = static_cast<T>(beta > 30 ? beta : __builtin_log1p(__builtin_exp(beta)));
  // Zero times infinity is no number; a positive slope this small does as little.
  return slope < std::numeric_limits<T>::min() ? std::numeric_limits<T>::min() : slope;
}

// The logistic function of beta.
template <class T>
T slope_derivative(const Stage<T>& stage) {
  const double beta = *stage.beta;
  return static_cast<T>(1 / (1 + __builtin_exp(-beta)));
}

// Those of a channel, in every lane. `p` is that of the stage, the same for all its channels but for a constant by
// channel.
template <class Act, class T>
IRF_ALWAYS_INLINE Parameters<Vector<T>> spread_parameters(Parameters<T> p, int channel, int channels) {
  if constexpr (Act::kByChannel) p.constant = static_cast<T>(Act::constant_of(channel, channels));
  return {broadcast(p.slope), broadcast(p.constant)};
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
