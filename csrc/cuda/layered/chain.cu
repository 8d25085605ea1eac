#include <algorithm>

#include "cuda/device/progress.h"
#include "cuda/layered/chain.h"
#include "cuda/layered/chain_step.cuh"
#include "cuda/layered/rows.cuh"

namespace irf::cuda {
namespace {

// A series and the state of its items.
template <class T>
struct SeriesState : Series<T> {
  int64_t items, samples;
  T* limit;           // [items] of the norm of a term times its tail
  int* last;          // [items] the term an item ends with at the latest; 0: it has stopped
  unsigned* stopped;  // how many items have; or null

  __device__ __forceinline__ const T* q(int64_t item) const { return this->coefficients_of(item % samples); }
};

// Before the first term: |v| sets the limit, and is the norm of an empty series.
template <class T>
__global__ void __launch_bounds__(kItemThreads)
    start_series_kernel(const SeriesState<T> series, const T* v, int64_t size) {
  const int64_t item = int64_t(blockIdx.x) * (kItemThreads / kWarp) + threadIdx.x / kWarp;
  if (item >= series.items) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  T square = T(0);
  for (int64_t i = lane * kVector<T>; i < size; i += kWarp * kVector<T>) {
    const Vector<T> part = load16_readonly(v + item * size + i);
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) square += part[e] * part[e];
  }
  const T length = sqrt(sum_lanes(square));
  if (lane != 0) return;
  if (series.tail) series.limit[item] = series.relative ? series.tolerance * length : series.tolerance / length;
  series.last[item] = last_term(series.q(item), series.terms);
  if (series.terms == 0) {
    series.value[item] = T(0);
    series.norms[item] = length;
    series.terms_used[item] = 0;
  }
}

// After term k: adds up the items' sums and decides which of them go on.
template <class T>
__global__ void __launch_bounds__(kItemThreads)
    finish_term_kernel(const SeriesState<T> series, const ItemSums<T, 2> sums, int k) {
  int64_t item;
  T values[2];
  if (!sums.gather(item, values) || !series.last[item]) return;
  const T q = series.q(item)[k - 1];
  const T norm = sqrt(values[1]);
  series.value[item] = (k == 1 ? T(0) : series.value[item]) + (k % 2 ? q : -q) / static_cast<T>(k) * values[0];
  series.norms[item] = norm;
  series.terms_used[item] = k;
  if (k < series.last[item] && !(series.tail && norm * series.tail[k - 1] <= series.limit[item])) return;
  series.last[item] = 0;
  if (series.stopped) atomicAdd(series.stopped, 1u);
}

// The last term of one probe, from w_{n-1} and J v.
template <class T>
__global__ void __launch_bounds__(kItemThreads)
    shortcut_kernel(const SeriesState<T> series, const T* w, const T* tangent, int64_t size) {
  const int64_t item = int64_t(blockIdx.x) * (kItemThreads / kWarp) + threadIdx.x / kWarp;
  if (item >= series.items || !series.last[item]) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, n = series.terms;
  T dot = T(0), square = T(0);
  for (int64_t i = item * size + lane * kVector<T>; i < (item + 1) * size; i += kWarp * kVector<T>) {
    const Vector<T> left = load16_readonly(w + i), right = load16_readonly(tangent + i);
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) {
      dot += left[e] * right[e];
      square += left[e] * left[e];
    }
  }
  dot = sum_lanes(dot);
  square = sum_lanes(square);
  if (lane != 0) return;
  const T q = series.q(item)[n - 1];
  series.value[item] = (n == 1 ? T(0) : series.value[item]) + (n % 2 ? q : -q) / static_cast<T>(n) * dot;
  series.norms[item] = sqrt(square);
  series.terms_used[item] = n;
}

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

