#include "cuda/resident_chain.h"

#include "resident.h"

namespace {

struct ChainCase : simt::ResidentCase {
  int64_t transpose, probes, first_unit, terms, per_sample, relative;
  double tolerance;
  void *probe, *coefficients, *tail, *value, *neumann, *norms;
  int64_t* terms_used;
  void* powers;
  int64_t power_stride, probe_stride, sample_stride;
};

template <class T>
const char* run(const irf::Branch<T>& branch, const ChainCase& c, const simt::Target& target) {
  return simt::guarded([&] {
    using irf::cuda::WalkKind;
    auto in = [](void* p) { return static_cast<T*>(p); };
    const irf::cuda::WalkRequest request{c.transpose ? WalkKind::kTransposed : WalkKind::kTangent, c.probes,
                                         static_cast<int>(c.terms), c.value != nullptr, c.neumann != nullptr};
    const irf::cuda::ResidentPlan plan = c.plan(branch, request, target);
    const T *weights[irf::cuda::kMaxStages], *derivatives[irf::cuda::kMaxStages];
    for (int i = 0; i < branch.stages; ++i) {
      weights[i] = in(c.weights[i]);
      derivatives[i] = in(c.derivatives[i]);
    }
    const irf::cuda::Chain<T> chain{
        branch,          weights,        derivatives,        c.transpose != 0,  int(c.probes), in(c.probe),
        c.first_unit,    int(c.terms),   in(c.coefficients), c.per_sample != 0, in(c.tail),    T(c.tolerance),
        c.relative != 0, in(c.value),    in(c.neumann),      in(c.norms),       c.terms_used,  in(c.powers),
        c.power_stride,  c.probe_stride, c.sample_stride};
    simt::run_op(target, simt::no_workspace,
                 [&](const irf::cuda::Context& context) { return irf::cuda::resident_chain(chain, plan, context); });
  });
}

}  // namespace

extern "C" SIMT_EXPORT const char* resident_chain_float(const irf::Branch<float>* branch, const ChainCase* c,
                                                        simt::Target target) {
  return run(*branch, *c, target);
}
extern "C" SIMT_EXPORT const char* resident_chain_double(const irf::Branch<double>* branch, const ChainCase* c,
                                                         simt::Target target) {
  return run(*branch, *c, target);
}
