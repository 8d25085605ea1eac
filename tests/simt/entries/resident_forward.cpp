#include "cuda/resident/forward.h"
#include "resident.h"

namespace {

// `x` is z of an inverse, `solution` its x.
struct ForwardCase : simt::ResidentCase {
  int64_t inverse;
  void *x, *z, *g;
  double residual_limit;
  int64_t max_iterations;
  double lipschitz;
  void* solution;
  int64_t* iterations;
  void* residual;
};

template <class T>
const char* run(const irf::Branch<T>& branch, const ForwardCase& c, const simt::Target& target) {
  return simt::guarded([&] {
    using irf::cuda::WalkKind;
    auto in = [](void* p) { return static_cast<T*>(p); };
    const irf::cuda::WalkRequest request{c.inverse ? WalkKind::kInverse : WalkKind::kForward, 1, 1, false, false};
    const irf::cuda::ResidentPlan plan = c.plan(branch, request, target);
    const T* weights[irf::cuda::kMaxStages];
    T* derivatives[irf::cuda::kMaxStages];
    for (int i = 0; i < branch.stages; ++i) {
      weights[i] = in(c.weights[i]);
      derivatives[i] = in(c.derivatives[i]);
    }
    const irf::ResidualInverseOperands<T> inverse{in(c.x),          T(c.residual_limit), c.max_iterations,
                                                  c.max_iterations, T(c.lipschitz),      in(c.solution),
                                                  c.iterations,     in(c.residual)};
    const irf::cuda::ResidentForward<T> forward{branch, weights, in(c.x), derivatives, in(c.z), in(c.g)};
    const auto history = [&](irf::cuda::Carver& carver) {
      return c.lipschitz > 0 ? irf::cuda::ResidentHistory<T>(plan, carver) : irf::cuda::ResidentHistory<T>{};
    };
    const auto workspace = [&](const irf::cuda::Card&, irf::cuda::Precision) {
      irf::cuda::Carver carver(nullptr);
      history(carver);
      return carver.used();
    };
    simt::run_op(target, workspace, [&](const irf::cuda::Context& context) {
      irf::cuda::Carver carver(context.workspace);
      return c.inverse ? irf::cuda::resident_inverse(branch, weights, inverse, plan, history(carver), context)
                       : irf::cuda::resident_forward(forward, plan, context);
    });
  });
}

}  // namespace

extern "C" SIMT_EXPORT const char* resident_forward_float(const irf::Branch<float>* branch, const ForwardCase* c,
                                                          simt::Target target) {
  return run(*branch, *c, target);
}
extern "C" SIMT_EXPORT const char* resident_forward_double(const irf::Branch<double>* branch, const ForwardCase* c,
                                                           simt::Target target) {
  return run(*branch, *c, target);
}
