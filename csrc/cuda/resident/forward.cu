#include "cuda/resident/forward.cuh"

namespace irf::cuda {

template <>
cudaError_t launch_resident_forward(const ForwardArguments<float>& p, const Context& context) {
  if (p.plan.precision != Precision::kFull) return launch_resident_forward_tensor(p, context);
  return with_float_tiles(p.plan, [&](auto tiles) { return launch_forward<decltype(tiles)>(p, context); });
}

template <class T>
cudaError_t resident_forward(const Forward<T>& forward, const ResidentPlan& plan, const Context& context) {
  const Memory& memory = context.memory;
  ForwardArguments<T> p(forward.branch, forward.weights, plan, memory);
  for (int i = 0; i < plan.stages && !forward.derivatives.empty(); ++i)
    p.derivative[i] = memory[forward.derivatives[i]];
  p.x = forward.x;
  p.z = forward.z;
  p.g = forward.g;
  p.v = forward.tangent.v;
  p.tangent_product = memory[forward.tangent.product];
  for (int i = 1; i < plan.stages && p.v; ++i) p.kept[i] = forward.tangent.kept[i];
  return launch_resident_forward(p, context);
}

template <class T>
cudaError_t resident_inverse(const Inverse<T>& inverse, const ResidentPlan& plan, const ResidentHistory<T>& history,
                             const Context& context) {
  const ResidualInverseOperands<T>& operands = inverse.operands;
  ForwardArguments<T> p(inverse.branch, inverse.weights, plan, context.memory);
  p.x = operands.z;
  p.inverse = true;
  p.solution = operands.x;
  p.residual_limit = operands.residual_limit;
  p.max_iterations = operands.max_iterations;
  p.lipschitz = operands.lipschitz;
  p.anderson = context.memory[history.state];
  p.history = context.memory[history.vectors];
  p.iterations = operands.iterations;
  p.residual = operands.residual;
  return launch_resident_forward(p, context);
}

#define IRF_INSTANTIATE(T)                                                                                 \
  template cudaError_t resident_forward(const Forward<T>&, const ResidentPlan&, const Context&);           \
  template cudaError_t resident_inverse(const Inverse<T>&, const ResidentPlan&, const ResidentHistory<T>&, \
                                        const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
