// What the tests of the resident kernels pass: rows and weights already packed, and what the plan may choose.
#pragma once

#include <cstdio>
#include <vector>

#include "cuda/plan/plan.h"
#include "entry.h"

namespace simt {

constexpr size_t kTextBytes = 8192;

struct ResidentCase {
  irf::cuda::PlanChoice choice;
  char* text;  // kTextBytes for the description of the plan
  void *weights[irf::cuda::kMaxStages], *derivatives[irf::cuda::kMaxStages];

  template <class T>
  static std::vector<irf::cuda::Buffer<T>> buffers(void* const* pointers, int count) {
    std::vector<irf::cuda::Buffer<T>> result;
    for (int i = 0; i < count; ++i) result.push_back(static_cast<T*>(pointers[i]));
    return result;
  }

  // The plan that `choice` allows, described in `text`.
  template <class T>
  irf::cuda::ResidentPlan plan(const irf::Branch<T>& branch, const irf::cuda::WalkRequest& request,
                               const Target& target) const {
    const auto [card, precision] = find_target(target);
    const irf::cuda::ResidentPlan plan =
        irf::cuda::plan_resident(irf::cuda::shape_of(branch), request, precision, sizeof(T), card, choice);
    std::snprintf(text, kTextBytes, "%s", irf::cuda::describe_plan(plan, card, sizeof(T)).c_str());
    if (!plan.resident) throw std::invalid_argument("not resident");
    return plan;
  }
};

}  // namespace simt
