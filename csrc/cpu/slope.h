// The slope of an activation with a learnable parameter beta: softplus(beta), and its derivative.
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

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
