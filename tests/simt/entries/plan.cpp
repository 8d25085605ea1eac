#include "cuda/plan/plan.h"

#include <cstdio>
#include <cstring>

#include "cuda/plan/model.h"
#include "resident.h"

namespace {

struct PlanCase {
  int kind;
  int64_t probes;
  int repeats, sums, neumann, element_bytes;
  irf::cuda::PlanChoice choice;
  int forced;  // to be resident, as `choice` says (layered if nothing fits it), and of exactly this precision
  char* text;  // simt::kTextBytes
  irf::cuda::ResidentPlan* plan;
  int64_t plan_bytes;
  // Constants to model this plan and the layered way of its precision with, or null: those of the card. Both times are
  // written, in microseconds.
  const double* constants;
  double resident, layered;
};

}  // namespace

extern "C" SIMT_EXPORT const char* plan_case(const irf::Branch<float>* branch, PlanCase* c, simt::Target target) {
  return simt::guarded([&] {
    const irf::cuda::Card card = simt::find_card(target.card);
    const irf::cuda::BranchShape shape = irf::cuda::shape_of(*branch);
    const irf::cuda::WalkRequest request{static_cast<irf::cuda::WalkKind>(c->kind), c->probes, c->repeats, c->sums != 0,
                                         c->neumann != 0};
    const int bytes = c->element_bytes;
    const auto wanted = static_cast<irf::cuda::Precision>(target.precision);
    const auto precision =
        c->forced ? usable_precision(wanted, bytes, card) : cheapest_precision(shape, request, wanted, bytes, card);
    simt::check_size(c->plan_bytes, sizeof(irf::cuda::ResidentPlan), "ResidentPlan");
    *c->plan = c->forced ? plan_resident(shape, request, precision, bytes, card, c->choice)
                         : plan_walk(shape, request, precision, bytes, card);
    c->plan->precision = precision;  // what a layered one runs at, too
    irf::cuda::ModelConstants constants = irf::cuda::model_constants(card.architecture);
    if (c->constants) std::memcpy(&constants, c->constants, sizeof constants);
    c->resident = c->plan->resident ? resident_microseconds(*c->plan, request, bytes, card, constants) : 0;
    c->layered = layered_microseconds(shape, request, precision, bytes, card, constants);
    std::snprintf(c->text, simt::kTextBytes, "%s", describe_plan(*c->plan, card, bytes).c_str());
  });
}

// The names of the constants, with commas between.
extern "C" SIMT_EXPORT const char* model_constant_names() {
  static const std::string names = [] {
    std::string all;
    for (const char* name : irf::cuda::kModelConstantNames) all += (all.empty() ? "" : ",") + std::string(name);
    return all;
  }();
  return names.c_str();
}

// The row of a known card.
extern "C" SIMT_EXPORT const char* model_constants_of(const char* card, double* constants) {
  return simt::guarded([&] {
    const irf::cuda::ModelConstants& row = irf::cuda::model_constants(simt::find_card(card).architecture);
    std::memcpy(constants, &row, sizeof row);
  });
}
