// x with x + g(x) = z by the fixed-point iteration x <- z - g(x), accelerated, each sample stopped by its own residual
// and then frozen (docs/mathematics.md, 5).
#pragma once

#include "cpu/anderson.h"
#include "cpu/walk.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
void residual_inverse(const Branch<T>& branch, const ResidualInverseOperands<T>& op, const Parallel& parallel) {
  Workspace workspace;
  Prepared<T> prepared(branch, parallel, workspace);
  prepared.pack(kPackForward, workspace);
  const Layout<T>& layout = prepared.layout;
  const int channels = branch.stage[0].in_channels;
  const int64_t size = branch.in_size();
  Walk<T>** walks = make_walks(prepared, Order::kValue, false, workspace);
  T** z = workspace.take<T*>(prepared.chunks);
  T** square = workspace.take<T*>(prepared.chunks);
  T** step = workspace.take<T*>(prepared.chunks);
  T** best = workspace.take<T*>(prepared.chunks);
  int** waited = workspace.take<int*>(prepared.chunks);
  const bool accelerate = op.lipschitz > T(0);
  auto** history = workspace.take<AndersonHistory<T>*>(prepared.chunks);
  for (int i = 0; i < prepared.chunks; ++i) {
    z[i] = prepared.take(channels, workspace);
    square[i] = workspace.take<T>(layout.slots());
    step[i] = workspace.take<T>(layout.slots());
    best[i] = workspace.take<T>(layout.slots());
    waited[i] = workspace.take<int>(layout.slots());
    history[i] = accelerate ? new (workspace.take<char>(sizeof(AndersonHistory<T>)))
                                  AndersonHistory<T>(prepared, channels, workspace)
                            : nullptr;
  }

  for_each_chunk(prepared, [&](int64_t chunk) {
    Walk<T>& walk = *walks[chunk];
    AndersonHistory<T>* const anderson = history[chunk];
    T *target = z[chunk], *norm = square[chunk], *move = step[chunk];
    for_each_tile(prepared, chunk, [&](int64_t first, int samples) {
      load_events(layout, op.z + first * size, samples, channels, target);
      walk.load_operands(first, samples);
      std::memcpy(walk.x, target, sizeof(T) * layout.size(channels));
      for (int s = 0; s < layout.slots(); ++s) move[s] = s < samples ? T(1) : T(0);  // 1: still iterating
      for (int s = 0; s < samples; ++s) {
        op.iterations[first + s] = 0;
        best[chunk][s] = __builtin_inff();
        waited[chunk][s] = 0;
      }
      if (anderson) anderson->begin();
      for (int64_t iteration = 0;; ++iteration) {
        walk.template forward<Order::kValue>();
        // g <- z - x - g(x): the step to take, and its length is the residual.
        for (int c = 0; c < channels; ++c)
          for (int j = 0; j < layout.vectors; ++j) {
            const int column = layout.position[j];
            const int64_t at = int64_t(c) * layout.stride + column;
            store(walk.g + at, keep_pixels(layout, column, load(target + at) - load(walk.x + at) - load(walk.g + at)));
          }
        sample_sums(layout, walk.g, walk.g, channels, norm, norm);
        bool any_active = false, any_undone = false, any_tried = false;
        for (int s = 0; s < samples; ++s) {
          bool undone = false;
          if (move[s] != T(0)) {
            const T residual = __builtin_sqrt(norm[s]);
            undone = anderson && anderson->of(s).accept(residual, op.lipschitz);
            op.residual[first + s] = undone ? anderson->of(s).norm : residual;
            const bool better = residual < best[chunk][s];
            if (better) best[chunk][s] = residual;
            waited[chunk][s] = better ? 0 : waited[chunk][s] + 1;
            // `!(>)`: a NaN residual will not heal, so it stops too, unless it is that of a step which is undone.
            const bool stop = !(residual > op.residual_limit) && !undone;
            move[s] =
                stop || waited[chunk][s] == patience(op.lipschitz) || iteration == op.max_iterations ? T(0) : T(1);
          }
          if (anderson) {
            anderson->undo(s, undone);
            // The last evaluation is that of a step which needs no second one.
            anderson->of(s).decide(undone, move[s] != T(0) && iteration + 1 < op.max_iterations);
            any_tried |= anderson->of(s).tried;
          }
          any_undone |= undone;
          if (move[s] == T(0)) continue;
          op.iterations[first + s] = iteration + 1;
          any_active = true;
        }
        if (anderson) anderson->push(walk.x, walk.g, any_undone);
        if (!any_active) break;
        if (any_tried) anderson->step(samples, walk.g);
        spread(layout, move);
        for (int c = 0; c < channels; ++c)
          for (int j = 0; j < layout.vectors; ++j) {
            const int64_t at = layout.size(c) + layout.position[j];
            const Vector<T> x = load(walk.x + at), moving = sample_vector(layout, move, layout.position[j]);
            store(walk.x + at, moving > Vector<T>{} ? x + load(walk.g + at) : x);  // a frozen step may be NaN
          }
      }
      store_events(layout, walk.x, samples, channels, op.x + first * size);
    });
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
