// The history of Anderson acceleration on a tile (iresnet_fast/anderson.h): iterates and residuals as tiles, and what
// is known of each sample.
#pragma once

#include "cpu/prepared.h"
#include "cpu/tile_io.h"
#include "iresnet_fast/anderson.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
class AndersonHistory {
 public:
  AndersonHistory(const Prepared<T>& prepared, int channels, Workspace& workspace)
      : layout_(prepared.layout), channels_(channels) {
    for (int i = 0; i < kHistory; ++i) {
      x_[i] = prepared.take(channels, workspace);
      r_[i] = prepared.take(channels, workspace);
    }
    state_ = workspace.take<AndersonState<T>>(layout_.slots());
    undone_ = workspace.take<T>(layout_.slots());
    for (T*& sums : sums_) sums = workspace.take<T>(layout_.slots());
    for (T*& weight : weight_) weight = workspace.take<T>(layout_.slots());
  }

  // Before the first evaluation of a tile.
  void begin() {
    for (int s = 0; s < layout_.slots(); ++s) state_[s] = {};
    // What is left of an earlier tile need not be finite.
    for (int i = 0; i < kHistory; ++i) {
      std::memset(x_[i], 0, sizeof(T) * layout_.size(channels_));
      std::memset(r_[i], 0, sizeof(T) * layout_.size(channels_));
    }
  }

  AndersonState<T>& of(int sample) { return state_[sample]; }
  void undo(int sample, bool undone) { undone_[sample] = undone ? T(1) : T(0); }

  // After every evaluation: x and r, its residual, become the newest, or again what was the newest where that is
  // undone.
  void push(T* x, T* r, bool any_undone) {
    if (any_undone) {
      spread(layout_, undone_);
      blend(x_[0], x);
      blend(r_[0], r);
    }
    push(x, x_);
    push(r, r_);
  }

  // Makes of `r` the step of the samples that try one; of the others it stays the residual.
  void step(int samples, T* r) {
    add_up();
    for (int s = 0; s < samples; ++s) {
      T sums[kStepSums], weight[kWindow] = {};
      for (int i = 0; i < kStepSums; ++i) sums[i] = sums_[i][s];
      if (state_[s].tried) least_squares(sums, state_[s].seen, weight);
      for (int i = 0; i < kWindow; ++i) weight_[i][s] = weight[i];
    }
    for (int s = samples; s < layout_.slots(); ++s)
      for (T* weight : weight_) weight[s] = T(0);
    for (T* weight : weight_) spread(layout_, weight);
    each_vector([&](int64_t at, int column) {
      Vector<T> move = load(r + at);
      for (int i = 0; i < kWindow; ++i) {
        const Vector<T> back = load(x_[i] + at) - load(x_[i + 1] + at) + (load(r_[i] + at) - load(r_[i + 1] + at));
        move -= sample_vector(layout_, weight_[i], column) * back;
      }
      store(r + at, move);
    });
  }

 private:
  void push(const T* tile, T** tiles) {
    T* oldest = tiles[kHistory - 1];
    for (int i = kHistory - 1; i > 0; --i) tiles[i] = tiles[i - 1];
    tiles[0] = oldest;
    std::memcpy(oldest, tile, sizeof(T) * layout_.size(channels_));
  }

  template <class Body>
  IRF_ALWAYS_INLINE void each_vector(const Body& body) const {
    for (int c = 0; c < channels_; ++c)
      for (int j = 0; j < layout_.vectors; ++j) body(layout_.size(c) + layout_.position[j], layout_.position[j]);
  }

  void blend(const T* before, T* now) const {
    each_vector([&](int64_t at, int column) {
      const Vector<T> undone = sample_vector(layout_, undone_, column);
      store(now + at, undone > Vector<T>{} ? load(before + at) : load(now + at));
    });
  }

  void add_up() const {
    Vector<T> all[kStepSums] = {};
    for (int j = 0; j < layout_.vectors; ++j) {
      Vector<T> sum[kStepSums] = {};
      for (int c = 0; c < channels_; ++c) {
        const int64_t at = layout_.size(c) + layout_.position[j];
        Vector<T> difference[kWindow];
        const Vector<T> newest = load(r_[0] + at);
        Vector<T> r = newest;
#pragma GCC unroll 8
        for (int i = 0; i < kWindow; ++i) {
          const Vector<T> older = load(r_[i + 1] + at);
          difference[i] = r - older;
          r = older;
        }
#pragma GCC unroll 8
        for (int i = 0; i < kWindow; ++i) {
#pragma GCC unroll 8
          for (int k = 0; k <= i; ++k) sum[gram_place(i, k)] = fma(difference[i], difference[k], sum[gram_place(i, k)]);
          sum[kGram + i] = fma(difference[i], newest, sum[kGram + i]);
        }
      }
      for (int i = 0; i < kStepSums; ++i) {
        if (layout_.dense) store(sums_[i] + layout_.position[j], sum[i]);
        all[i] += sum[i];
      }
    }
    for (int i = 0; i < kStepSums && !layout_.dense; ++i) gather(layout_, all[i], sums_[i]);
  }

  const Layout<T>& layout_;
  const int channels_;
  T *x_[kHistory], *r_[kHistory];  // the newest first
  AndersonState<T>* state_;        // [samples]
  T* undone_;                      // [samples] 1: yes
  T *sums_[kStepSums], *weight_[kWindow];
};

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
