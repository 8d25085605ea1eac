// Where the gradients of the parameters lie in the packed result of a backward pass.
#pragma once

#include "cpu/spread.h"
#include "cpu/workspace.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Those of one stage; null where there is no such parameter.
template <class T>
struct StageGradients {
  T *weight, *bias, *beta, *factor;
};

// [L] stages. Leaves `packed` behind them.
template <class T>
StageGradients<T>* unpack_gradients(const Branch<T>& branch, T*& packed, Workspace& workspace) {
  auto* gradients = workspace.take<StageGradients<T>>(branch.stages);
  auto next = [&packed](bool there, int64_t numbers) -> T* {
    if (!there) return nullptr;
    T* const place = packed;
    packed += numbers;
    return place;
  };
  for (int i = 0; i < branch.stages; ++i) {
    const Stage<T>& stage = branch.stage[i];
    StageGradients<T>& place = gradients[i];
    place.weight = next(true, int64_t(stage.out_channels) * stage.in_channels * stage.kernel * stage.kernel);
    place.bias = next(stage.bias, operand_numbers(branch, stage.bias_spread, stage.out_channels));
    place.beta = next(stage.beta, 1);
    place.factor = next(stage.factor, operand_numbers(branch, stage.factor_spread, stage.in_channels));
  }
  return gradients;
}

// [count] The gradients of the maps of traces, which begin at `packed`.
template <class T>
T** unpack_map_gradients(const Traces<T>& traces, T* packed, Workspace& workspace) {
  T** gradients = workspace.take<T*>(traces.count);
  for (int i = 0; i < traces.count; ++i) {
    gradients[i] = packed;
    packed += traces.trace[i].size;
  }
  return gradients;
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
