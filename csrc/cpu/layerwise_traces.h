// The exact first terms of a series layer by layer: the twin of traces.h. To the library the maps with a right stage
// are linear maps that follow those of the stages.
#pragma once

#include "cpu/layerwise_walk.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Adds the exact terms of a slab, whose derivatives are there. They are sums in runs: a sum of sums rounds less than
// one as long. `value`: [B]
template <class T>
void add_trace_values(const LayerWalk<T>& walk, const Traces<T>& traces, T* value) {
  constexpr int64_t kRun = 64 * kLanes<T>;
  for (int i = 0; i < traces.count; ++i) {
    const Trace<T>& trace = traces.trace[i];
    const int64_t numbers = walk.numbers(trace.left), size = numbers / walk.samples;
    const bool alone = trace.right < 0;
    const T* d = walk.stage[trace.left].d;
    const T* others = alone ? trace.map : walk.multiply(walk.stages + i, false, walk.stage[trace.right].d, 1);
    each_share(walk.parallel, walk.samples, numbers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        const T* other = others + (alone ? 0 : s * size);
        Vector<T> sum{};
        for (int64_t from = 0; from < size; from += kRun) {
          Vector<T> run{};
          each_vector<T>(from, min_of(size, from + kRun), [&](int64_t k, int lanes) {
            run = fma(load_first(d + s * size + k, lanes), load_first(other + k, lanes), run);
          });
          sum += run;
        }
        value[walk.first + s] += traces.factor(walk.first + s, i) * sum_lanes<T>(sum);
      }
    });
  }
}

// D and E of an activation whose value tells them; `e` may be null.
template <class T>
void derivative_rows_from_value(Activation activation, const Parallel& parallel, int64_t n, const T* h, T* d, T* e) {
  auto as = [&]<class Act>(Act) {
    using F = FromValue<Act>;
    using M = VectorMath<T>;
    if constexpr (F::possible)
      each_flat_share<T>(parallel, n, [&](int64_t begin, int64_t end) {
        each_vector<T>(begin, end, [&](int64_t k, int lanes) {
          const Vector<T> value = load_first(h + k, lanes), derivative = F::template derivative<M>(value);
          store_first(d + k, derivative, lanes);
          if (e) store_first(e + k, F::template ratio<M>(value) * derivative, lanes);
        });
      });
  };
  switch (activation) {
#define IRF_CASE(name, Struct) \
  case Activation::k##Struct:  \
    return as(Struct{});
    IRF_FOR_EACH_ACTIVATION(IRF_CASE)
#undef IRF_CASE
    case Activation::kCount:
      break;
  }
}

// What the gradient of the traces adds to those of the D_i of a slab, and of the maps.
template <class T>
struct LayerTraceGradients {
  const LayerWalk<T>& walk;
  const Traces<T>& traces;
  const T* weights;  // [B] of the samples
  T* const* result;  // [count] the gradients of the maps
  T** of_d;          // [L] the gradient that arrives at D_i, rows; null where no trace has D_i
  T* scaled;         // rows of D_i

  // Before the forward walk, which then leaves D_i and E_i of the stages that have `of_d`.
  LayerTraceGradients(const LayerWalk<T>& walk_, const Traces<T>& traces_, const T* weights_, T* const* result_,
                      Workspace& workspace)
      : walk(walk_), traces(traces_), weights(weights_), result(result_) {
    of_d = workspace.take_zeroed<T*>(walk.stages);
    int widest = 0;
    for (int i = 0; i < traces.count; ++i) {
      const int of_trace[] = {traces.trace[i].left, traces.trace[i].right};
      for (int stage : of_trace) {
        if (stage < 0 || of_d[stage]) continue;
        const int channels = walk.branch.stage[stage].in_channels;
        of_d[stage] = walk.take_rows(1, channels, workspace);
        StageRows<T>& rows = walk.stage[stage];
        if (!rows.d) rows.d = walk.take_rows(1, channels, workspace);
        if (!walk.branch.stage[stage].straight()) rows.e = walk.take_rows(1, channels, workspace);
        widest = max_of(widest, channels);
      }
    }
    scaled = traces.count > 0 ? walk.take_rows(1, widest, workspace) : nullptr;
  }

