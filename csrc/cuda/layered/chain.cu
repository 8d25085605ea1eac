#include <algorithm>

#include "cuda/device/progress.h"
#include "cuda/layered/chain.h"
#include "cuda/layered/chain_step.cuh"
#include "cuda/layered/launch_product.cuh"
#include "cuda/layered/rows.cuh"
#include "cuda/layered/series.cuh"
#include "cuda/layered/sums.h"
#include "cuda/layered/terms.h"

namespace irf::cuda {
namespace {

// Sources and sinks of the conversions.
template <class T>
struct UnitProbes {
  int64_t first, samples;
  __device__ T operator()(int64_t item, int64_t offset) const { return offset == first + item / samples ? T(1) : T(0); }
};

template <class T>
struct NeumannRows {
  const T *even, *odd;
  int pitch;
  const int64_t* terms_used;
  __device__ Vector<T> operator()(const RowPlace& place, int column) const {
    const int64_t used = terms_used[place.item];
    const T* y = used > 0 && used % 2 == 0 ? odd : even;  // y after term used - 1
    return load16(y + place.row * pitch + column);
  }
};

template <class T>
struct StorePower {
  T* power;
  int64_t samples, probe_stride, sample_stride;
  __device__ void operator()(int64_t item, int64_t offset, T value) const {
    const int64_t probe = item / samples;
    power[probe * probe_stride + (item - probe * samples) * sample_stride + offset] = value;
  }
};

template <class T>
RowsLayout event_rows(const Chain<T>& chain, Precision precision) {
  return rows_of(chain.branch, chain.branch.stage[0].in_channels, precision, chain.probes);
}

// The product that ends a term.
template <class T>
StageProduct<T> last_product(const Chain<T>& chain, Precision precision) {
  const int last = chain.transpose ? 0 : chain.branch.stages - 1;
  return product_of<T>(chain.branch, last, chain.transpose, precision, nullptr, nullptr, chain.items());
}

// One launch of a chain: its operands and scratch as pointers, and how far it is.
template <class T>
class ChainLaunch {
 public:
  ChainLaunch(const Chain<T>& chain, const LayeredChain<T>& scratch, const Context& context)
      : chain_(chain), context_(context), events_(event_rows(chain, context.precision)) {
    const Memory& memory = context.memory;
    for (int i = 0; i < 2; ++i) {
      states_[i] = memory[scratch.state[i]];
      y_[i] = memory[scratch.y[i]];
    }
    start_ = memory[scratch.start];
    w_ = memory[scratch.w];
    if (!chain.series.value) return;
    const StageProduct<T> product = last_product(chain, context.precision);
    sums_ = ItemSums<T, 2>(memory[scratch.partials], product, plan_of(product, context).epilogue_columns);
    last_ = memory[scratch.last];
    // Asking costs a load before every tile, and pays only where items stop early. In a capture they do: it may hold
    // more terms than a roulette draws.
    const bool captured = !context.progress;
    active_ = chain.series.tail || chain.series.per_sample || captured ? last_ : nullptr;
    stopped_ = chain.series.tail ? watched(memory[scratch.stopped], chain.series.terms - 1, context) : nullptr;
    series_ = {chain.series_of_items(memory), chain.items(), chain.branch.batch,
               memory[scratch.limit],         last_,         stopped_};
  }

  cudaError_t run() {
    cudaError_t error = start();
    if (error == cudaSuccess)
      error = in_pieces(chain_.series.terms - 1, chain_.items(), stopped_, context_,
                        [this](int64_t step) { return term(static_cast<int>(step) + 1); });
    if (!chain_.series.neumann || error != cudaSuccess) return error;
    const NeumannRows<T> y{y_[0], y_[1], events_.pitch, chain_.series.terms_used};
    return from_rows<T>(events_, y, StoreEvents<T>{nullptr, chain_.series.neumann, events_.size()}, context_.stream);
  }

 private:
  bool series() const { return chain_.series.value != nullptr; }
  const T* derivative(int stage) const { return context_.memory[chain_.derivatives[stage]]; }

  // q_{k + 1}, signed, for y after term k; none where the trace takes the place of term k + 1.
  void set_neumann(ChainStep<T>& step, int k) const {
    if (!chain_.series.neumann) return;
    step.y = y_[k % 2];
    step.y_before = k > 0 ? y_[(k - 1) % 2] : nullptr;
    const bool estimated = k >= chain_.series.traces.count && k < chain_.series.terms;
    step.q = estimated ? chain_.series.coefficients + k : nullptr;
    step.q_stride = chain_.series.per_sample ? chain_.series.terms : 0;
    step.sign = k % 2 ? T(-1) : T(1);
  }

  cudaError_t start() {
    ChainStep<T> entry{};
    entry.pitch = events_.pitch;
    entry.d = chain_.transpose ? nullptr : derivative(0);
    if (series()) entry.result = start_;
    entry.out = state_ = states_[1];
    entry.precision = context_.precision;
    if (series()) set_neumann(entry, 0);
    const cudaError_t error =
        chain_.probe ? to_rows<T>(events_, Events<T>{chain_.probe, events_.size()}, entry, context_.stream)
                     : to_rows<T>(events_, UnitProbes<T>{chain_.first_unit, events_.samples}, entry, context_.stream);
    if (error != cudaSuccess || !series() || events_.items == 0) return error;
    const unsigned blocks = static_cast<unsigned>(ceil_div(events_.items, int64_t(kItemThreads / kWarp)));
    start_series_kernel<T>
        <<<blocks, kItemThreads, 0, context_.stream>>>(series_, start_, int64_t(events_.pixels) * events_.pitch);
    return cudaGetLastError();
  }

