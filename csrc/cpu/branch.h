// g(x), and the gradient of everything a branch can be asked for: an ordinary backward pass together with the explicit
// gradient of sum_j <cotangent_j, J tangent_j> (docs/mathematics.md, 4).
#pragma once

#include "cpu/branch_backward_pair.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
void branch(const Branch<T>& branch, const BranchOperands<T>& op, const Parallel& parallel) {
  Workspace workspace;
  Prepared<T> prepared(branch, parallel, workspace);
  prepared.pack(kPackForward, workspace);
  Walk<T>** walks = make_walks(prepared, Order::kValue, false, workspace);
  const Stage<T>& last = branch.stage[branch.stages - 1];
  for_each_chunk(prepared, [&](int64_t chunk) {
    Walk<T>& walk = *walks[chunk];
    for_each_tile(prepared, chunk, [&](int64_t first, int samples) {
      load_events(prepared.layout, op.x + first * branch.in_size(), samples, branch.stage[0].in_channels, walk.x);
      walk.load_operands(first, samples);
      walk.template forward<Order::kValue>();
      store_events(prepared.layout, walk.g, samples, last.out_channels,
                   op.g + first * last.out_channels * branch.pixels(),
                   op.residual ? op.x + first * branch.in_size() : nullptr);
    });
  });
}

// Backward walk of one thread, for any number of pairs.
template <class T>
struct BackwardWalk : Walk<T>, ParameterSums<T> {
  using Walk<T>::prepared;
  using Walk<T>::layout;
  using Walk<T>::stages;
  using Walk<T>::a;
  using Walk<T>::h;
  using Walk<T>::d;
  using Walk<T>::e;
  using ParameterSums<T>::weight;
  T **t, **dt;      // [L] tangents t_i and D_i t_i
  T** r;            // [L + 1] cotangents
  T** u;            // [L] sum over pairs of E_i t_i (A_i^T r_{i+1})
  T** s;            // [L + 1] ordinary backward
  T* raw;           // A_i^T r or A_i^T s itself, for the gradients of the slope and of the factor
  T** of_factor;    // [L] the gradient of a tile's factor, null where there is none
  T** sums_of_few;  // [L] as weight[i].sums, if there are many pairs

  BackwardWalk(const Prepared<T>& prepared_, int pairs, const StageGradients<T>* result, Workspace& workspace)
      : Walk<T>(prepared_, Order::kSecond, true, workspace), ParameterSums<T>(prepared_, result, workspace) {
    T*** const lists[] = {&t, &dt, &r, &u, &s};
    for (T*** list : lists) {
      *list = workspace.take<T*>(stages + 1);
      for (int i = 0; i <= stages; ++i) {
        const int channels =
            i < stages ? prepared.branch.stage[i].in_channels : prepared.branch.stage[stages - 1].out_channels;
        (*list)[i] = pairs > 0 || list == &s ? prepared.take(channels, workspace) : nullptr;
      }
    }
    raw = prepared.take(prepared.most_channels, workspace);
    of_factor = workspace.take_zeroed<T*>(stages);
    for (int i = 0; i < stages; ++i) {
      const Stage<T>& stage = prepared.branch.stage[i];
      if (!stage.factor) continue;
      T** const of_stage[] = {of_factor, this->plain_h, this->plain_d};
      for (T** list : of_stage) list[i] = prepared.take(stage.in_channels, workspace);
    }
    sums_of_few = workspace.take<T*>(stages);
    for (int i = 0; pairs > 1 && i < stages; ++i) sums_of_few[i] = workspace.take_zeroed<T>(weight[i].size());
  }

  // Before anything else of a tile.
  void begin(int64_t first, int count) {
    this->load_operands(first, count);
    for (int i = 0; i < stages; ++i)
      if (of_factor[i]) std::memset(of_factor[i], 0, sizeof(T) * layout.size(prepared.branch.stage[i].in_channels));
  }

  // t_0 is set; fills t, dt.
  void tangent() {
    const Branch<T>& branch = prepared.branch;
    std::memcpy(dt[0], t[0], sizeof(T) * layout.size(branch.stage[0].in_channels));
    this->multiply(d[0], dt[0], branch.stage[0].in_channels);
    for (int i = 0; i + 1 < stages; ++i)
      product(prepared.forward[i], dt[i], layout, {.kind = Epilogue::kTangent, .d = d[i + 1], .second = dt[i + 1]},
              t[i + 1]);
  }