// Launches of one chain.
template <class T>
class LayeredChain {
 public:
  LayeredChain(const Chain<T>& chain, const LayeredChainScratch<T>& scratch, const Context& context)
      : chain_(chain), scratch_(scratch), context_(context), events_(event_rows(chain, context.precision)) {
    const StageProduct<T> product = last_product(chain, context.precision);
    sums_ = ItemSums<T, 2>(scratch.partials, product, product_columns(product, context.precision, context.card));
    // Asking costs a load before every tile, and pays only where items stop early. In a capture they do: it may hold
    // more terms than a roulette draws.
    const bool captured = !context.progress;
    active_ = series() && (chain.series.tail || chain.series.per_sample || captured) ? scratch.last : nullptr;
    stopped_ = series() && chain.series.tail ? watched(scratch.stopped, chain.series.terms - 1, context) : nullptr;
  }

  cudaError_t run() {
    cudaError_t error = start();
    if (error == cudaSuccess)
      error = in_pieces(chain_.series.terms - 1, chain_.items(), stopped_, context_,
                        [this](int64_t step) { return term(static_cast<int>(step) + 1); });
    if (!chain_.series.neumann || error != cudaSuccess) return error;
    const NeumannRows<T> y{scratch_.y[0], scratch_.y[1], events_.pitch, chain_.series.terms_used};
    return from_rows<T>(events_, y, StoreEvents<T>{nullptr, chain_.series.neumann, events_.size()}, context_.stream);
  }

 private:
  bool series() const { return chain_.series.value != nullptr; }
  const T* derivative(int stage) const { return chain_.derivatives[stage]; }

  // q_{k + 1}, signed, for y after term k.
  void set_neumann(ChainStep<T>& step, int k) const {
    if (!chain_.series.neumann) return;
    step.y = scratch_.y[k % 2];
    step.y_before = k > 0 ? scratch_.y[(k - 1) % 2] : nullptr;
    step.q = k < chain_.series.terms ? chain_.series.coefficients + k : nullptr;
    step.q_stride = chain_.series.per_sample ? chain_.series.terms : 0;
    step.sign = k % 2 ? T(-1) : T(1);
  }

  SeriesState<T> series_state() const {
    return {chain_.series, chain_.items(), chain_.branch.batch, scratch_.limit, scratch_.last, stopped_};
  }

  cudaError_t start() {
    ChainStep<T> entry{};
    entry.pitch = events_.pitch;
    entry.d = chain_.transpose ? nullptr : derivative(0);
    entry.out = scratch_.start;
    if (series()) set_neumann(entry, 0);
    const cudaError_t error =
        chain_.probe ? to_rows<T>(events_, Events<T>{chain_.probe, events_.size()}, entry, context_.stream)
                     : to_rows<T>(events_, UnitProbes<T>{chain_.first_unit, events_.samples}, entry, context_.stream);
    if (error != cudaSuccess || !series() || events_.items == 0) return error;
    const unsigned blocks = static_cast<unsigned>(ceil_div(events_.items, int64_t(kItemThreads / kWarp)));
    start_series_kernel<T><<<blocks, kItemThreads, 0, context_.stream>>>(series_state(), scratch_.start,
                                                                         int64_t(events_.pixels) * events_.pitch);
    return cudaGetLastError();
  }

  cudaError_t term(int k) {
    const int stages = chain_.branch.stages;
    const bool last_term = k == chain_.series.terms;
    const T* from = k == 1 ? scratch_.start : state_;
    if (last_term && chain_.tangent) return shortcut(from);
    for (int i = 0; i < stages; ++i) {
      const bool last = i == stages - 1;
      const int stage = chain_.transpose ? stages - 1 - i : i;
      StageProduct<T> product = product_of(chain_.branch, stage, chain_.transpose, context_.precision,
                                           chain_.weights[stage], from, chain_.items());
      // The rows of a block left out are still read by its neighbours, so they must have been written once; with one
      // stage it takes two terms to write both states.
      product.active = stages > 1 || k > 2 ? active_ : nullptr;
      ChainStep<T> step{};
      step.pitch = product.columns;
      step.d = derivative(chain_.transpose ? stage : (i + 1) % stages);
      step.out = from == scratch_.state[0] ? scratch_.state[1] : scratch_.state[0];
      if (last && chain_.powers && !chain_.transpose) step.product = scratch_.power;
      if (last && series()) {
        step.v = scratch_.start;
        step.sums = sums_;
        step.active = scratch_.last;
        if (!last_term) set_neumann(step, k);
      }
      from = state_ = step.out;
      if (last && last_term && !(chain_.powers && chain_.transpose)) step.out = nullptr;
      const cudaError_t error = stage_product(product, step, context_.precision, context_.card, context_.stream);
      if (error != cudaSuccess) return error;
    }
    return events_.items == 0 ? cudaSuccess : finish(k);
  }

