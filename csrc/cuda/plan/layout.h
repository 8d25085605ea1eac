// One way to run a branch resident: what plan/plan.cpp enumerates, and the plan that follows from it.
#pragma once

#include "cuda/plan/plan.h"

namespace irf::cuda {

enum { kNone, kSome, kAll };  // of the stages, in their order as many as fit

struct Way {
  Family family;
  int items, threads;
  int most_splits;           // warps that share a reduction
  int chunk;                 // flat rows of streamed weights at once, at most
  int weights, derivatives;  // kept in shared memory: kNone, kSome or kAll
};

ResidentPlan make_plan(const BranchShape&, const WalkRequest&, Precision, int element_bytes, const Card&, const Way&);

}  // namespace irf::cuda
