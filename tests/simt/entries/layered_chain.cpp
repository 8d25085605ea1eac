// The layered path by itself, whatever the plan would choose. layered_residual_logdet gives one value per probe and
// sample; layered_chain is the chain alone, with the operands of resident_chain.
#include "chain.h"
#include "cuda/device/pack_weights.h"
#include "cuda/layered/chain.h"
#include "cuda/layered/inverse.h"

namespace irf::cuda {
namespace {

template <class T>
cudaError_t run(const Branch<T>& branch, const BranchOperands<T>& op, const Context& context, Carver& carver) {
  const std::vector<T*> weights = carve_packed(branch, Form::kForward, context.precision, carver);
  const LayeredForward<T> forward{branch, weights.data(), op.x, nullptr, nullptr, op.g};
  const LayeredForwardScratch<T> scratch(forward, context.precision, carver);
  if (carver.counting()) return cudaSuccess;
  pack_weights(branch, Form::kForward, context.precision, weights.data(), context.stream);
  return layered_forward(forward, scratch, context);
}

template <class T>
cudaError_t run(const Branch<T>& branch, const ResidualInverseOperands<T>& op, const Context& context, Carver& carver) {
  const std::vector<T*> weights = carve_packed(branch, Form::kForward, context.precision, carver);
  const LayeredInverseScratch<T> scratch(branch, op.lipschitz > T(0), context.precision, context.card, carver);
  if (carver.counting()) return cudaSuccess;
  pack_weights(branch, Form::kForward, context.precision, weights.data(), context.stream);
  return layered_inverse(branch, weights.data(), op, scratch, context);
}

// Freezes the branch at x (z gets x + g(x), or is null) and runs the chain.
template <class T>
cudaError_t run(Chain<T> chain, const T* x, T* z, const Context& context, Carver& carver) {
  const Branch<T>& branch = chain.branch;
  const std::vector<T*> forward_weights = carve_packed(branch, Form::kForward, context.precision, carver);
  const std::vector<T*> transposed = carve_packed(branch, Form::kTransposed, context.precision, carver);
  const std::vector<T*> derivatives = carve_derivatives(branch, context.precision, carver);
  std::vector<StageRows<T>> stages(branch.stages);
  for (int i = 0; i < branch.stages; ++i) stages[i].d = derivatives[i];
  const LayeredForward<T> forward{branch, forward_weights.data(), x, stages.data(), z, nullptr};
  const LayeredForwardScratch<T> forward_scratch(forward, context.precision, carver);
  const LayeredChainScratch<T> scratch(chain, context.precision, context.card, carver);
  if (carver.counting()) return cudaSuccess;
  chain.weights = chain.transpose ? transposed.data() : forward_weights.data();
  chain.derivatives = derivatives.data();
  pack_weights(branch, Form::kForward, context.precision, forward_weights.data(), context.stream);
  pack_weights(branch, Form::kTransposed, context.precision, transposed.data(), context.stream);
  const cudaError_t error = layered_forward(forward, forward_scratch, context);
  return error == cudaSuccess ? layered_chain(chain, scratch, context) : error;
}

template <class T>
cudaError_t run(const Branch<T>& branch, const ResidualLogdetOperands<T>& op, const Context& context, Carver& carver) {
  Chain<T> chain{};
  chain.branch = branch;
  chain.transpose = true;
  chain.probes = op.probes;
  chain.probe = op.probe;
  chain.series = op.series;
  return run(chain, op.x, op.z, context, carver);
}

template <class T>
cudaError_t run(const Branch<T>& branch, const JacobianPowersOperands<T>& op, const Context& context, Carver& carver) {
  Chain<T> chain{};
  chain.branch = branch;
  chain.transpose = op.transpose;
  chain.probes = 1;
  chain.probe = op.start;
  chain.series.terms = op.count;
  chain.powers = op.powers;
  chain.power_stride = branch.batch * branch.in_size();
  chain.sample_stride = branch.in_size();
  return run<T>(chain, op.x, nullptr, context, carver);
}

// J^T e_j is row j of J.
template <class T>
cudaError_t run(const Branch<T>& branch, const JacobianOperands<T>& op, const Context& context, Carver& carver) {
  Chain<T> chain{};
  chain.branch = branch;
  chain.transpose = true;
  chain.probes = static_cast<int>(branch.in_size());
  chain.series.terms = 1;
  chain.powers = op.jacobian;
  chain.probe_stride = branch.in_size();
  chain.sample_stride = branch.in_size() * branch.in_size();
  return run<T>(chain, op.x, nullptr, context, carver);
}

}  // namespace

#define LAYERED(op, Operands)                                                                                          \
  template <class T>                                                                                                   \
  size_t op##_workspace(const Branch<T>& branch, const Operands<T>& operands, const Card& card, Precision precision) { \
    Carver carver(nullptr);                                                                                            \
    run(branch, operands, Context{card, precision, nullptr, nullptr}, carver);                                         \
    return carver.used();                                                                                              \
  }                                                                                                                    \
  template <class T>                                                                                                   \
  cudaError_t op(const Branch<T>& branch, const Operands<T>& operands, const Context& context) {                       \
    Carver carver(context.workspace);                                                                                  \
    return run(branch, operands, context, carver);                                                                     \
  }
LAYERED(layered_branch, BranchOperands)
LAYERED(layered_residual_inverse, ResidualInverseOperands)
LAYERED(layered_residual_logdet, ResidualLogdetOperands)
LAYERED(layered_jacobian_powers, JacobianPowersOperands)
LAYERED(layered_jacobian, JacobianOperands)

}  // namespace irf::cuda

SIMT_BRANCH_OP(layered_branch, BranchOperands)
SIMT_BRANCH_OP(layered_residual_inverse, ResidualInverseOperands)
SIMT_BRANCH_OP(layered_residual_logdet, ResidualLogdetOperands)
SIMT_BRANCH_OP(layered_jacobian_powers, JacobianPowersOperands)
SIMT_BRANCH_OP(layered_jacobian, JacobianOperands)

namespace {

template <class T>
const char* run_packed(const irf::Branch<T>& branch, const simt::ChainCase& c, const simt::Target& target) {
  using irf::cuda::Carver;
  using irf::cuda::LayeredChainScratch;
  return simt::guarded([&] {
    c.with_chain(branch, [&](const irf::cuda::Chain<T>& chain) {
      simt::run_op(
          target,
          [&](const irf::cuda::Card& card, irf::cuda::Precision precision) {
            Carver carver(nullptr);
            LayeredChainScratch<T>(chain, precision, card, carver);
            return carver.used();
          },
          [&](const irf::cuda::Context& context) {
            Carver carver(context.workspace);
            const LayeredChainScratch<T> scratch(chain, context.precision, context.card, carver);
            return irf::cuda::layered_chain(chain, scratch, context);
          });
    });
  });
}

}  // namespace

extern "C" SIMT_EXPORT const char* layered_chain_float(const irf::Branch<float>* branch, const simt::ChainCase* c,
                                                       simt::Target target) {
  return run_packed(*branch, *c, target);
}
extern "C" SIMT_EXPORT const char* layered_chain_double(const irf::Branch<double>* branch, const simt::ChainCase* c,
                                                        simt::Target target) {
  return run_packed(*branch, *c, target);
}
