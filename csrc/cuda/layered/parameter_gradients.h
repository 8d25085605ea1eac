// Where the parameter gradients of a branch go: one after the other in the packed result of branch_backward.
#pragma once

#include <utility>
#include <vector>

#include "iresnet_fast/params.h"

namespace irf::cuda {

// Of one stage, each of the shape of its parameter. Null: the stage has none.
template <class T>
struct ParameterGradients {
  T *weight, *bias, *beta, *factor;
};

// How many numbers a bias or a factor of so many channels has.
template <class T>
int64_t operand_count(const Branch<T>& branch, Spread spread, int channels) {
  if (spread == Spread::kShared) return channels;
  return branch.batch * channels * (spread == Spread::kPixel ? branch.pixels() : 1);
}

template <class T>
struct PackedGradients {
  std::vector<ParameterGradients<T>> stages;  // [L]
  T* maps;                                    // those of the maps of traces, after all stages
};

template <class T>
PackedGradients<T> parameter_gradients(const Branch<T>& branch, T* packed) {
  std::vector<ParameterGradients<T>> all(branch.stages);
  const auto take = [&](const T* parameter, int64_t count) {
    T* const gradient = parameter ? packed : nullptr;
    packed += parameter ? count : 0;
    return gradient;
  };
  for (int i = 0; i < branch.stages; ++i) {
    const Stage<T>& stage = branch.stage[i];
    all[i].weight = packed;
    packed += int64_t(stage.out_channels) * stage.in_channels * stage.kernel * stage.kernel;
    all[i].bias = take(stage.bias, operand_count(branch, stage.bias_spread, stage.out_channels));
    all[i].beta = take(stage.beta, 1);
    all[i].factor = take(stage.factor, operand_count(branch, stage.factor_spread, stage.in_channels));
  }
  return {std::move(all), packed};
}

}  // namespace irf::cuda
