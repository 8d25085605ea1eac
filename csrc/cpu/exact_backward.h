// The gradient of z = x + g(x) and of the exact log-determinant: that of sum_j <row j of (I + J)^-1, J e_j>, a pair of
// tangent and cotangent per unit vector (docs/mathematics.md, 4c). Pairs go through each stage side by side, so that
// one contraction sums the weight gradients of several.
#pragma once

#include "cpu/branch.h"
#include "cpu/exact_determinant.h"
#include "cpu/exact_kept.h"
#include "cpu/value_ratio.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Tiles of the pairs that go side by side: what the second-level cache has room for.
constexpr int64_t kPairBytes = int64_t(768) << 10;
// Pairs of one contraction: their rows must stay in the first-level cache.
constexpr int kContractedPairs = 4;

// Backward walk of one thread. What the walk it extends has for one pair stays unused.
template <class T>
struct ExactBackwardWalk : BackwardWalk<T> {
  using Base = BackwardWalk<T>;
  using Base::a;
  using Base::d;
  using Base::e;
  using Base::h;
  using Base::layout;
  using Base::prepared;
  using Base::raw;
  using Base::s;
  using Base::stages;
  using Base::u;
  using Base::weight;

  const Stage<T>* stage;
  UnitTangents<T> unit;
  TileDeterminants<T> determinants;
  int group;                // pairs side by side, at most
  T ***own_t, ***own_dt;    // [group][L] tiles for t_i and D_i t_i, where they are not kept
  T ***pair_t, ***pair_dt;  // [group][L] t_i (null: e_i holds E_i / D_i) and D_i t_i
  T** pair_r[2];            // [2][group] r_i, by parity of i
  T* matrices;              // [d * d][slots] (I + J)^-1, unless kept
  T* upstream;              // [slots] gradients of the log-determinants
  T* column;                // J e_j
  T* start;                 // matrices: the pairs' part of the gradient of A_0, [out, in]

  ExactBackwardWalk(const Prepared<T>& prepared_, const ExactKept<T>& kept, bool fits, const StageGradients<T>* result,
                    Workspace& workspace)
      : Base(prepared_, 0, result, workspace),
        stage(prepared.branch.stage),
        unit(*this, workspace),
        determinants(layout, prepared.branch.in_size(), workspace) {
    const int64_t size = prepared.branch.in_size();
    const bool recall = fits && kept.has_walk();
    int64_t channels = 2 * prepared.most_channels;
    for (int i = 1; i < stages; ++i)
      channels += stage[i].in_channels *
                  (owns_t(i, recall && kept.keeps_tangents(i)) + owns_dt(i, recall && kept.keeps_tangents(i)));
    const int64_t bytes = channels * layout.stride * int64_t(sizeof(T));
    group = static_cast<int>(min_of(size, max_of(int64_t(1), kPairBytes / bytes)));
    T**** const lists[] = {&own_t, &own_dt, &pair_t, &pair_dt};
    for (T**** list : lists) {
      *list = workspace.take<T**>(group);
      for (int k = 0; k < group; ++k) (*list)[k] = workspace.take_zeroed<T*>(stages);
    }
    for (T**& list : pair_r) list = workspace.take<T*>(group);
    for (int k = 0; k < group; ++k) {
      for (int i = 1; i < stages; ++i) {
        const bool there = recall && kept.keeps_tangents(i);
        if (owns_t(i, there)) own_t[k][i] = prepared.take(stage[i].in_channels, workspace);
        if (owns_dt(i, there)) own_dt[k][i] = prepared.take(stage[i].in_channels, workspace);
      }
      for (T** list : pair_r) list[k] = prepared.take(prepared.most_channels, workspace);
    }
    for (int i = 0; i < stages; ++i) u[i] = prepared.take(stage[i].in_channels, workspace);
    matrices = fits ? nullptr : workspace.take<T>(size * size * layout.slots());
    upstream = workspace.take<T>(layout.slots());
    column = prepared.take(stage[0].in_channels, workspace);
    start = layout.dense ? workspace.take_zeroed<T>(int64_t(stage[0].out_channels) * stage[0].in_channels) : nullptr;
  }

  bool value(int i) const { return known_from_value(stage[i]); }
  bool owns_t(int i, bool kept) const { return !value(i) && !kept; }
  bool owns_dt(int i, bool kept) const { return !value(i) || !kept; }

