// The parameter gradients that a thread adds up over its tiles, and their sum over the threads.
#pragma once

#include "cpu/contract.h"
#include "cpu/prepared.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
struct ParameterSums {
  WeightSums<T>* weight;  // [L]
  T** bias;               // [L]
  T* beta;                // [L]

  ParameterSums(const Prepared<T>& prepared, Workspace& workspace) {
    const int stages = prepared.branch.stages;
    weight = workspace.take<WeightSums<T>>(stages);
    bias = workspace.take<T*>(stages);
    beta = workspace.take_zeroed<T>(stages);
    T* panel = workspace.take<T>(WeightSums<T>::panel_size(prepared.layout));
    for (int i = 0; i < stages; ++i) {
      const Stage<T>& stage = prepared.branch.stage[i];
      weight[i] = WeightSums<T>{stage.out_channels,
                                stage.in_channels,
                                stage.kernel * stage.kernel,
                                prepared.tap_offsets(i, false, workspace),
                                nullptr,
                                panel};
      weight[i].sums = workspace.take_zeroed<T>(weight[i].size());
      bias[i] = workspace.take_zeroed<T>(stage.out_channels);
    }
  }

  // The gradient of stage i's beta += `gradient` of its slope; d slope / d beta is the logistic function.
  void add_slope_gradient(const Stage<T>& stage, int i, T gradient) {
    const double parameter = *stage.beta;
    beta[i] += gradient * static_cast<T>(1 / (1 + __builtin_exp(-parameter)));
  }
};

// Adds up the threads in a fixed order (bitwise the same on every run) into the packed result: per stage weight, bias,
// beta. `walks`: [chunks], of a type that has ParameterSums.
template <class T, class Walks>
void gather_gradients(const Prepared<T>& prepared, const Walks& walks, T* result) {
  for_each_chunk(prepared, [&](int64_t chunk) {
    T* out = result;
    for (int i = 0; i < prepared.branch.stages; ++i) {
      const Stage<T>& stage = prepared.branch.stage[i];
      const int64_t per_row = int64_t(stage.in_channels) * stage.kernel * stage.kernel;
      const int begin = static_cast<int>(stage.out_channels * chunk / prepared.chunks);
      const int end = static_cast<int>(stage.out_channels * (chunk + 1) / prepared.chunks);
      T *bias = out + stage.out_channels * per_row, *beta = bias + (stage.bias ? stage.out_channels : 0);
      std::memset(out + begin * per_row, 0, sizeof(T) * (end - begin) * per_row);
      for (int k = 0; k < prepared.chunks; ++k) walks[k]->weight[i].add_to(out, begin, end);
      for (int m = begin; stage.bias && m < end; ++m) {
        bias[m] = T(0);
        for (int k = 0; k < prepared.chunks; ++k) bias[m] += walks[k]->bias[i][m];
      }
      if (stage.beta && chunk == 0) {
        *beta = T(0);
        for (int k = 0; k < prepared.chunks; ++k) *beta += walks[k]->beta[i];
      }
      out = beta + (stage.beta ? 1 : 0);
    }
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
