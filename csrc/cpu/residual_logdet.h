// log|det(I + J)| by the power series with Hutchinson's probes: w_k = (J^T)^k v without a graph; value, Neumann vector,
// norms and the per-sample stop come out of the same chain (docs/mathematics.md, 3 and 4).
#pragma once

#include "cpu/kept.h"
#include "cpu/traces.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Per-sample running state of one tile.
template <class T>
struct SeriesState {
  T *dot, *square, *limit, *norm, *value, *coefficient;
  int* last;  // the term the series ends with at the latest
  int64_t* terms;
  bool* active;

  SeriesState(int samples, Workspace& workspace) {
    T** const lists[] = {&dot, &square, &limit, &norm, &value, &coefficient};
    for (T** list : lists) *list = workspace.take<T>(samples);
    last = workspace.take<int>(samples);
    terms = workspace.take<int64_t>(samples);
    active = workspace.take<bool>(samples);
  }
};

// q_k of a sample in its chain: nothing where the trace takes the place of the term.
template <class T>
T chain_coefficient(const Series<T>& series, int64_t sample, int k) {
  return k <= series.traces.count ? T(0) : series.coefficients_of(sample)[k - 1];
}

// The series of one probe on one tile whose derivatives are frozen. `v` holds the probe, `y` takes the Neumann vector
// (or null). With J v at hand (`jv`, or null) the last term is <w_{n-1}, J v>, and w_n is never computed.
template <class T>
void series_chain(Walk<T>& walk, const Series<T>& series, int64_t first, int samples, const T* v, const T* jv, T* y,
                  SeriesState<T>& state) {
  const Layout<T>& layout = walk.layout;
  const int channels = walk.prepared.branch.stage[0].in_channels;
  auto q = [&](int s, int k) { return chain_coefficient(series, first + s, k); };

  std::memcpy(walk.state[0], v, sizeof(T) * layout.size(channels));
  sample_sums(layout, v, v, channels, state.dot, state.square);
  int terms = 0;
  for (int s = 0; s < layout.slots(); ++s) {
    const bool real = s < samples;
    state.last[s] = real ? last_term(series.coefficients_of(first + s), series.terms) : 0;
    if (state.last[s] > terms) terms = state.last[s];
    const T length = __builtin_sqrt(state.square[s]);
    state.limit[s] = series.relative ? series.tolerance * length : series.tolerance / length;
    state.norm[s] = length;
    state.value[s] = T(0);
    state.terms[s] = 0;
    state.active[s] = state.last[s] > 0;
    state.coefficient[s] = state.active[s] ? q(s, 1) : T(0);
  }
  spread(layout, state.coefficient);
  if (y) add_scaled(layout, state.coefficient, walk.state[0], channels, true, y);

  for (int k = 1; k <= terms; ++k) {
    // Of a sample that ends before others of its tile, the last term is not cut short: equal up to rounding.
    const bool shortcut = jv && k == terms;
    if (!shortcut) walk.vjp();
    sample_sums(layout, walk.state[0], shortcut ? jv : v, channels, state.dot, state.square);
    bool any_active = false;
    for (int s = 0; s < samples; ++s) {
      state.coefficient[s] = T(0);
      if (!state.active[s]) continue;
      state.value[s] += (k % 2 ? q(s, k) : -q(s, k)) / static_cast<T>(k) * state.dot[s];
      state.norm[s] = __builtin_sqrt(state.square[s]);
      state.terms[s] = k;
      if (k == state.last[s] || (series.tail && state.norm[s] * series.tail[k - 1] <= state.limit[s])) {
        state.active[s] = false;
        continue;
      }
      state.coefficient[s] = k % 2 ? -q(s, k + 1) : q(s, k + 1);
      any_active = true;
    }
    if (!any_active) break;
    spread(layout, state.coefficient);
    if (y) add_scaled(layout, state.coefficient, walk.state[0], channels, false, y);
  }
}