  // Whether u_0 is zero and no factor asks for A_0^T r_1: then r_0 serves nobody, and neither is computed.
  bool straight_start() const { return prepared.branch.stage[0].straight() && !prepared.branch.stage[0].factor; }

  // Whether stage i has gradients that are made of products with A_i^T as they are.
  bool wants_raw(int i) const { return prepared.branch.stage[i].beta || prepared.branch.stage[i].factor; }

  // r_L is set; fills r and adds to u (sets it for the first pair).
  void cotangent(bool first_pair) {
    for (int i = stages - 1; i >= (straight_start() ? 1 : 0); --i) {
      product(prepared.transposed[i], r[i + 1], layout,
              {.kind = Epilogue::kCotangent,
               .d = d[i],
               .e = e[i],
               .t = t[i],
               .second = u[i],
               .accumulate = !first_pair,
               .raw = wants_raw(i) ? raw : nullptr},
              r[i]);
      add_of_tangent(i, raw, t[i]);
    }
  }

  // Of gradients that arrive at the D_i themselves, null where none do: what they add to u, and to the gradients of
  // beta and of the factor. After the last pair's `cotangent`.
  void add_of_derivatives(const T* const* of_d) {
    for (int i = 0; i < stages; ++i) {
      if (!of_d[i]) continue;
      add_of_tangent(i, of_d[i], nullptr);
      if (i == 0 && straight_start()) continue;
      for (int c = 0; c < prepared.branch.stage[i].in_channels; ++c)
        for (int j = 0; j < layout.vectors; ++j) {
          const int64_t at = layout.size(c) + layout.position[j];
          store(u[i] + at, fma(load(e[i] + at), load(of_d[i] + at), load(u[i] + at)));
        }
    }
  }

  // s_L is set; fills s and the parameter gradients, those of the last pair included.
  void backward(bool pairs, bool input_gradient) {
    for (int i = stages - 1; i >= 0; --i) {
      const OperandPair<T> operands[] = {{s[i + 1], h[i]}, {r[i + 1], dt[i]}};
      contract(weight[i], operands, pairs ? 2 : 1, layout);
      this->add_bias_gradient(prepared, i, s[i + 1], this->tile);
      if (i == 0 && !input_gradient && !wants_raw(0)) break;
      product(prepared.transposed[i], s[i + 1], layout,
              {.kind = Epilogue::kBackward,
               .d = d[i],
               .second = pairs && !(i == 0 && straight_start()) ? u[i] : nullptr,
               .raw = wants_raw(i) ? raw : nullptr},
              s[i]);
      finish_of_value(i);
    }
  }

  // The weight gradients of one pair by itself. A sum over many pairs is one of sums of a few, which rounds less.
  void add_pair_gradient(int pair, int pairs) {
    constexpr int kFew = 16;
    const bool ends = (pair + 1) % kFew == 0 || pair + 2 == pairs;  // the last pair is not summed here
    for (int i = 0; i < stages; ++i) {
      const OperandPair<T> operands[] = {{r[i + 1], dt[i]}};
      WeightSums<T> few = weight[i];
      few.sums = sums_of_few[i];
      contract(few, operands, 1, layout);
      for (int64_t k = 0; ends && k < few.size(); ++k) weight[i].sums[k] += few.sums[k];
      if (ends) std::memset(few.sums, 0, sizeof(T) * few.size());
    }
  }

  // What products with A_i^T of a cotangent of J t_i (t null: of a sum over unit vectors) add to the gradients of
  // beta and of the factor.
  void add_of_tangent(int i, const T* products, const T* t) {
    if (of_factor[i]) add_factor_gradient(i, products, t, this->plain_d[i]);
    if (prepared.branch.stage[i].beta) add_slope_gradient(i, products, t, &SlopeGradient<Vector<T>>::d);
  }

  // What those of the ordinary backward, in `raw`, add; with them the factor's gradient is complete.
  void finish_of_value(int i) {
    if (of_factor[i]) {
      add_factor_gradient(i, raw, nullptr, this->plain_h[i]);
      this->set_factor_gradient(prepared, i, of_factor[i], this->tile);
    }
    if (prepared.branch.stage[i].beta) add_slope_gradient(i, raw, nullptr, &SlopeGradient<Vector<T>>::h);
  }

