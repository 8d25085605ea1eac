// The exact log-determinant of x + g(x), and the Jacobian of a branch by itself (docs/mathematics.md, 3).
#pragma once

#include "cpu/branch.h"
#include "cpu/exact_determinant.h"
#include "cpu/exact_kept.h"
#include "cpu/unit_tangents.h"

namespace irf {
namespace IRF_ISA {
namespace {

// The Jacobian row by row: a tile holds as many unit vectors of one sample as it has columns, and those of several
// samples if they are few.
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
      walk.load_operands(b, static_cast<int>(samples * span), span);
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

// Whether columns are not worth it: samples fill less than a quarter of a vector, unit vectors more than one.
template <class T>
bool few_samples(const Branch<T>& branch) {
  return branch.dense() && 4 * branch.batch <= kLanes<T> && branch.in_size() > kLanes<T>;
}

// z and log|det(I + J)| of few samples with many numbers: by rows, unit vectors side by side.
template <class T>
void exact_of_few(const Branch<T>& b, const ResidualLogdetExactOperands<T>& op, const Parallel& parallel) {
  const int64_t size = b.in_size(), entries = size * size;
  branch(b, {op.x, op.z, true}, parallel);
  // Not scratch, which the next op would take; not a vector, whose code could be merged with that of another kernel.
  struct Memory {
    T* numbers;
    ~Memory() { delete[] numbers; }
  } const jacobians{new T[b.batch * entries]};
  jacobian(b, {op.x, jacobians.numbers}, parallel);
  Workspace workspace;
  const Layout<T> layout = dense_layout<T>(static_cast<int>(b.batch), workspace);
  const TileDeterminants<T> determinants(layout, size, workspace);
  T* matrices = workspace.take_zeroed<T>(entries * layout.slots());
  transpose(jacobians.numbers, entries, static_cast<int>(b.batch), static_cast<int>(entries), matrices, layout.slots());
  determinants.finish(matrices, static_cast<int>(b.batch), false, op.logdet);
}

// Buffers of one thread.
template <class T>
struct ExactWalk : Walk<T> {
  UnitTangents<T> tangents;
  TileDeterminants<T> determinants;
  T* matrices;  // [d * d][slots], if nothing is kept
  T **t, **dt;  // [L]
  T* column;    // J e_j

  ExactWalk(const Prepared<T>& prepared, bool keep, Workspace& workspace)
      : Walk<T>(prepared, Order::kFirst, false, workspace),
        tangents(*this, workspace),
        determinants(this->layout, prepared.branch.in_size(), workspace) {
    const int64_t size = prepared.branch.in_size();
    matrices = keep ? nullptr : workspace.take<T>(size * size * this->layout.slots());
    t = workspace.take_zeroed<T*>(this->stages);
    dt = workspace.take_zeroed<T*>(this->stages);
    column = prepared.take(prepared.branch.stage[0].in_channels, workspace);
  }
};

// z, log|det(I + J)| and what the backward pass needs again. Column by column: the tangents that a column passes are
// those of its gradient.
template <class T>
void residual_logdet_exact(const Branch<T>& branch, const ResidualLogdetExactOperands<T>& op,
                           const Parallel& parallel) {
  if (!op.kept && few_samples(branch)) return exact_of_few(branch, op, parallel);
  Workspace workspace;
  Prepared<T> prepared(branch, parallel, workspace);
  prepared.pack(kPackForward, workspace);
  const ExactKept<T> kept(prepared);
  if (op.kept) kept.write_header(op.kept);
  const bool keep_walk = op.kept && kept.has_walk();
  const Layout<T>& layout = prepared.layout;
  const int channels = branch.stage[0].in_channels;
  const int64_t size = branch.in_size();
  auto** walks = workspace.take<ExactWalk<T>*>(prepared.chunks);
  for (int i = 0; i < prepared.chunks; ++i)
    walks[i] = new (workspace.take<char>(sizeof(ExactWalk<T>))) ExactWalk<T>(prepared, op.kept != nullptr, workspace);

  for_each_chunk(prepared, [&](int64_t chunk) {
    ExactWalk<T>& walk = *walks[chunk];
    for_each_tile(prepared, chunk, [&](int64_t first, int samples) {
      if (keep_walk) {
        kept.point_activations(op.kept, chunk, first, walk.a, walk.h);
        kept.clear_pads(walk.h);
      }
      load_events(layout, op.x + first * size, samples, channels, walk.x);
      walk.load_operands(first, samples);
      walk.template forward<Order::kFirst>();
      store_events(layout, walk.g, samples, channels, op.z + first * size, op.x + first * size);
      T* matrices = op.kept ? kept.inverses(op.kept, chunk, first) : walk.matrices;
      for (int64_t j = 0; j < size; ++j) {
        for (int i = 1; i < branch.stages; ++i) walk.dt[i] = walk.state[i % 2];
        if (keep_walk) {
          kept.point_tangents(op.kept, chunk, first, j, walk.t, walk.dt);
          kept.clear_pads(walk.dt);
        }
        walk.tangents.chain(j, walk.t, walk.dt);
        walk.tangents.column(j, walk.dt, walk.column);
        walk.determinants.put_column(channels, walk.column, j, matrices);
      }
      walk.determinants.finish(matrices, samples, op.kept != nullptr, op.logdet + first);
    });
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
