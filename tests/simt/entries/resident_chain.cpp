#include "chain.h"
#include "cuda/resident/chain.h"

namespace {

template <class T>
struct Run {
  irf::cuda::Chain<T> chain;
  irf::cuda::ResidentPlan plan;

  cudaError_t launch(const irf::cuda::Context& context) const {
    return irf::cuda::resident_chain(chain, plan, context);
  }
};

template <class T>
const char* run(const irf::Branch<T>& branch, const simt::ChainCase& c, const simt::Target& target) {
  return simt::guarded([&] {
    using irf::cuda::WalkKind;
    const irf::cuda::WalkRequest request{c.transpose ? WalkKind::kTransposed : WalkKind::kTangent, c.probes,
                                         static_cast<int>(c.terms), c.value != nullptr, c.neumann != nullptr};
    const irf::cuda::Target on = simt::find_target(target);
    const Run<T> call{c.chain(branch), c.plan(branch, request, target)};
    simt::run_op(on.card, irf::cuda::Operation(on, irf::cuda::Workspace(), call));
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