  cudaError_t shortcut(const T* w) {
    if (events_.items == 0) return cudaSuccess;
    const unsigned blocks = static_cast<unsigned>(ceil_div(events_.items, int64_t(kItemThreads / kWarp)));
    shortcut_kernel<T><<<blocks, kItemThreads, 0, context_.stream>>>(series_state(), w, chain_.tangent,
                                                                     int64_t(events_.pixels) * events_.pitch);
    return cudaGetLastError();
  }

  cudaError_t finish(int k) {
    if (series()) finish_term_kernel<T><<<sums_.blocks(), kItemThreads, 0, context_.stream>>>(series_state(), sums_, k);
    if (!chain_.powers) return cudaGetLastError();
    const StorePower<T> store{chain_.powers + (k - 1) * chain_.power_stride, events_.samples, chain_.probe_stride,
                              chain_.sample_stride};
    const Rows<T> power{chain_.transpose ? state_ : scratch_.power, events_.pitch};
    return from_rows<T>(events_, power, store, context_.stream);
  }

  const Chain<T>& chain_;
  const LayeredChainScratch<T>& scratch_;
  const Context& context_;
  const RowsLayout events_;
  ItemSums<T, 2> sums_;
  const int* active_;  // null: every item takes every product
  unsigned* stopped_;
  T* state_ = nullptr;  // the newest product
};

}  // namespace

template <class T>
LayeredChainScratch<T>::LayeredChainScratch(const Chain<T>& chain, Precision precision, const Card& card,
                                            Carver& carver) {
  const RowsLayout events = event_rows(chain, precision);
  const int64_t size = events.row_elements(), items = chain.items();
  int64_t largest = 0;
  for (int i = 0; i < chain.branch.stages; ++i)
    largest = std::max(largest, int64_t(channel_pad(chain.branch.stage[i].in_channels, precision)));
  const bool series = chain.series.value != nullptr;
  const StageProduct<T> product = last_product(chain, precision);
  start = carver.take<T>(size);
  for (T*& s : state) s = carver.take<T>(items * events.pixels * largest);
  power = chain.powers && !chain.transpose ? carver.take<T>(size) : nullptr;
  for (T*& buffer : y) buffer = series && chain.series.neumann ? carver.take<T>(size) : nullptr;
  partials =
      series ? carver.take<T>(ItemSums<T, 2>::size(product, product_columns(product, precision, card))) : nullptr;
  limit = series && chain.series.tail ? carver.take<T>(items) : nullptr;
  last = series ? carver.take<int>(items) : nullptr;
  stopped = series && chain.series.tail ? carver.take<unsigned>(1) : nullptr;
}

template <class T>
cudaError_t layered_chain(const Chain<T>& chain, const LayeredChainScratch<T>& scratch, const Context& context) {
  return LayeredChain<T>(chain, scratch, context).run();
}

#define IRF_INSTANTIATE(T)                \
  template struct LayeredChainScratch<T>; \
  template cudaError_t layered_chain<T>(const Chain<T>&, const LayeredChainScratch<T>&, const Context&);
IRF_INSTANTIATE(float)
IRF_INSTANTIATE(double)
#undef IRF_INSTANTIATE

}  // namespace irf::cuda
