// What a plan costs: issue slots, shared-memory wavefronts, bytes and latencies of a multiprocessor, in cycles. Crude,
// but right about which way is cheaper; nothing here decides whether a kernel is correct.
#pragma once

#include "cuda/plan.h"

namespace irf::cuda {

constexpr double kClockMegahertz = 1700;  // nominal: one number for all cards
constexpr double kLaunchMicroseconds = 3;

// Cycles of one product for a block whose multiprocessor runs `blocks` of them at once.
double stage_cycles(const ResidentPlan&, const StagePlan&, int blocks, int element_bytes, const Card&);

// Cycles of the whole launch: rounds of groups, each with its setup and its repeats.
double resident_cycles(const ResidentPlan&, const WalkRequest&, int element_bytes, const Card&);

}  // namespace irf::cuda
