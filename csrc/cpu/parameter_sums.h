// The parameter gradients that a thread adds up over its tiles, and their sum over the threads. Those of biases that
// are not shared, and of factors, are a sample's own and go to their places at once.
#pragma once

#include "cpu/contract.h"
#include "cpu/packed_gradients.h"
#include "cpu/walk.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
struct ParameterSums {
  WeightSums<T>* weight;            // [L]
  T** bias;                         // [L]
  T* beta;                          // [L]
  const StageGradients<T>* result;  // [L]

  ParameterSums(const Prepared<T>& prepared, const StageGradients<T>* result_, Workspace& workspace) : result(result_) {
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
                                prepared.tap_offsets(stage.kernel, false, workspace),
                                nullptr,
                                panel,
                                stage.kernel};
      weight[i].bf16 = prepared.parallel.bf16 && bf16_contraction_pays(weight[i], prepared.layout);
      weight[i].sums = workspace.take_zeroed<T>(weight[i].size());
      bias[i] = workspace.take_zeroed<T>(stage.out_channels);
    }
  }

  // The gradient of stage i's bias, from the cotangents s_{i+1} of a tile.
  void add_bias_gradient(const Prepared<T>& prepared, int i, const T* s, const TileSamples& samples) {
    const Stage<T>& stage = prepared.branch.stage[i];
    if (!stage.bias) return;
    if (stage.bias_spread == Spread::kShared)
      add_row_sums(s, stage.out_channels, prepared.layout, bias[i]);
    else
      store_gradient(prepared, s, stage.bias_spread, stage.out_channels, samples, result[i].bias);
  }

  // The gradient of stage i's factor, a tile.
  void set_factor_gradient(const Prepared<T>& prepared, int i, const T* gradient, const TileSamples& samples) {
    const Stage<T>& stage = prepared.branch.stage[i];
    store_gradient(prepared, gradient, stage.factor_spread, stage.in_channels, samples, result[i].factor);
  }

  // The gradient of stage i's beta += `gradient` of its slope; d slope / d beta is the logistic function.
  void add_slope_gradient(const Stage<T>& stage, int i, T gradient) {
    const double parameter = *stage.beta;
    beta[i] += gradient * static_cast<T>(1 / (1 + __builtin_exp(-parameter)));
  }

 private:
  static void store_gradient(const Prepared<T>& prepared, const T* tile, Spread spread, int channels,
                             const TileSamples& samples, T* target) {
    const int64_t at = samples.first * sample_numbers(prepared.branch, spread, channels);
    store_operand(prepared.layout, tile, spread == Spread::kPixel, samples.count, channels, target + at);
  }
};

// Adds up the threads in a fixed order (bitwise the same on every run) into the packed result. `walks`: [chunks], of a
// type that has ParameterSums.
template <class T, class Walks>
void gather_gradients(const Prepared<T>& prepared, const Walks& walks, const StageGradients<T>* result) {
  for_each_chunk(prepared, [&](int64_t chunk) {
    for (int i = 0; i < prepared.branch.stages; ++i) {
      const Stage<T>& stage = prepared.branch.stage[i];
      T *weight = result[i].weight, *bias = result[i].bias, *beta = result[i].beta;
      const int64_t per_row = int64_t(stage.in_channels) * stage.kernel * stage.kernel;
      const int begin = static_cast<int>(stage.out_channels * chunk / prepared.chunks);
      const int end = static_cast<int>(stage.out_channels * (chunk + 1) / prepared.chunks);
      std::memset(weight + begin * per_row, 0, sizeof(T) * (end - begin) * per_row);
      for (int k = 0; k < prepared.chunks; ++k) walks[k]->weight[i].add_to(weight, begin, end);
      const bool shared = bias && stage.bias_spread == Spread::kShared;
      for (int m = begin; shared && m < end; ++m) {
        bias[m] = T(0);
        for (int k = 0; k < prepared.chunks; ++k) bias[m] += walks[k]->bias[i][m];
      }
      if (beta && chunk == 0) {
        *beta = T(0);
        for (int k = 0; k < prepared.chunks; ++k) *beta += walks[k]->beta[i];
      }
    }
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
