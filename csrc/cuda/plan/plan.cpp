#include "cuda/plan/plan.h"

#include <cstdint>
#include <map>
#include <vector>

#include "cuda/plan/layout.h"
#include "cuda/plan/model.h"

namespace irf::cuda {
namespace {

// The families of tiles for a branch, and how many items a block of each may own: visit(family, items).
template <class Visit>
void for_each_family(const BranchShape& shape, Precision precision, int element_bytes, Visit visit) {
  const bool dense = shape.height == 0, tensor_cores = precision != Precision::kFull;
  for (const FamilyTiles& row : kFamilyTiles) {
    if (row.element_bytes != element_bytes || row.dense != dense || row.tensor_cores != tensor_cores) continue;
    for (int items = row.least_items; items <= row.most_items; items *= 2) visit(row.family, items);
  }
}

// What the kernels' 32-bit indices and the tables can hold.
bool countable(const BranchShape& shape, const WalkRequest& request) {
  constexpr int64_t kMost = INT32_MAX;
  const int64_t pixels = shape.height ? int64_t(shape.height) * shape.width : 1;
  return pixels <= 1 << 16 && shape.batch <= kMost / pixels && request.probes * shape.batch > 0;
}

// The precision of least cost, from the exact one down to `least`; the more exact one of two that cost the same.
template <class Cost>
Precision cheapest(const BranchShape& shape, Precision least, Cost cost) {
  if (shape.stages == 0) return least;  // too many stages to model
  Precision best = Precision::kFull;
  if (least == best) return best;  // every call of an op comes here
  double best_cost = cost(best);
  for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
    if (precision > least) break;
    const double this_cost = cost(precision);
    if (this_cost < best_cost) best = precision, best_cost = this_cost;
  }
  return best;
}

}  // namespace

Precision usable_precision(Precision wanted, int element_bytes, const Card& card) {
  return element_bytes == 8 || card.architecture < 80 ? Precision::kFull : wanted;
}

ResidentPlan plan_resident(const BranchShape& shape, const WalkRequest& request, Precision precision, int element_bytes,
                           const Card& card, const PlanChoice& choice) {
  ResidentPlan best{};
  if (shape.stages == 0 || !countable(shape, request)) return best;
  precision = usable_precision(precision, element_bytes, card);
  for_each_family(shape, precision, element_bytes, [&](Family family, int items) {
    if (choice.items && items != choice.items) return;
    if (choice.family >= 0 && static_cast<int>(family) != choice.family) return;
    for (int threads : {128, 256})
      for (int splits : {8, 4, 2, 1})
        for (int chunk : {128, 32})
          for (InShared weights : {kAll, kSome, kNone})
            for (InShared derivatives : {kAll, kSome, kNone}) {
              if (choice.threads && threads != choice.threads) continue;
              if (choice.weights_shared >= 0 && weights != (choice.weights_shared ? kAll : kNone)) continue;
              if (choice.derivatives_shared >= 0 && derivatives != (choice.derivatives_shared ? kAll : kNone)) continue;
              if (weights == kAll && chunk != 128) continue;  // no chunks
              const PlanCandidate candidate{.family = family,
                                            .items = items,
                                            .threads = threads,
                                            .most_splits = splits,
                                            .chunk = chunk,
                                            .weights = weights,
                                            .derivatives = derivatives};
              const ResidentPlan plan = make_plan(shape, request, precision, element_bytes, card, candidate);
              if (plan.resident && (!best.resident || plan.microseconds < best.microseconds)) best = plan;
            }
  });
  return best;
}

// A search takes longer than a small branch runs, and a program asks for the same few plans again and again.
ResidentPlan plan_resident(const BranchShape& shape, const WalkRequest& request, Precision precision, int element_bytes,
                           const Card& card) {
  constexpr size_t kRemembered = 4096;
  thread_local std::map<std::vector<int64_t>, ResidentPlan> remembered;
  std::vector<int64_t> key = {
      shape.stages,     shape.height,      shape.width,          shape.batch,           static_cast<int>(request.kind),
      request.probes,   request.repeats,   request.sums,         request.neumann,       static_cast<int>(precision),
      element_bytes,    card.architecture, card.multiprocessors, card.shared_per_block, card.shared_per_multiprocessor,
      shape.channels[0]};
  for (int i = 0; i < shape.stages; ++i)
    key.insert(key.end(), {shape.channels[i + 1], shape.kernel[i], shape.identity[i]});
  const auto found = remembered.find(key);
  if (found != remembered.end()) return found->second;
  if (remembered.size() == kRemembered) remembered.clear();
  return remembered[key] = plan_resident(shape, request, precision, element_bytes, card, PlanChoice{});
}

ResidentPlan plan_walk(const BranchShape& shape, const WalkRequest& request, Precision precision, int element_bytes,
                       const Card& card) {
  precision = usable_precision(precision, element_bytes, card);
  ResidentPlan plan = plan_resident(shape, request, precision, element_bytes, card);
  const double layered =
      layered_microseconds(shape, request, precision, element_bytes, card, model_constants(card.architecture));
  if (plan.resident && (request.kind == WalkKind::kInverse || plan.microseconds <= layered)) return plan;
  plan = ResidentPlan{};
  plan.precision = precision;
  plan.microseconds = layered;
  return plan;
}

Precision cheapest_precision(const BranchShape& shape, const WalkRequest& request, Precision wanted, int element_bytes,
                             const Card& card) {
  const bool chain = request.kind == WalkKind::kTransposed || request.kind == WalkKind::kTangent;
  return cheapest(shape, usable_precision(wanted, element_bytes, card), [&](Precision precision) {
    const double forward = chain ? plan_walk(shape, kForwardWalk, precision, element_bytes, card).microseconds : 0;
    return forward + plan_walk(shape, request, precision, element_bytes, card).microseconds;
  });
}

Precision cheapest_layered_precision(const BranchShape& shape, const WalkRequest& request, Precision wanted,
                                     int element_bytes, const Card& card) {
  return cheapest(shape, usable_precision(wanted, element_bytes, card), [&](Precision precision) {
    return layered_microseconds(shape, request, precision, element_bytes, card, model_constants(card.architecture));
  });
}

}  // namespace irf::cuda
