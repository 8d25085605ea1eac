// One way to run a branch resident, of those that plan/plan.cpp enumerates, and the plan that follows from it.
#pragma once

#include "cuda/plan/plan.h"

namespace irf::cuda {

// Of which stages something lies in shared memory: of none, of as many as fit, in the order of the stages, or of all.
enum InShared { kNone, kSome, kAll };

struct PlanCandidate {
  Family family;
  int items, threads;  // per block
  int most_splits;     // warps that may share a reduction
  int chunk;           // flat rows of streamed weights that may be in shared memory at once
  InShared weights, derivatives;
};

// Not resident if the candidate does not fit the card.
ResidentPlan make_plan(const BranchShape&, const WalkRequest&, Precision, int element_bytes, const Card&,
                       const PlanCandidate&);

}  // namespace irf::cuda