  // h_i, D_i and E_i (E_i / D_i where h_i tells both) of all stages, from x or from what is kept.
  void linearize(bool recall) {
    if (recall) {
      for (int i = 0; i < stages; ++i)
        if (i == 0 || !value(i)) this->template activate_stage<Order::kSecond>(i);
    } else {
      this->template forward<Order::kSecond>();
    }
    for (int i = 1; i < stages; ++i)
      if (value(i)) value_ratio(stage[i].activation, layout, h[i], stage[i].in_channels, d[i], e[i]);
  }

  // (I + J)^-1 again, where the forward pass kept it for other tiles.
  const T* invert(int samples, T* logdet) {
    point_own(0);
    for (int64_t j = 0; j < determinants.size; ++j) {
      unit.chain(j, pair_t[0], pair_dt[0]);
      unit.column(j, pair_dt[0], column);
      determinants.put_column(stage[0].in_channels, column, j, matrices);
    }
    determinants.finish(matrices, samples, true, logdet);
    return matrices;
  }

  void point_own(int k) {
    for (int i = 1; i < stages; ++i) pair_t[k][i] = own_t[k][i], pair_dt[k][i] = own_dt[k][i];
  }

  // Tangents of pair k from those that were kept and pointed to.
  void recall_tangents(int k, int64_t j) {
    if (layout.dense) unit.begin(j, pair_t[k], pair_dt[k]);
    for (int i = 1; i < stages; ++i)
      if (!value(i)) this->multiply(d[i], pair_t[k][i], stage[i].in_channels, pair_dt[k][i]);
  }

  // Tangents and r_L of unit vectors first .. first + count - 1 are set; s_L too. Adds to u and to the gradients;
  // `last` sends the ordinary backward after the last cotangents, with which u is complete.
  void backward(int64_t first, int count, bool last, bool input_gradient) {
    for (int i = stages - 1; i > 0; --i) {
      contract_stage(i, count, last);
      for (int k = 0; k < count; ++k) {
        const T* t = pair_t[k][i];
        product(prepared.transposed[i], pair_r[(i + 1) % 2][k], layout,
                {.kind = Epilogue::kCotangent,
                 .d = d[i],
                 .e = e[i],
                 .t = t ? t : pair_dt[k][i],
                 .second = u[i],
                 .accumulate = first + k > 0,
                 .raw = this->wants_raw(i) ? raw : nullptr},
                pair_r[i % 2][k]);
        this->add_of_tangent(i, raw, t);
      }
      if (last) ordinary(i, count > 0);
    }
    for (int k = 0; k < count; ++k) layout.dense ? start_dense(first + k, pair_r[1][k]) : start_image(first + k, k);
    if (!last) return;
    if (count > 0 && layout.dense) finish_start();
    contract_stage(0, 0, true);
    if (input_gradient || this->wants_raw(0)) return ordinary(0, count > 0 && !straight_start());
    this->add_bias_gradient(prepared, 0, s[1], this->tile);
  }

 private:
  bool straight_start() const { return Base::straight_start(); }

  void contract_stage(int i, int count, bool last) {
    OperandPair<T> operands[1 + kContractedPairs];
    int pairs = 0;
    if (last) operands[pairs++] = {s[i + 1], h[i]};
    for (int k = 0; k < count; ++k) {
      operands[pairs++] = {pair_r[(i + 1) % 2][k], pair_dt[k][i]};
      if (pairs < kContractedPairs && k + 1 < count) continue;
      contract(weight[i], operands, pairs, layout);
      pairs = 0;
    }
    if (pairs > 0) contract(weight[i], operands, pairs, layout);
  }

  void ordinary(int i, bool through_d) {
    this->add_bias_gradient(prepared, i, s[i + 1], this->tile);
    product(prepared.transposed[i], s[i + 1], layout,
            {.kind = Epilogue::kBackward,
             .d = d[i],
             .second = through_d ? u[i] : nullptr,
             .raw = this->wants_raw(i) ? raw : nullptr},
            s[i]);
    this->finish_of_value(i);
  }

  // A_0 D_0 e_j is a column of a matrix, so that its gradient is a column too, and of A_0^T r_1 one number is wanted.
  void start_dense(int64_t j, const T* r) {
    const int64_t row = layout.size(static_cast<int>(j));
    for (int m = 0; m < stage[0].out_channels; ++m) {
      Vector<T> sum{};
      for (int v = 0; v < layout.vectors; ++v)
        sum = fma(load(r + layout.size(m) + layout.position[v]), load(d[0] + row + layout.position[v]), sum);
      start[m * int64_t(stage[0].in_channels) + j] += sum_lanes<T>(sum);
    }
    if (straight_start()) return;
    const T* weights = stage[0].weight + j;
    for (int v = 0; v < layout.vectors; ++v) {
      Vector<T> sum{};
      for (int m = 0; m < stage[0].out_channels; ++m)
        sum = fma(broadcast(weights[m * int64_t(stage[0].in_channels)]), load(r + layout.size(m) + layout.position[v]),
                  sum);
      store(u[0] + row + layout.position[v], sum);
    }
  }

