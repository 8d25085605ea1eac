// The sum of the log-determinants of several steps, per sample, in float64.
#pragma once

#include "cpu/parallel.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
void sum_rows(const SumRowsOperands<T>& op, const Parallel&) {
  for (int64_t b = 0; b < op.columns; ++b) {
    double sum = 0;
    for (int row = 0; row < op.rows; ++row) sum += op.values[row * op.columns + b];
    op.sum[b] = static_cast<T>(sum);
  }
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
