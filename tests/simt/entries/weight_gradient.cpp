// weight_gradient and gather_gradients on one stage, as C functions that Python calls.
#include "cuda/layered/weight_gradient.h"

#include "entry.h"

namespace {

// The mirror is in test_weight_gradient.py.
template <class T>
struct Problem {
  irf::cuda::WeightGradient<T> gradient;
  const T *bias, *beta;  // bias: only whether there is one
  T* result;
};

template <class T>
struct Run {
  irf::cuda::WeightGradient<T> gradient;
  irf::cuda::Buffer<T> partial;
  irf::Branch<T> branch;
  T* result;

  cudaError_t launch(const irf::cuda::Context& context) const {
    irf::cuda::WeightGradient<T> here = gradient;
    here.partial = context.memory[partial];
    const cudaError_t error = irf::cuda::weight_gradient(here, context.stream);
    return error == cudaSuccess ? irf::cuda::gather_gradients(branch, &here, result, context.stream) : error;
  }
};

template <class T>
void run(const Problem<T>& problem, size_t bytes, const simt::Target& target, int64_t* splits) {
  simt::check_size(bytes, sizeof problem, "weight_gradient.cpp");
  const irf::cuda::Target on = simt::find_target(target);
  irf::cuda::WeightGradient<T> gradient = problem.gradient;
  *splits = gradient.splits = irf::cuda::weight_gradient_splits(gradient, on.card);
  const irf::Stage<T> stage{irf::Activation::kLipSwish,
                            gradient.in_channels,
                            gradient.out_channels,
                            gradient.kernel,
                            nullptr,
                            problem.bias,
                            problem.beta};
  const irf::Branch<T> branch{1, &stage, gradient.height, gradient.width, 0};
  irf::cuda::Workspace workspace;
  const auto partial = workspace.take<T>(gradient.splits * gradient.partial_size());
  simt::run_op(on.card, irf::cuda::Operation(on, workspace, Run<T>{gradient, partial, branch, problem.result}));
}

}  // namespace

#define SIMT_WEIGHT_GRADIENT(T)                                                                                        \
  extern "C" SIMT_EXPORT const char* weight_gradient_##T(const Problem<T>* problem, size_t bytes, simt::Target target, \
                                                         int64_t* splits) {                                            \
    return simt::guarded([&] { run(*problem, bytes, target, splits); });                                               \
  }
SIMT_WEIGHT_GRADIENT(float)
SIMT_WEIGHT_GRADIENT(double)
