#include "cuda/plan.h"

#include <cstdio>

#include "resident.h"

namespace {

struct PlanCase {
  int kind;
  int64_t probes;
  int repeats, sums, neumann, element_bytes;
  irf::cuda::PlanChoice choice;
  int forced;  // to be resident, as `choice` says
  char* text;  // simt::kTextBytes
  irf::cuda::ResidentPlan* plan;
  int64_t plan_bytes;
  double layered;
};

}  // namespace

extern "C" SIMT_EXPORT const char* plan_case(const irf::Branch<float>* branch, PlanCase* c, simt::Target target) {
  return simt::guarded([&] {
    const irf::cuda::Card card = simt::find_card(target.card);
    const irf::cuda::BranchShape shape = irf::cuda::shape_of(*branch);
    const irf::cuda::WalkRequest request{static_cast<irf::cuda::WalkKind>(c->kind), c->probes, c->repeats, c->sums != 0,
                                         c->neumann != 0};
    const auto precision = static_cast<irf::cuda::Precision>(target.precision);
    simt::check_size(c->plan_bytes, sizeof(irf::cuda::ResidentPlan), "ResidentPlan");
    *c->plan = c->forced ? plan_resident(shape, request, precision, c->element_bytes, card, c->choice)
                         : plan_walk(shape, request, precision, c->element_bytes, card);
    c->layered = layered_microseconds(shape, request, precision, c->element_bytes, card);
    std::snprintf(c->text, simt::kTextBytes, "%s", describe_plan(*c->plan, card, c->element_bytes).c_str());
  });
}