  cudaError_t term(int k) {
    const int stages = chain_.branch.stages;
    const bool last_term = k == chain_.series.terms;
    if (last_term && chain_.tangent) return shortcut(k == 1 ? start_ : w_);
    for (int i = 0; i < stages; ++i) {
      const bool last = i == stages - 1;
      const int stage = chain_.transpose ? stages - 1 - i : i;
      const T* packed = context_.memory[chain_.weights[stage]];
      StageProduct<T> product =
          product_of(chain_.branch, stage, chain_.transpose, context_.precision, packed, state_, chain_.items());
      product.active = active_;  // of the first term all items are
      product.least = k;
      ChainStep<T> step{};
      step.pitch = product.columns;
      step.d = derivative(chain_.transpose ? stage : (i + 1) % stages);
      step.precision = context_.precision;
      if (last && chain_.powers) (chain_.transpose ? step.result : step.product) = w_;
      // The last product that a term is computed with; a shortcut reads w_{n-1} itself.
      const bool shortcut_next = chain_.tangent && k + 1 == chain_.series.terms;
      if (last && shortcut_next) step.result = w_;
      if (!last || !(last_term || shortcut_next)) step.out = state_ = state_ == states_[0] ? states_[1] : states_[0];
      if (last && series()) {
        step.v = start_;
        step.active = last_;
        step.term = k;
        step.sums = sums_.number(chain_.series.tail ? 0 : (k - 1) % kTermsAtOnce);
        if (!last_term) set_neumann(step, k);
      }
      const cudaError_t error = launch_product(product, step, context_);
      if (error != cudaSuccess) return error;
    }
    return events_.items == 0 ? cudaSuccess : finish(k);
  }

  cudaError_t shortcut(const T* w) {
    if (events_.items == 0) return cudaSuccess;
    const unsigned blocks = static_cast<unsigned>(ceil_div(events_.items, int64_t(kItemThreads / kWarp)));
    shortcut_kernel<T><<<blocks, kItemThreads, 0, context_.stream>>>(series_, w, context_.memory[chain_.tangent],
                                                                     int64_t(events_.pixels) * events_.pitch);
    return cudaGetLastError();
  }

  cudaError_t finish(int k) {
    const int first = chain_.series.tail ? k : (k - 1) / kTermsAtOnce * kTermsAtOnce + 1;
    const int walked = chain_.series.terms - (chain_.tangent ? 1 : 0);
    if (series() && (chain_.series.tail || k % kTermsAtOnce == 0 || k == walked))
      finish_terms_kernel<T><<<sums_.blocks(), kItemThreads, 0, context_.stream>>>(series_, sums_, first, k);
    if (!chain_.powers) return cudaGetLastError();
    const StorePower<T> store{chain_.powers + (k - 1) * chain_.power_stride, events_.samples, chain_.probe_stride,
                              chain_.sample_stride};
    const LoadRows<T> power{w_, events_.pitch};
    return from_rows<T>(events_, power, store, context_.stream);
  }

  const Chain<T>& chain_;
  const Context& context_;
  const RowsLayout events_;
  T *start_, *states_[2], *y_[2], *w_;  // as in LayeredChain
  // Of a series; else none.
  SeriesState<T> series_{};
  ItemSums<T, 2> sums_{};
  int* last_ = nullptr;
  const int* active_ = nullptr;  // null: every item takes every product
  unsigned* stopped_ = nullptr;
  T* state_ = nullptr;  // the operand of the next product
};

}  // namespace

template <class T>
LayeredChain<T>::LayeredChain(const Chain<T>& chain, const Target& target, Workspace& workspace) {
  share_sums(chain.branch, chain.probes, target, workspace);
  const RowsLayout events = event_rows(chain, target.precision);
  const int64_t size = events.row_elements(), items = chain.items();
  int64_t largest = 0;
  for (int i = 0; i < chain.branch.stages; ++i)
    largest = std::max(largest, int64_t(channel_pad(chain.branch.stage[i].in_channels, target.precision)));
  for (Buffer<T>& s : state) s = workspace.take<T>(operand_size(items * events.pixels * largest, target.precision));
  w = workspace.take<T>(size);
  if (!chain.series.value) return;
  start = workspace.take<T>(size);
  const StageProduct<T> product = last_product(chain, target.precision);
  const int columns = plan_of(product, target).epilogue_columns;
  const int at_once = chain.series.tail ? 1 : std::clamp(chain.series.terms, 1, kTermsAtOnce);
  partials = workspace.take<T>(at_once * ItemSums<T, 2>::size(product, columns));
  last = workspace.take<int>(items);
  for (Buffer<T>& buffer : y)
    if (chain.series.neumann) buffer = workspace.take<T>(size);
  if (!chain.series.tail) return;
  limit = workspace.take<T>(items);
  stopped = workspace.take<unsigned>(1);
}

template <class T>
cudaError_t LayeredChain<T>::launch(const Chain<T>& chain, const Context& context) const {
  return ChainLaunch<T>(chain, *this, context).run();
}

template struct LayeredChain<float>;
template struct LayeredChain<double>;

}  // namespace irf::cuda
