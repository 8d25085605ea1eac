#include <algorithm>

#include "cuda/device/progress.h"
#include "cuda/layered/activate.cuh"
#include "cuda/layered/forward.h"
#include "cuda/layered/inverse_step.cuh"
#include "cuda/layered/launch_product.cuh"
#include "cuda/layered/rows.cuh"
#include "cuda/layered/sums.h"

namespace irf::cuda {
namespace {

template <class T>
RowsLayout event_rows(const Branch<T>& branch, Precision precision) {
  return rows_of(branch, branch.stage[0].in_channels, precision);
}

template <class T>
StageProduct<T> last_product(const Branch<T>& branch, Precision precision, const T* packed, const T* h) {
  return product_of<T>(branch, branch.stages - 1, false, precision, packed, h, branch.batch);
}

// One launch of an inverse: its operands and scratch as pointers.
template <class T>
class InverseLaunch {
 public:
  InverseLaunch(const Inverse<T>& inverse, const LayeredInverse<T>& scratch, const Context& context)
      : branch_(inverse.branch),
        weights_(inverse.weights),
        op_(inverse.operands),
        stages_(scratch.stages),
        context_(context),
        events_(event_rows(branch_, context.precision)),
        state_(scratch, context.memory),
        activate_(activation_of(branch_, 0, context.precision, at(context.memory, stages_[0]))) {
    if (!context.progress) op_.max_iterations = std::min(op_.max_iterations, op_.captured_iterations);
    state_.stopped = watched(state_.stopped, op_.max_iterations, context);
    const T *packed = context.memory[weights_.back()], *h = context.memory[stages_.back().h];
    last_ = last_product<T>(branch_, context.precision, packed, h);
    step_.bias = bias_of(branch_, branch_.stages - 1);
    step_.pitch = events_.pitch;
    step_.z = state_.z;
    step_.x = state_.x;
    step_.step = state_.step;
    const int columns = plan_of(last_, context).epilogue_columns;
    step_.sums = ItemSums<T, 1>(context.memory[scratch.partials], last_, columns);
  }

  cudaError_t run() {
    cudaError_t error = to_rows<T>(events_, Events<T>{op_.z, events_.size()},
                                   StoreRows<T>{state_.z, events_.pitch, Precision::kFull}, context_.stream);
    if (error == cudaSuccess)
      error = in_pieces(op_.max_iterations, branch_.batch, state_.stopped, context_,
                        [this](int64_t iteration) { return iterate(iteration); });
    if (error != cudaSuccess) return error;
    return from_rows<T>(events_, LoadRows<T>{state_.x, events_.pitch}, StoreEvents<T>{nullptr, op_.x, events_.size()},
                        context_.stream);
  }

 private:
  cudaError_t iterate(int64_t iteration) {
    const unsigned blocks = static_cast<unsigned>(ceil_div(last_.rows(), int64_t(kRowsThreads / row_lanes(events_))));
    const cudaStream_t stream = context_.stream;
    last_.active = iteration > 0 ? state_.active : nullptr;
    advance_kernel<T><<<blocks, kRowsThreads, 0, stream>>>(state_, events_, iteration == 0, activate_);
    cudaError_t error = layered_hidden(branch_, weights_, stages_, last_.active, context_);
    if (error == cudaSuccess) error = launch_product(last_, step_, context_);
    if (error != cudaSuccess) return error;
    decide_kernel<T><<<step_.sums.blocks(), kItemThreads, 0, stream>>>(state_, step_.sums, op_, iteration);
    if (state_.anderson)
      accelerate_kernel<T>
          <<<static_cast<unsigned>(branch_.batch), kItemThreads, 0, stream>>>(state_, events_, iteration);
    return cudaSuccess;
  }

  const Branch<T>& branch_;
  const std::vector<Buffer<T>>& weights_;
  ResidualInverseOperands<T> op_;
  const std::vector<StageRows<Buffer<T>>>& stages_;
  const Context& context_;
  const RowsLayout events_;
  InverseState<T> state_;
  const Activate<T> activate_;
  StageProduct<T> last_;
  InverseStep<T> step_{};
};

}  // namespace

template <class T>
LayeredInverse<T>::LayeredInverse(const Inverse<T>& inverse, const Target& target, Workspace& workspace)
    : stages(inverse.branch.stages) {
  const Branch<T>& branch = inverse.branch;
  const Precision precision = target.precision;
  share_sums(branch, 1, target, workspace);
  const int64_t size = event_rows(branch, precision).row_elements();
  for (Buffer<T>* rows : {&z, &x, &step}) *rows = workspace.take<T>(size);
  int64_t largest = 0;
  for (int i = 0; i < branch.stages; ++i)
    largest = std::max(largest, rows_of(branch, branch.stage[i].in_channels, precision).row_elements());
  largest = operand_size(largest, precision);
  const Buffer<T> h[] = {workspace.take<T>(largest), workspace.take<T>(largest)};
  for (int i = 0; i < branch.stages; ++i) stages[i].h = h[i % 2];
  const StageProduct<T> product = last_product<T>(branch, precision, nullptr, nullptr);
  partials = workspace.take<T>(ItemSums<T, 1>::size(product, plan_of(product, target).epilogue_columns));
  best = workspace.take<T>(branch.batch);
  waited = workspace.take<int>(branch.batch);
  active = workspace.take<int>(branch.batch);
  stopped = workspace.take<unsigned>(1);
  if (!(inverse.operands.lipschitz > T(0))) return;
  anderson = workspace.take<AndersonState<T>>(branch.batch);
  undone = workspace.take<int>(branch.batch);
  history = workspace.take<T>(2 * kHistory * size);
}

template <class T>
cudaError_t LayeredInverse<T>::launch(const Inverse<T>& inverse, const Context& context) const {
  return inverse.branch.batch == 0 ? cudaSuccess : InverseLaunch<T>(inverse, *this, context).run();
}

template struct LayeredInverse<float>;
template struct LayeredInverse<double>;

}  // namespace irf::cuda
