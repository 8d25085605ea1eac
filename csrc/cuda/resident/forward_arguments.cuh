// What the resident forward kernel is launched with.
#pragma once

#include "cuda/device/stage_operand.cuh"
#include "cuda/resident/forward.h"

namespace irf::cuda {

// A forward walk or an inverse, with everything that the kernel reads and writes. Lists are by stage.
template <class T>
struct ForwardArguments {
  ResidentPlan plan;
  const T* weight[kMaxStages] = {};
  Activation activation[kMaxStages] = {};
  const T* bias[kMaxStages] = {};  // of all samples, or null: none
  const T* beta[kMaxStages] = {};  // or null: none
  T constant[kMaxStages] = {};     // of the activations
  StageOperand<T> factor[kMaxStages] = {};
  StageOperand<T> own_bias[kMaxStages + 1] = {};  // [i + 1]: the bias of stage i where samples have their own
  T* derivative[kMaxStages] = {};                 // rows of D_i, or null: not wanted
  int64_t batch = 0;
  const T* x = nullptr;  // [B, d]: x, or z of an inverse
  T* z = nullptr;        // [B, d]: x + g(x), or null
  T* g = nullptr;        // [B, d'], or null

  const T* v = nullptr;               // [B, d]: J v is wanted too, and so the walk is made a second time; or null
  KeptRows<T> kept[kMaxStages] = {};  // each pointer may be null
  T* tangent_product = nullptr;       // rows of J v

  bool inverse = false;
  T* solution = nullptr;  // [B, d]
  T residual_limit = T(0);
  int64_t max_iterations = 0;
  T lipschitz = T(0);                    // 0: not accelerated
  AndersonState<T>* anderson = nullptr;  // as in ResidentHistory
  T* history = nullptr;
  int64_t* iterations = nullptr;  // [B]
  T* residual = nullptr;          // [B]

  ForwardArguments(const Branch<T>& branch, const std::vector<Buffer<T>>& weights, const ResidentPlan& plan_,
                   const Memory& memory)
      : plan(plan_), batch(branch.batch) {
    for (int i = 0; i < branch.stages; ++i) {
      weight[i] = memory[weights[i]];
      activation[i] = branch.stage[i].activation;
      if (branch.stage[i].bias_spread == Spread::kShared)
        bias[i] = branch.stage[i].bias;
      else
        own_bias[i + 1] = bias_of(branch, i);
      factor[i] = factor_of(branch, i);
      beta[i] = branch.stage[i].beta;
      constant[i] = branch.stage[i].constant;
    }
  }
};

}  // namespace irf::cuda
