// The ops residual_logdet and jacobian_powers: a branch frozen at x, and one chain on it.
#include "cuda/device/device.cuh"
#include "cuda/frozen.h"

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
cudaError_t run(const Branch<T>& branch, const ResidualLogdetOperands<T>& op, Context context, Carver& carver) {
  context = at_cheapest_precision(branch, request_of(op), context);
  const Kept<T> kept(branch, context.precision, op.kept);
  Tangent<T> tangent{};
  if (op.kept) {
    const int pitch = channel_pad(branch.stage[0].in_channels, context.precision);
    tangent = {op.probe, kept.stages.data(), carver.take<T>(branch.batch * branch.pixels() * pitch)};
  }
  const Frozen<T> frozen(branch, op.x, op.z, true, tangent, context, carver);
  Chain<T> chain = frozen.chain();
  chain.tangent = tangent.product;
  chain.probes = op.probes;
  chain.probe = op.probe;
  chain.series = op.series;
  if (op.probes > 1) chain.series.value = carver.take<T>(chain.items());
  const PlannedChain<T> planned(chain, context, carver);
  if (carver.counting()) return cudaSuccess;
  cudaError_t error = frozen.freeze();
  if (error == cudaSuccess) error = planned.run();
  if (error != cudaSuccess || op.probes == 1 || branch.batch == 0) return error;
  const unsigned blocks = static_cast<unsigned>(ceil_div(branch.batch, int64_t(kMeanThreads)));
  mean_over_probes_kernel<T>
      <<<blocks, kMeanThreads, 0, context.stream>>>(chain.series.value, op.probes, branch.batch, op.series.value);
  return cudaGetLastError();
}

template <class T>
cudaError_t run(const Branch<T>& branch, const JacobianPowersOperands<T>& op, Context context, Carver& carver) {
  const WalkRequest request{op.transpose ? WalkKind::kTransposed : WalkKind::kTangent, 1, op.count, false, false};
  context = at_cheapest_precision(branch, request, context);
  const Frozen<T> frozen(branch, op.x, nullptr, op.transpose, {}, context, carver);
  Chain<T> chain = frozen.chain();
  chain.probes = 1;
  chain.probe = op.start;
  chain.series.terms = op.count;
  chain.powers = op.powers;
  chain.sample_stride = branch.in_size();
  chain.power_stride = branch.batch * branch.in_size();
  const PlannedChain<T> planned(chain, context, carver);
  if (carver.counting()) return cudaSuccess;
  const cudaError_t error = frozen.freeze();
  return error == cudaSuccess ? planned.run() : error;
}

}  // namespace

template <class T>
size_t residual_logdet_workspace(const Branch<T>& branch, const ResidualLogdetOperands<T>& op, const Card& card,
                                 Precision precision) {
  Carver carver(nullptr);
  run(branch, op, Context{card, precision, nullptr, nullptr}, carver);
  return carver.used();
}

template <class T>
cudaError_t residual_logdet(const Branch<T>& branch, const ResidualLogdetOperands<T>& op, const Context& context) {
  Carver carver(context.workspace);
  return run(branch, op, context, carver);
}

template <class T>
int64_t residual_logdet_kept(const Branch<T>& branch, const ResidualLogdetOperands<T>& op, const Card& card,
                             Precision precision) {
  const Context context = at_cheapest_precision(branch, request_of(op), Context{card, precision, nullptr, nullptr});
  const int64_t size = kept_size(branch, context.precision);
  return size * static_cast<int64_t>(sizeof(T)) <= card.memory / kKeptShare ? size : 0;
}

template <class T>
size_t jacobian_powers_workspace(const Branch<T>& branch, const JacobianPowersOperands<T>& op, const Card& card,
                                 Precision precision) {
  Carver carver(nullptr);
  run(branch, op, Context{card, precision, nullptr, nullptr}, carver);
  return carver.used();
}

template <class T>
cudaError_t jacobian_powers(const Branch<T>& branch, const JacobianPowersOperands<T>& op, const Context& context) {
  Carver carver(context.workspace);
  return run(branch, op, context, carver);
}

#define IRF_INSTANTIATE(T)                                                                                           \
  template size_t residual_logdet_workspace(const Branch<T>&, const ResidualLogdetOperands<T>&, const Card&,         \
                                            Precision);                                                              \
  template cudaError_t residual_logdet(const Branch<T>&, const ResidualLogdetOperands<T>&, const Context&);          \
  template int64_t residual_logdet_kept(const Branch<T>&, const ResidualLogdetOperands<T>&, const Card&, Precision); \
  template size_t jacobian_powers_workspace(const Branch<T>&, const JacobianPowersOperands<T>&, const Card&,         \
                                            Precision);                                                              \
  template cudaError_t jacobian_powers(const Branch<T>&, const JacobianPowersOperands<T>&, const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
