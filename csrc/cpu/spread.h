// How many numbers an operand of a stage has that may be spread over the batch.
#pragma once

#include "cpu/simd.h"
#include "iresnet_fast/params.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Numbers of one sample; none of a shared operand are.
template <class T>
int64_t sample_numbers(const Branch<T>& branch, Spread spread, int channels) {
  if (spread == Spread::kShared) return 0;
  return spread == Spread::kPixel ? channels * branch.pixels() : channels;
}

// All numbers of the operand.
template <class T>
int64_t operand_numbers(const Branch<T>& branch, Spread spread, int channels) {
  return spread == Spread::kShared ? channels : branch.batch * sample_numbers(branch, spread, channels);
}

// The operand from sample `first` on; null stays null.
template <class T>
const T* from_sample(const Branch<T>& branch, const T* operand, Spread spread, int channels, int64_t first) {
  return operand ? operand + first * sample_numbers(branch, spread, channels) : nullptr;
}

template <class T>
bool has_factors(const Branch<T>& branch) {
  for (int i = 0; i < branch.stages; ++i)
    if (branch.stage[i].factor) return true;
  return false;
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
