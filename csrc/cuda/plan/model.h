// What a plan costs: issue slots, shared-memory wavefronts, bytes and latencies of a multiprocessor, counted with the
// constants of an architecture (plan/constants.h). Crude, and not yet compared with a card. Nothing here decides
// whether a kernel is correct.
#pragma once

#include "cuda/plan/constants.h"
#include "cuda/plan/plan.h"

namespace irf::cuda {

// Issue slots that one product takes of a scheduler whose multiprocessor runs `blocks` blocks at once.
double stage_slots(const ResidentPlan&, const StagePlan&, int blocks, int element_bytes, const ModelConstants&);

// Cycles of one product for a block whose multiprocessor runs `blocks` of them at once.
double stage_cycles(const ResidentPlan&, const StagePlan&, int blocks, int element_bytes, const ModelConstants&);

// Of the whole launch: rounds of groups, each with its setup and its repeats.
double resident_microseconds(const ResidentPlan&, const WalkRequest&, int element_bytes, const Card&,
                             const ModelConstants&);

// Of the layered way, one launch per product, with a precision that is usable.
double layered_microseconds(const BranchShape&, const WalkRequest&, Precision, int element_bytes, const Card&,
                            const ModelConstants&);

}  // namespace irf::cuda