  // Fills `of_d` and adds to the gradients of the maps. `recall`: of stages after the first, what was kept is all
  // there is.
  void begin(bool recall) const {
    for (int i = 1; recall && i < walk.stages; ++i)
      if (of_d[i]) derive(i);
    for (int i = 0; i < traces.count; ++i) {
      const Trace<T>& trace = traces.trace[i];
      const T* left = walk.stage[trace.left].d;
      if (trace.right < 0) {
        add_weighted(i, trace.left, trace.map, false, !is_first(i, trace.left), of_d[trace.left]);
        add_sums(i, left);
        continue;
      }
      const T* right = walk.stage[trace.right].d;
      add_weighted(i, trace.left, left, true, false, scaled);
      walk.library.weight_gradient(walk.library.context, walk.stages + i, right, scaled, walk.samples, walk.first > 0,
                                   result[i]);
      const T* product = walk.multiply(walk.stages + i, true, scaled, 1);
      T* const of_right = of_d[trace.right];
      add_rows(walk.parallel, walk.inputs(trace.right), product, {}, is_first(i, trace.right) ? nullptr : of_right,
               of_right);
      product = walk.multiply(walk.stages + i, false, right, 1);
      add_weighted(i, trace.left, product, true, trace.left == trace.right || !is_first(i, trace.left),
                   of_d[trace.left]);
    }
  }

  // s_i += E_i times what arrives at D_i.
  void add_bend(int i, T* s) const {
    const T* e = walk.stage[i].e;
    if (!of_d[i] || !e) return;
    each_flat_share<T>(walk.parallel, walk.numbers(i), [&](int64_t begin, int64_t end) {
      each_vector<T>(begin, end, [&](int64_t k, int lanes) {
        store_first(s + k, fma(load_first(e + k, lanes), load_first(of_d[i] + k, lanes), load_first(s + k, lanes)),
                    lanes);
      });
    });
  }

 private:
  void derive(int i) const {
    const Stage<T>& stage = walk.branch.stage[i];
    const StageRows<T>& rows = walk.stage[i];
    if (known_from_value(stage))
      derivative_rows_from_value(stage.activation, walk.parallel, walk.numbers(i), rows.h, rows.d, rows.e);
    else
      walk.activate(i, rows.a, {}, rows.a + walk.numbers(i), {rows.h, rows.d, rows.et, nullptr, rows.e});
  }

  // Whether no trace before has written the gradient of D_stage.
  bool is_first(int i, int stage) const {
    for (int before = 0; before < i; ++before)
      if (traces.trace[before].left == stage || traces.trace[before].right == stage) return false;
    return true;
  }

  T scale(int i, int64_t s) const { return weights[walk.first + s] * traces.factor(walk.first + s, i); }

  // target = or += `source`, of each sample or the same for all, times what trace i counts in the sample. Rows of the
  // size of a stage.
  void add_weighted(int i, int stage, const T* source, bool of_sample, bool accumulate, T* target) const {
    const int64_t numbers = walk.numbers(stage), size = numbers / walk.samples;
    each_share(walk.parallel, walk.samples, numbers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        const Vector<T> factor = broadcast(scale(i, s));
        const T* from = source + (of_sample ? s * size : 0);
        T* to = target + s * size;
        each_vector<T>(0, size, [&](int64_t k, int lanes) {
          const Vector<T> before = accumulate ? load_first(to + k, lanes) : Vector<T>{};
          store_first(to + k, fma(factor, load_first(from + k, lanes), before), lanes);
        });
      }
    });
  }

  // The gradient of map i, which stands alone beside `d`: sums over samples in blocks, so that long sums round like
  // short ones.
  void add_sums(int i, const T* d) const {
    constexpr int64_t kBlock = 64;
    const int64_t size = traces.trace[i].size;
    if (walk.first == 0) std::memset(result[i], 0, sizeof(T) * size);
    each_share(walk.parallel, size, size * walk.samples, kLanes<T>, [&](int64_t begin, int64_t end) {
      for (int64_t from = 0; from < walk.samples; from += kBlock)
        each_vector<T>(begin, end, [&](int64_t k, int lanes) {
          Vector<T> sum{};
          for (int64_t s = from; s < min_of(walk.samples, from + kBlock); ++s)
            sum = fma(broadcast(scale(i, s)), load_first(d + s * size + k, lanes), sum);
          store_first(result[i] + k, load_first(result[i] + k, lanes) + sum, lanes);
        });
    });
  }
};

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