  // u_0 from the numbers of A_0^T r_1 that start_dense left there.
  void finish_start() {
    if (straight_start()) return;
    this->add_of_tangent(0, u[0], nullptr);
    this->multiply(e[0], u[0], stage[0].in_channels);
  }

  void start_image(int64_t j, int k) {
    const OperandPair<T> operands[] = {{pair_r[1][k], unit.start}};
    unit.put(j, d[0]);
    contract(weight[0], operands, 1, layout);
    if (!straight_start()) {
      unit.put_one(j);
      product(prepared.transposed[0], pair_r[1][k], layout,
              {.kind = Epilogue::kCotangent,
               .d = d[0],
               .e = e[0],
               .t = unit.start,
               .second = u[0],
               .accumulate = j > 0,
               .raw = this->wants_raw(0) ? raw : nullptr},
              pair_r[0][k]);
      this->add_of_tangent(0, raw, unit.start);
    }
    unit.clear(j);
  }
};

template <class T>
void residual_logdet_exact_backward(const Branch<T>& branch, const ResidualLogdetExactBackwardOperands<T>& op,
                                    const Parallel& parallel) {
  Workspace workspace;
  Prepared<T> prepared(branch, parallel, workspace);
  const ExactKept<T> kept(prepared);
  const bool fits = op.kept && kept.fits(op.kept, op.kept_size), recall = fits && kept.has_walk();
  prepared.pack(recall ? kPackTransposed : kPackForward | kPackTransposed, workspace);
  const Layout<T>& layout = prepared.layout;
  const int channels = branch.stage[0].in_channels;
  const int64_t size = branch.in_size();
  T* saved = const_cast<T*>(op.kept);  // only read
  T* packed = op.grad_parameters;
  const StageGradients<T>* gradients = unpack_gradients(branch, packed, workspace);

  auto** walks = workspace.take<ExactBackwardWalk<T>*>(prepared.chunks);
  auto** sums = workspace.take<BackwardWalk<T>*>(prepared.chunks);
  for (int i = 0; i < prepared.chunks; ++i)
    sums[i] = walks[i] = new (workspace.take<char>(sizeof(ExactBackwardWalk<T>)))
        ExactBackwardWalk<T>(prepared, kept, fits, gradients, workspace);

  for_each_chunk(prepared, [&](int64_t chunk) {
    ExactBackwardWalk<T>& walk = *walks[chunk];
    for_each_tile(prepared, chunk, [&](int64_t first, int samples) {
      load_events(layout, op.x + first * size, samples, channels, walk.x);
      walk.begin(first, samples);
      if (recall) kept.point_activations(saved, chunk, first, walk.a, walk.h);
      walk.linearize(recall);
      load_grad(prepared, op.grad_z, first, samples, walk.s[branch.stages]);
      if (!op.grad_logdet) walk.backward(0, 0, true, op.grad_x != nullptr);

      const T* inverses = nullptr;
      if (op.grad_logdet) {
        inverses = fits ? kept.inverses(op.kept, chunk, first) : walk.invert(samples, walk.upstream);
        for (int i = 0; i < layout.slots(); ++i) walk.upstream[i] = i < samples ? op.grad_logdet[first + i] : T(0);
      }
      for (int64_t j = 0; op.grad_logdet && j < size; j += walk.group) {
        const int count = static_cast<int>(min_of(int64_t(walk.group), size - j));
        for (int k = 0; k < count; ++k) {
          walk.point_own(k);
          if (recall) kept.point_tangents(saved, chunk, first, j + k, walk.pair_t[k], walk.pair_dt[k]);
          recall ? walk.recall_tangents(k, j + k) : walk.unit.chain(j + k, walk.pair_t[k], walk.pair_dt[k]);
          walk.determinants.get_row(channels, inverses, j + k, walk.upstream, walk.pair_r[branch.stages % 2][k]);
        }
        walk.backward(j, count, j + count == size, op.grad_x != nullptr);
      }
      store_grad_x(prepared, walk.s[0], op.grad_z, first, samples, op.grad_x);
    });
  });

  gather_gradients(prepared, sums, gradients);
  const int64_t weights = int64_t(branch.stage[0].out_channels) * channels;
  for (int chunk = 0; branch.dense() && chunk < prepared.chunks; ++chunk)
    for (int64_t k = 0; k < weights; ++k) op.grad_parameters[k] += walks[chunk]->start[k];
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