template <class T>
void residual_logdet(const Branch<T>& branch, const ResidualLogdetOperands<T>& op, const Parallel& parallel) {
  Workspace workspace;
  Prepared<T> prepared(branch, parallel, workspace);
  prepared.pack(kPackForward | kPackTransposed, workspace);
  const Layout<T>& layout = prepared.layout;
  const int channels = branch.stage[0].in_channels;
  const int64_t size = branch.in_size();
  Walk<T>** walks = make_walks(prepared, Order::kFirst, false, workspace);
  auto** states = workspace.take<SeriesState<T>*>(prepared.chunks);
  T** v = workspace.take<T*>(prepared.chunks);
  T** y = workspace.take<T*>(prepared.chunks);
  T** jv = workspace.take<T*>(prepared.chunks);
  T*** t = workspace.take<T**>(prepared.chunks);
  const PreparedTraces<T> traces(prepared, op.series.traces, false, workspace);
  const Kept<T> kept(prepared);
  if (op.kept) kept.write_header(op.kept);
  for (int i = 0; i < prepared.chunks; ++i) {
    states[i] = new (workspace.take<char>(sizeof(SeriesState<T>))) SeriesState<T>(layout.slots(), workspace);
    v[i] = prepared.take(channels, workspace);
    y[i] = op.series.neumann ? prepared.take(channels, workspace) : nullptr;
    jv[i] = op.kept ? prepared.take(channels, workspace) : nullptr;
    t[i] = workspace.take<T*>(branch.stages);
  }

  for_each_chunk(prepared, [&](int64_t chunk) {
    Walk<T>& walk = *walks[chunk];
    SeriesState<T>& state = *states[chunk];
    for_each_tile(prepared, chunk, [&](int64_t first, int samples) {
      if (op.kept) {
        T* piece = kept.piece(op.kept, chunk, first);
        kept.point(piece, walk.a, walk.h, t[chunk]);
        kept.clear_pads(piece);
      }
      load_events(layout, op.x + first * size, samples, channels, walk.x);
      walk.load_operands(first, samples);
      walk.template forward<Order::kFirst>();
      if (op.z) store_events(layout, walk.g, samples, channels, op.z + first * size, op.x + first * size);
      T* const value = op.series.value + first;
      std::memset(value, 0, sizeof(T) * samples);
      traces.add_values(layout, walk.d, first, samples, walk.state[0], state.dot, value);
      for (int probe = 0; probe < op.probes; ++probe) {
        const int64_t row = probe * branch.batch + first;
        load_events(layout, op.probe + row * size, samples, channels, v[chunk]);
        if (op.kept) {
          std::memcpy(walk.state[0], v[chunk], sizeof(T) * layout.size(channels));
          walk.jvp(t[chunk]);
          std::memcpy(jv[chunk], walk.state[0], sizeof(T) * layout.size(channels));
        }
        series_chain(walk, op.series, first, samples, v[chunk], jv[chunk], y[chunk], state);
        for (int s = 0; s < samples; ++s) {
          value[s] += state.value[s] / static_cast<T>(op.probes);
          op.series.norms[row + s] = state.norm[s];
          op.series.terms_used[row + s] = state.terms[s];
        }
        if (op.series.neumann) store_events(layout, y[chunk], samples, channels, op.series.neumann + row * size);
      }
    });
  });
}

// (J^T)^k or J^k of a start vector, k = 1 .. n: what the gradient of the series itself is made of
// (docs/mathematics.md, 4b).
template <class T>
void jacobian_powers(const Branch<T>& branch, const JacobianPowersOperands<T>& op, const Parallel& parallel) {
  Workspace workspace;
  Prepared<T> prepared(branch, parallel, workspace);
  prepared.pack(kPackForward | kPackTransposed, workspace);
  const int channels = branch.stage[0].in_channels;
  const int64_t size = branch.in_size();
  Walk<T>** walks = make_walks(prepared, Order::kFirst, false, workspace);
  for_each_chunk(prepared, [&](int64_t chunk) {
    Walk<T>& walk = *walks[chunk];
    for_each_tile(prepared, chunk, [&](int64_t first, int samples) {
      load_events(prepared.layout, op.x + first * size, samples, channels, walk.x);
      walk.load_operands(first, samples);
      walk.template forward<Order::kFirst>();
      load_events(prepared.layout, op.start + first * size, samples, channels, walk.state[0]);
      for (int k = 0; k < op.count; ++k) {
        op.transpose ? walk.vjp() : walk.jvp();
        store_events(prepared.layout, walk.state[0], samples, channels, op.powers + (k * branch.batch + first) * size);
      }
    });
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