 private:
  // The factor's gradient += products * t * plain; t null: ones.
  void add_factor_gradient(int i, const T* products, const T* t, const T* plain) {
    for (int c = 0; c < prepared.branch.stage[i].in_channels; ++c)
      for (int j = 0; j < layout.vectors; ++j) {
        const int64_t at = layout.size(c) + layout.position[j];
        const Vector<T> through = t ? load(plain + at) * load(t + at) : load(plain + at);
        store(of_factor[i] + at, fma(load(products + at), through, load(of_factor[i] + at)));
      }
  }

  // beta's gradient += sum products * f (d h / d slope), or products * t * f (d D / d slope), with the factor f if
  // there is one; d slope / d beta is the logistic function.
  void add_slope_gradient(int i, const T* products, const T* t, Vector<T> SlopeGradient<Vector<T>>::* part) {
    Vector<T> sum{};
    const Stage<T>& stage = prepared.branch.stage[i];
    const Parameters<Vector<T>> p{broadcast(prepared.slope[i]), broadcast(stage.constant)};
    for (int c = 0; c < stage.in_channels; ++c)
      for (int j = 0; j < layout.vectors; ++j) {
        const int64_t at = int64_t(c) * layout.stride + layout.position[j];
        Vector<T> upstream = load(products + at);
        if (t) upstream = upstream * load(t + at);
        if (of_factor[i]) upstream = upstream * load(this->factor_tile[i] + at);
        const Vector<T> by_slope = slope_gradient<VectorMath<T>>(stage.activation, load(a[i] + at), p).*part;
        sum += keep_pixels(layout, layout.position[j], upstream * by_slope);
      }
    ParameterSums<T>::add_slope_gradient(stage, i, sum_lanes<T>(sum));
  }
};

template <class T>
void branch_backward(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Parallel& parallel) {
  if (op.pairs == 1) return branch_backward_pair(branch, op, parallel);
  Workspace workspace;
  Prepared<T> prepared(branch, parallel, workspace);
  prepared.pack(kPackForward | kPackTransposed, workspace);
  const Layout<T>& layout = prepared.layout;
  const int in_channels = branch.stage[0].in_channels;
  const int64_t in_size = branch.in_size();
  T* packed = op.grad_parameters;
  const StageGradients<T>* gradients = unpack_gradients(branch, packed, workspace);
  T* const* map_gradients = unpack_map_gradients(op.traces, packed, workspace);
  const PreparedTraces<T> prepared_traces(prepared, op.traces, true, workspace);

  auto** walks = workspace.take<BackwardWalk<T>*>(prepared.chunks);
  for (int i = 0; i < prepared.chunks; ++i)
    walks[i] =
        new (workspace.take<char>(sizeof(BackwardWalk<T>))) BackwardWalk<T>(prepared, op.pairs, gradients, workspace);
  TraceGradients<T>** traces = make_trace_gradients(prepared, prepared_traces, false, walks, workspace);

  for_each_chunk(prepared, [&](int64_t chunk) {
    BackwardWalk<T>& walk = *walks[chunk];
    T weight[kLargestTile];
    for_each_tile(prepared, chunk, [&](int64_t first, int samples) {
      load_events(layout, op.x + first * in_size, samples, in_channels, walk.x);
      walk.begin(first, samples);
      walk.template forward<Order::kSecond>();
      for (int s = 0; op.pairs > 0 && s < samples; ++s) weight[s] = op.weight[first + s] / static_cast<T>(op.pairs);
      for (int pair = 0; pair < op.pairs; ++pair) {
        const int64_t at = (pair * branch.batch + first) * in_size;
        load_events(layout, op.tangents + at, samples, in_channels, walk.t[0]);
        load_events(layout, op.cotangents + at, samples, in_channels, walk.r[branch.stages], weight);
        walk.tangent();
        walk.cotangent(pair == 0);
        // The last one is stacked with the ordinary backward.
        if (pair + 1 < op.pairs) walk.add_pair_gradient(pair, op.pairs);
      }
      traces[chunk]->begin(layout, walk.d, walk.tile, op.weight);
      for (int i = 0; i < branch.stages; ++i) traces[chunk]->add_map_sums(layout, i, walk.d[i]);
      walk.add_of_derivatives(traces[chunk]->of_d);
      load_grad(prepared, op.grad, first, samples, walk.s[branch.stages]);
      walk.backward(op.pairs > 0, op.grad_x != nullptr);
      store_grad_x(prepared, walk.s[0], op.residual ? op.grad : nullptr, first, samples, op.grad_x);
    });
  });

  gather_gradients(prepared, walks, gradients);
  gather_map_gradients(prepared, op.traces, traces, map_gradients);
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
