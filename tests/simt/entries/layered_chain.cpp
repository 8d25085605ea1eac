// The layered path by itself, whatever the plan would choose. layered_residual_logdet gives one value per probe and
// sample; layered_chain is the chain alone, with the operands of resident_chain.
#include "chain.h"
#include "cuda/device/pack_weights.h"
#include "cuda/layered/chain.h"
#include "cuda/layered/forward.h"
#include "cuda/layered/inverse.h"

namespace irf::cuda {
namespace {

// A layered walk with what it starts from.
template <class Operands, template <class> class Walk, class T>
struct WalkOf {
  Operands operands;
  Walk<T> walk;

  cudaError_t launch(const Context& context) const { return walk.launch(operands, context); }
};
template <class T>
using ForwardOf = WalkOf<Forward<T>, LayeredForward, T>;
template <class T>
using ChainOf = WalkOf<Chain<T>, LayeredChain, T>;
template <class T>
using InverseOf = WalkOf<Inverse<T>, LayeredInverse, T>;

template <class T>
Operation layered_branch(const Branch<T>& branch, const BranchOperands<T>& op, const Target& target) {
  Workspace workspace;
  const PackedWeights<T> weights(branch, Form::kForward, target.precision, Packing::kOperands, workspace);
  const Forward<T> forward{branch, weights.buffers(), op.x, {}, nullptr, op.g, {}};
  const ForwardOf<T> walk{forward, LayeredForward<T>(forward, target, workspace)};
  return Operation(target, workspace, weights, walk);
}

template <class T>
Operation layered_residual_inverse(const Branch<T>& branch, const ResidualInverseOperands<T>& op,
                                   const Target& target) {
  Workspace workspace;
  const PackedWeights<T> weights(branch, Form::kForward, target.precision, Packing::kOperands, workspace);
  const Inverse<T> inverse{branch, weights.buffers(), op};
  const InverseOf<T> walk{inverse, LayeredInverse<T>(inverse, target, workspace)};
  return Operation(target, workspace, weights, walk);
}

// Linearizes the branch at x (z gets x + g(x), or is null) and runs the chain.
template <class T>
Operation linearized(Chain<T> chain, const T* x, T* z, const Target& target) {
  const Branch<T>& branch = chain.branch;
  Workspace workspace;
  const PackedWeights<T> forward_weights(branch, Form::kForward, target.precision, Packing::kOperands, workspace);
  const PackedWeights<T> transposed(branch, Form::kTransposed, target.precision, Packing::kOperands, workspace);
  for (int i = 0; i < branch.stages; ++i) {
    const Stage<T>& stage = branch.stage[i];
    const bool identity = stage.identity();
    chain.derivatives.push_back(identity ? Buffer<T>()
                                         : workspace.take<T>(rows_size(branch, stage.in_channels, target.precision)));
  }
  chain.weights = (chain.transpose ? transposed : forward_weights).buffers();
  const Forward<T> forward{branch, forward_weights.buffers(), x, chain.derivatives, z, nullptr, {}};
  const ForwardOf<T> walk{forward, LayeredForward<T>(forward, target, workspace)};
  const ChainOf<T> power{chain, LayeredChain<T>(chain, target, workspace)};
  return Operation(target, workspace, forward_weights, transposed, walk, power);
}

template <class T>
Operation layered_residual_logdet(const Branch<T>& branch, const ResidualLogdetOperands<T>& op, const Target& target) {
  Chain<T> chain{};
  chain.branch = branch;
  chain.transpose = true;
  chain.probes = op.probes;
  chain.probe = op.probe;
  chain.series = op.series;
  return linearized(chain, op.x, op.z, target);
}

template <class T>
Operation layered_jacobian_powers(const Branch<T>& branch, const JacobianPowersOperands<T>& op, const Target& target) {
  Chain<T> chain{};
  chain.branch = branch;
  chain.transpose = op.transpose;
  chain.probes = 1;
  chain.probe = op.start;
  chain.series.terms = op.count;
  chain.powers = op.powers;
  chain.power_stride = branch.batch * branch.in_size();
  chain.sample_stride = branch.in_size();
  return linearized<T>(chain, op.x, nullptr, target);
}

// J^T e_j is row j of J.
template <class T>
Operation layered_jacobian(const Branch<T>& branch, const JacobianOperands<T>& op, const Target& target) {
  Chain<T> chain{};
  chain.branch = branch;
  chain.transpose = true;
  chain.probes = static_cast<int>(branch.in_size());
  chain.series.terms = 1;
  chain.powers = op.jacobian;
  chain.probe_stride = branch.in_size();
  chain.sample_stride = branch.in_size() * branch.in_size();
  return linearized<T>(chain, op.x, nullptr, target);
}

}  // namespace

}  // namespace irf::cuda

SIMT_BRANCH_OP(layered_branch, BranchOperands)
SIMT_BRANCH_OP(layered_residual_inverse, ResidualInverseOperands)
SIMT_BRANCH_OP(layered_residual_logdet, ResidualLogdetOperands)
SIMT_BRANCH_OP(layered_jacobian_powers, JacobianPowersOperands)
SIMT_BRANCH_OP(layered_jacobian, JacobianOperands)

namespace {

template <class T>
const char* run_packed(const irf::Branch<T>& branch, const simt::ChainCase& c, const simt::Target& target) {
  return simt::guarded([&] {
    const irf::cuda::Target on = simt::find_target(target);
    const irf::cuda::Chain<T> chain = c.chain(branch);
    irf::cuda::Workspace workspace;
    const irf::cuda::ChainOf<T> power{chain, irf::cuda::LayeredChain<T>(chain, on, workspace)};
    simt::run_op(on.card, irf::cuda::Operation(on, workspace, power));
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
