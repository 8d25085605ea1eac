#include "chain.h"
#include "cuda/resident/chain.h"

namespace {

template <class T>
const char* run(const irf::Branch<T>& branch, const simt::ChainCase& c, const simt::Target& target) {
  return simt::guarded([&] {
    using irf::cuda::WalkKind;
    const irf::cuda::WalkRequest request{c.transpose ? WalkKind::kTransposed : WalkKind::kTangent, c.probes,
                                         static_cast<int>(c.terms), c.value != nullptr, c.neumann != nullptr};
    const irf::cuda::ResidentPlan plan = c.plan(branch, request, target);
    c.with_chain(branch, [&](const irf::cuda::Chain<T>& chain) {
      simt::run_op(target, simt::no_workspace,
                   [&](const irf::cuda::Context& context) { return irf::cuda::resident_chain(chain, plan, context); });
    });
  });
}

}  // namespace

extern "C" SIMT_EXPORT const char* resident_chain_float(const irf::Branch<float>* branch, const simt::ChainCase* c,
                                                        simt::Target target) {
  return run(*branch, *c, target);
}
extern "C" SIMT_EXPORT const char* resident_chain_double(const irf::Branch<double>* branch, const simt::ChainCase* c,
                                                         simt::Target target) {
  return run(*branch, *c, target);
}
