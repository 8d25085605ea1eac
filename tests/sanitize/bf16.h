// Training steps whose products round their operands to bfloat16, beside the same steps in float32.
#pragma once

#include "branch_data.h"

namespace {

// z, value and gradients of one step; the backward pass takes up what forward kept, or computes it again.
inline std::vector<Numbers<float>> bf16_step(const BranchData<float>& data, irf::Parallel parallel, bool bf16,
                                             bool keep) {
  parallel.bf16 = bf16;
  const irf::Kernels<float>& kernels = irf::kernels<float>();
  const irf::Branch<float>& branch = data.branch;
  const int64_t batch = branch.batch, all = batch * data.size;
  random_state<float> = 3;  // the same for both precisions
  // Of random sign: sums of them lose no more to cancellation than their terms lose to rounding.
  const Numbers<float> x = random_numbers<float>(all), v = random_numbers<float>(all),
                       grad = random_numbers<float>(all);
  const Numbers<float> weight = random_numbers<float>(batch);
  const Numbers<float> coefficients(4, 1.0f);
  Numbers<float> z = unwritten<float>(all), y = unwritten<float>(all), value = unwritten<float>(batch), norms(value);
  Numbers<int64_t> used(batch);
  Numbers<float> kept = unwritten<float>(kernels.kept_size(branch, parallel));
  irf::ResidualLogdetOperands<float> step{};
  step.x = x.data(), step.probes = 1, step.probe = v.data(), step.z = z.data();
  step.series = {.terms = 4,
                 .coefficients = coefficients.data(),
                 .value = value.data(),
                 .neumann = y.data(),
                 .norms = norms.data(),
                 .terms_used = used.data()};
  step.kept = kept.data();
  kernels.residual_logdet(branch, step, parallel);
  Numbers<float> grad_x = unwritten<float>(all), packed = unwritten<float>(data.parameter_count);
  irf::BranchBackwardOperands<float> op{};
  op.x = x.data(), op.grad = grad.data(), op.residual = true;
  op.pairs = 1, op.tangents = v.data(), op.cotangents = y.data(), op.weight = weight.data();
  op.kept = keep ? kept.data() : nullptr, op.kept_size = keep ? int64_t(kept.size()) : 0;
  op.grad_x = grad_x.data(), op.grad_parameters = packed.data();
  kernels.branch_backward(branch, op, parallel);
  return {z, value, y, grad_x, packed};
}

// Results may differ by the rounding of operands, 2^-9 of each, through some ten products in a row.
inline bool close_in_bf16(const Numbers<float>& a, const Numbers<float>& b) {
  double apart = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) apart += (a[i] - b[i]) * double(a[i] - b[i]), size += double(b[i]) * b[i];
  return std::sqrt(apart) <= 10 * 0x1p-9 * std::sqrt(size) + 1e-5;
}

void check_bf16() {
  const int before = failures;
  if (irf::isa_available(Isa::kAvx512)) irf::set_isa(Isa::kAvx512);
  if (!irf::bf16_available()) {
    std::printf("bfloat16: no such products on this CPU\n");
    return;
  }
  std::vector<BranchCase> cases = dense_cases();
  for (const BranchCase& c : image_cases()) cases.push_back(c);
  for (const BranchCase& c : operand_cases()) cases.push_back(c);
  bool rounded = false;
  for (size_t i = 0; i < cases.size(); ++i) {
    const BranchData<float> data(cases[i]);
    for (const irf::Parallel& parallel : kParallels)
      for (bool keep : {false, true}) {
        const std::string where =
            "bfloat16 " + std::to_string(i) + ", " + std::to_string(parallel.threads) + " threads";
        const auto full = bf16_step(data, parallel, false, keep), narrow = bf16_step(data, parallel, true, keep);
        for (size_t k = 0; k < full.size(); ++k) {
          expect(close_in_bf16(narrow[k], full[k]), where, "result " + std::to_string(k) + " is far from float32");
          rounded = rounded || narrow[k] != full[k];
        }
      }
  }
  expect(rounded, "bfloat16", "no operand was rounded");
  std::printf("bfloat16: %zu branches, %s\n", cases.size(), failures == before ? "ok" : "FAILED");
}

}  // namespace
