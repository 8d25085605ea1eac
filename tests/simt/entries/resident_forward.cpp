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
struct Run {
  bool inverts;
  irf::cuda::Forward<T> forward;
  irf::cuda::Inverse<T> inverse;
  irf::cuda::ResidentPlan plan;
  irf::cuda::ResidentHistory<T> history;

  cudaError_t launch(const irf::cuda::Context& context) const {
    return inverts ? irf::cuda::resident_inverse(inverse, plan, history, context)
                   : irf::cuda::resident_forward(forward, plan, context);
  }
};

template <class T>
const char* run(const irf::Branch<T>& branch, const ForwardCase& c, const simt::Target& target) {
  return simt::guarded([&] {
    using irf::cuda::WalkKind;
    auto in = [](void* p) { return static_cast<T*>(p); };
    const auto weights = c.buffers<T>(c.weights, branch.stages);
    Run<T> call{};
    call.inverts = c.inverse != 0;
    call.forward = {branch, weights, in(c.x), c.buffers<T>(c.derivatives, branch.stages), in(c.z), in(c.g), {}};
    call.inverse = {branch,
                    weights,
                    {in(c.x), T(c.residual_limit), c.max_iterations, c.max_iterations, T(c.lipschitz), in(c.solution),
                     c.iterations, in(c.residual)}};
    call.plan = c.plan(branch, {call.inverts ? WalkKind::kInverse : WalkKind::kForward, 1, 1, false, false}, target);
    irf::cuda::Workspace workspace;
    if (c.lipschitz > 0) call.history = irf::cuda::ResidentHistory<T>(call.plan, workspace);
    const irf::cuda::Target on = simt::find_target(target);
    simt::run_op(on.card, irf::cuda::Operation(on, workspace, call));
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
