// The Jacobian of a branch, row by row: d basis vectors through the same chain (docs/mathematics.md, 3).
#pragma once

#include "cpu/walk.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
void jacobian(const Branch<T>& branch, const JacobianOperands<T>& op, const Parallel& parallel) {
  Workspace workspace;
  Prepared<T> prepared(branch, parallel, workspace, branch.in_size());
  prepared.pack(kPackForward | kPackTransposed, workspace);
  const Layout<T>& layout = prepared.layout;
  const int channels = branch.stage[0].in_channels;
  const int64_t size = branch.in_size();
  Walk<T>** walks = make_walks(prepared, Order::kFirst, false, workspace);
  T** basis = workspace.take<T*>(prepared.chunks);
  for (int i = 0; i < prepared.chunks; ++i) basis[i] = workspace.take<T>(size * prepared.samples_per_tile);

  // A tile holds as many basis vectors of one sample as it has columns, and those of several samples if they are few.
  const int64_t span = min_of(int64_t(prepared.samples_per_tile), size), group = prepared.samples_per_tile / span;
  for_each_chunk(prepared, [&](int64_t chunk) {
    Walk<T>& walk = *walks[chunk];
    T* rows = basis[chunk];
    const int64_t end = prepared.begin(chunk + 1);
    for (int64_t b = prepared.begin(chunk); b < end; b += group) {
      const int64_t samples = min_of(group, end - b);
      for (int64_t k = 0; k < samples * span; ++k)
        std::memcpy(rows + k * size, op.x + (b + k / span) * size, sizeof(T) * size);
      load_events(layout, rows, static_cast<int>(samples * span), channels, walk.x);
      walk.template forward<Order::kFirst>();
      std::memset(rows, 0, sizeof(T) * size * samples * span);
      for (int64_t row = 0; row < size; row += span) {
        const int64_t count = samples * min_of(span, size - row);
        for (int64_t k = 0; k < count; ++k) rows[k * size + row + k % span] = T(1);
        load_events(layout, rows, static_cast<int>(count), channels, walk.state[0]);
        for (int64_t k = 0; k < count; ++k) rows[k * size + row + k % span] = T(0);
        walk.vjp();
        store_events(layout, walk.state[0], static_cast<int>(count), channels, op.jacobian + (b * size + row) * size);
      }
    }
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
