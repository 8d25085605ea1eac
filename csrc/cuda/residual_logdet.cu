// The ops residual_logdet and jacobian_powers: a branch linearized at x, and one chain on it.
#include "cuda/device/device.cuh"
#include "cuda/engine.h"
#include "cuda/layered/traces.h"
#include "cuda/ops.h"

namespace irf::cuda {
namespace {

constexpr int kMeanThreads = 256;

// value[b] = mean over probes of values[probe][b], in the order of the probes.
template <class T>
__global__ void __launch_bounds__(kMeanThreads)
    mean_over_probes_kernel(const T* values, int probes, int64_t batch, T* value) {
  const int64_t sample = int64_t(blockIdx.x) * kMeanThreads + threadIdx.x;
  if (sample >= batch) return;
  T sum = T(0);
  for (int probe = 0; probe < probes; ++probe) sum += values[probe * batch + sample] / static_cast<T>(probes);
  value[sample] = sum;
}

// Decides the precision of all walks of a call, and so of the rows that are kept. The last term's shortcut is left out:
// it costs as much as the term.
template <class T>
WalkRequest request_of(const ResidualLogdetOperands<T>& op) {
  return {WalkKind::kTransposed, op.probes, op.series.terms, true, op.series.neumann != nullptr};
}

template <class T>
struct MeanOverProbes {
  Buffer<T> values;  // [m, B]; none: of one probe, whose value is in place
  int probes;
  int64_t batch;
  T* value;  // [B]

  cudaError_t launch(const Context& context) const {
    if (!values || batch == 0) return cudaSuccess;
    const unsigned blocks = static_cast<unsigned>(ceil_div(batch, int64_t(kMeanThreads)));
    mean_over_probes_kernel<T>
        <<<blocks, kMeanThreads, 0, context.stream>>>(context.memory[values], probes, batch, value);
    return cudaGetLastError();
  }
};

// Of what is kept, the elements that nobody reads.
template <class T>
struct ClearTail {
  T* tail;
  int count;

  cudaError_t launch(const Context& context) const {
    return tail && count > 0 ? cudaMemsetAsync(tail, 0, sizeof(T) * count, context.stream) : cudaSuccess;
  }
};

}  // namespace

template <class T>
Operation residual_logdet(const Branch<T>& branch, const ResidualLogdetOperands<T>& op, const Target& wanted) {
  const Target target = at_cheapest_precision(branch, request_of(op), wanted);
  Workspace workspace;
  Tangent<T> tangent{};
  const Kept<T> kept(branch, target.precision, op.kept);
  if (op.kept) {
    tangent.v = op.probe;
    tangent.kept = kept.stages;
    tangent.product = workspace.take<T>(rows_size(branch, branch.stage[0].in_channels, target.precision));
  }
  LinearizedBranch<T> linearized(branch, op.x, op.z, tangent, target, workspace);
  Chain<T> chain = linearized.chain(true);
  chain.tangent = tangent.product;
  chain.probes = op.probes;
  chain.probe = op.probe;
  chain.series = op.series;
  if (op.probes > 1) chain.values = workspace.take<T>(chain.items());
  const MeanOverProbes<T> mean{chain.values, op.probes, branch.batch, op.series.value};
  LayeredTraces<T> traces(branch, op.series.traces, chain.derivatives, op.series.value, target, workspace);
  PowerChain<T> power(std::move(chain), target, workspace);
  const ClearTail<T> tail{kept.tail, Kept<T>::tail_size(target.precision)};
  return Operation(target, workspace, tail, std::move(linearized), std::move(power), mean, std::move(traces));
}

template <class T>
int64_t residual_logdet_kept(const Branch<T>& branch, const ResidualLogdetOperands<T>& op, const Target& wanted) {
  const Target target = at_cheapest_precision(branch, request_of(op), wanted);
  const int64_t size = kept_size(branch, target.precision);
  return size * static_cast<int64_t>(sizeof(T)) <= target.card.memory / kKeptShare ? size : 0;
}

template <class T>
Operation jacobian_powers(const Branch<T>& branch, const JacobianPowersOperands<T>& op, const Target& wanted) {
  const WalkRequest request{op.transpose ? WalkKind::kTransposed : WalkKind::kTangent, 1, op.count, false, false};
  const Target target = at_cheapest_precision(branch, request, wanted);
  Workspace workspace;
  LinearizedBranch<T> linearized(branch, op.x, nullptr, {}, target, workspace);
  Chain<T> chain = linearized.chain(op.transpose);
  chain.probes = 1;
  chain.probe = op.start;
  chain.series.terms = op.count;
  chain.powers = op.powers;
  chain.sample_stride = branch.in_size();
  chain.power_stride = branch.batch * branch.in_size();
  PowerChain<T> power(std::move(chain), target, workspace);
  return Operation(target, workspace, std::move(linearized), std::move(power));
}

#define IRF_INSTANTIATE(T)                                                                                  \
  template Operation residual_logdet(const Branch<T>&, const ResidualLogdetOperands<T>&, const Target&);    \
  template int64_t residual_logdet_kept(const Branch<T>&, const ResidualLogdetOperands<T>&, const Target&); \
  template Operation jacobian_powers(const Branch<T>&, const JacobianPowersOperands<T>&, const Target&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
