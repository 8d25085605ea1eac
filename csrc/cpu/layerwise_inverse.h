// x with x + g(x) = z layer by layer: the twin of residual_inverse.h and anderson.h, whose comments say what is
// decided. A slab is evaluated until its last sample has stopped.
#pragma once

#include "cpu/layerwise_walk.h"
#include "iresnet_fast/anderson.h"

namespace irf {
namespace IRF_ISA {
namespace {

// The iteration of one sample, whose events are `size` numbers each.
template <class T>
struct LayerIteration {
  AndersonState<T> anderson;
  T best;
  int waited;
  bool active;
  int newest;  // place of the newest iterate in the history, which goes round

  static int place(int newest, int age) { return (newest + age) % kHistory; }
};

// Iterates and residuals of one sample, [kHistory][size] each.
template <class T>
struct LayerHistory {
  T *x, *r;
  int64_t size;

  void push(int at, const T* x_now, const T* r_now) const {
    std::memcpy(x + at * size, x_now, sizeof(T) * size);
    std::memcpy(r + at * size, r_now, sizeof(T) * size);
  }
  void recall(int at, T* x_now, T* r_now) const {
    std::memcpy(x_now, x + at * size, sizeof(T) * size);
    std::memcpy(r_now, r + at * size, sizeof(T) * size);
  }

  // Makes of the newest residual the step of Anderson's method, over `seen` iterates.
  void step(int newest, int seen, T* move) const {
    const int window = min_of(seen - 1, kWindow);
    Vector<T> sum[kStepSums] = {};
    const T* residual[kHistory];
    const T* iterate[kHistory];
    for (int i = 0; i < kHistory; ++i) {
      residual[i] = r + LayerIteration<T>::place(newest, min_of(i, window)) * size;
      iterate[i] = x + LayerIteration<T>::place(newest, min_of(i, window)) * size;
    }
    each_vector<T>(0, size, [&](int64_t k, int lanes) {
      Vector<T> difference[kWindow], value[kHistory];
      for (int i = 0; i < kHistory; ++i) value[i] = load_first(residual[i] + k, lanes);
      for (int i = 0; i < kWindow; ++i) difference[i] = value[i] - value[i + 1];
      for (int i = 0; i < kWindow; ++i) {
        for (int j = 0; j <= i; ++j) sum[gram_place(i, j)] = fma(difference[i], difference[j], sum[gram_place(i, j)]);
        sum[kGram + i] = fma(difference[i], value[0], sum[kGram + i]);
      }
    });
    T sums[kStepSums], weight[kWindow] = {};
    for (int i = 0; i < kStepSums; ++i) sums[i] = sum_lanes<T>(sum[i]);
    least_squares(sums, seen, weight);
    each_vector<T>(0, size, [&](int64_t k, int lanes) {
      Vector<T> value = load_first(residual[0] + k, lanes);
      for (int i = 0; i < window; ++i)
        value -= weight[i] * (load_first(iterate[i] + k, lanes) - load_first(iterate[i + 1] + k, lanes) +
                              (load_first(residual[i] + k, lanes) - load_first(residual[i + 1] + k, lanes)));
      store_first(move + k, value, lanes);
    });
  }
};

template <class T>
void layerwise_residual_inverse(const Branch<T>& branch, const ResidualInverseOperands<T>& op, const Parallel& parallel,
                                const LibraryProducts<T>& library) {
  Workspace workspace;
  LayerWalk<T> walk(branch, parallel, library, Leaves::kValue, Holds::kShared, 0, 0, workspace);
  const int channels = branch.stage[0].in_channels;
  const T* const none = nullptr;
  const int64_t size = walk.size();
  const bool accelerate = op.lipschitz > T(0);
  T* const x = walk.take_rows(1, channels, workspace);
  T* const g = walk.take_rows(1, channels, workspace);
  T* const r = walk.take_rows(1, channels, workspace);
  T* const history = accelerate ? walk.take_rows(2 * kHistory, channels, workspace) : nullptr;
  auto* const samples = workspace.take<LayerIteration<T>>(walk.most_samples);

  for_each_slab(walk, [&](int64_t first) {
    const T* z = op.z + first * size;
    std::memcpy(x, z, sizeof(T) * walk.numbers(0));
    for (int64_t s = 0; s < walk.samples; ++s) {
      samples[s] = {{}, T(__builtin_inff()), 0, true, 0};
      op.iterations[first + s] = 0;
    }

    // One update of a sample from g(x).
    auto update = [&](int64_t s, int64_t iteration) {
      LayerIteration<T>& sample = samples[s];
      if (!sample.active) return;
      T *const at = x + s * size, *const move = r + s * size;
      Vector<T> square{};
      each_vector<T>(s * size, (s + 1) * size, [&](int64_t k, int lanes) {
        const Vector<T> value = load_first(z + k, lanes) - load_first(x + k, lanes) - load_first(g + k, lanes);
        store_first(r + k, value, lanes);
        square = fma(value, value, square);
      });
      const T residual = __builtin_sqrt(sum_lanes<T>(square));
      const bool undone = accelerate && sample.anderson.accept(residual, op.lipschitz);
      op.residual[first + s] = undone ? sample.anderson.norm : residual;
      const bool better = residual < sample.best;
      if (better) sample.best = residual;
      sample.waited = better ? 0 : sample.waited + 1;
      // `!(>)`: a NaN residual will not heal, so it stops too, unless it is that of a step which is undone.
      const bool stop = !(residual > op.residual_limit) && !undone;
      sample.active = !(stop || sample.waited == patience(op.lipschitz) || iteration == op.max_iterations);
      if (accelerate) {
        const LayerHistory<T> past{history + s * 2 * kHistory * size, history + (s * 2 + 1) * kHistory * size, size};
        if (undone) {
          past.recall(sample.newest, at, move);
        } else {
          sample.newest = LayerIteration<T>::place(sample.newest, kHistory - 1);
          past.push(sample.newest, at, move);
        }
        // The last evaluation is that of a step which needs no second one.
        sample.anderson.decide(undone, sample.active && iteration + 1 < op.max_iterations);
        if (sample.anderson.tried) past.step(sample.newest, sample.anderson.seen, move);
      }
      if (!sample.active) return;
      op.iterations[first + s] = iteration + 1;
      each_vector<T>(0, size, [&](int64_t k, int lanes) {
        store_first(at + k, load_first(at + k, lanes) + load_first(move + k, lanes), lanes);
      });
    };

    bool active = true;
    for (int64_t iteration = 0; active; ++iteration) {
      walk.forward(x, nullptr, branch.stages);
      add_rows(parallel, walk.outputs(), walk.finish(), walk.bias(branch.stages - 1), none, g);
      each_share(parallel, walk.samples, walk.samples * size, 1, [&](int64_t begin, int64_t end) {
        for (int64_t s = begin; s < end; ++s) update(s, iteration);
      });
      active = false;
      for (int64_t s = 0; s < walk.samples; ++s) active |= samples[s].active;
    }
    std::memcpy(op.x + first * size, x, sizeof(T) * walk.numbers(0));
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
