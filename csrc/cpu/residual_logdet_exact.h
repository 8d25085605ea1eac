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

  // A tile of several samples holds as many basis vectors of ONE sample, which stands in all of them.
  const int copies = prepared.samples_per_tile;
  for_each_chunk(prepared, [&](int64_t chunk) {
    Walk<T>& walk = *walks[chunk];
    T* rows = basis[chunk];
    for (int64_t b = prepared.begin(chunk); b < prepared.begin(chunk + 1); ++b) {
      for (int k = 0; k < copies; ++k) std::memcpy(rows + k * size, op.x + b * size, sizeof(T) * size);
      load_events(layout, rows, copies, channels, walk.x);
      walk.template forward<Order::kFirst>();
      std::memset(rows, 0, sizeof(T) * size * copies);
      for (int64_t row = 0; row < size; row += copies) {
        const int count = static_cast<int>(min_of(int64_t(copies), size - row));
        for (int k = 0; k < count; ++k) rows[k * size + row + k] = T(1);
        load_events(layout, rows, count, channels, walk.state[0]);
        for (int k = 0; k < count; ++k) rows[k * size + row + k] = T(0);
        walk.vjp();
        store_events(layout, walk.state[0], count, channels, op.jacobian + (b * size + row) * size);
      }
    }
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
