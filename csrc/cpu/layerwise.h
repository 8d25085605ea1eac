// g(x), its series and its powers layer by layer: the twins of branch.h and residual_logdet.h.
#pragma once

#include "cpu/layerwise_traces.h"
#include "cpu/residual_logdet.h"

namespace irf {
namespace IRF_ISA {
namespace {

// What the forward pass of a training step leaves for the backward pass, slab by slab: h_i and D t_i of every inner
// stage, or a_i and t_i where h_i does not tell the derivatives. As in cpu/kept.h, words in front say how it lies; no
// header of tiles has a negative number of chunks.
template <class T>
class LayerKept {
 public:
  explicit LayerKept(const Branch<T>& branch) : branch_(branch) {
    for (int i = 1; i < branch.stages; ++i) per_sample_ += 2 * branch.pixels() * branch.stage[i].in_channels;
  }

  int64_t size() const { return kHeader + branch_.batch * per_sample_; }

  void write_header(T* kept) const {
    const Header header = this->header();
    std::memcpy(kept, &header, sizeof header);
  }

  bool fits(const T* kept, int64_t kept_size) const {
    const Header header = this->header();
    return kept != nullptr && kept_size == size() && std::memcmp(kept, &header, sizeof header) == 0;
  }

  // Points h, or a, of stages 1 .. L-1 into `kept`, for the slab that begins with sample `first`.
  void point(T* kept, int64_t first, const LayerWalk<T>& walk) const {
    T* piece = kept + kHeader + first * per_sample_;
    for (int i = 1; i < branch_.stages; ++i) {
      StageRows<T>& rows = walk.stage[i];
      (known_from_value(branch_.stage[i]) ? rows.h : rows.a) = piece;
      piece += 2 * walk.numbers(i);
    }
  }

 private:
  struct Header {
    int64_t chunks, slab, element, reserved;
  };
  static constexpr int64_t kHeader = 64 / sizeof(T);

  Header header() const { return {-1, slab_samples(branch_, 2), int64_t(sizeof(T)), 0}; }

  const Branch<T>& branch_;
  int64_t per_sample_ = 0;
};

template <class T>
int64_t layerwise_kept_size(const Branch<T>& branch) {
  return LayerKept<T>(branch).size();
}

template <class T>
bool layerwise_kept_fits(const Branch<T>& branch, const T* kept, int64_t kept_size) {
  return LayerKept<T>(branch).fits(kept, kept_size);
}

template <class T>
void layerwise_branch(const Branch<T>& branch, const BranchOperands<T>& op, const Parallel& parallel,
                      const LibraryProducts<T>& library) {
  Workspace workspace;
  LayerWalk<T> walk(branch, parallel, library, Leaves::kValue, Holds::kShared, 0, 0, workspace);
  const Stage<T>& last = branch.stage[branch.stages - 1];
  for_each_slab(walk, [&](int64_t first) {
    const T* x = op.x + first * walk.size();
    walk.forward(x, nullptr, branch.stages);
    add_rows(parallel, walk.outputs(), walk.finish(), walk.bias(branch.stages - 1), op.residual ? x : nullptr,
             op.g + first * last.out_channels * branch.pixels());
  });
}

// (J^T)^k or J^k of a start vector.
template <class T>
void layerwise_jacobian_powers(const Branch<T>& branch, const JacobianPowersOperands<T>& op, const Parallel& parallel,
                               const LibraryProducts<T>& library) {
  Workspace workspace;
  LayerWalk<T> walk(branch, parallel, library, Leaves::kDerivatives, Holds::kShared, 0, 1, workspace);
  for_each_slab(walk, [&](int64_t first) {
    const int64_t bytes = sizeof(T) * walk.numbers(0);
    walk.forward(op.x + first * walk.size(), nullptr, branch.stages);
    std::memcpy(walk.state, op.start + first * walk.size(), bytes);
    for (int k = 0; k < op.count; ++k) {
      if (op.transpose)
        scale_rows(parallel, walk.numbers(0), 1, walk.vjp(1), walk.stage[0].d, walk.state);
      else
        walk.jvp();
      std::memcpy(op.powers + (k * branch.batch + first) * walk.size(), walk.state, bytes);
    }
  });
}

// The series of all probes of one slab, whose derivatives are frozen; their events one after the other are its items.
template <class T>
class LayerSeries {
 public:
  LayerSeries(const LayerWalk<T>& walk, const ResidualLogdetOperands<T>& op, Workspace& workspace)
      : walk_(walk),
        op_(op),
        state_(static_cast<int>(op.probes * walk.most_samples), workspace),
        jv_(op.kept ? walk.take_rows(1, walk.branch.stage[0].in_channels, workspace) : nullptr) {}

  void keep_tangent(const T* jv) { std::memcpy(jv_, jv, sizeof(T) * walk_.numbers(0)); }

  // Of the slab that begins with sample `first`: adds to the values.
  void run(int64_t first) {
    first_ = first;
    int terms = 0;
    for (int64_t s = 0; s < walk_.samples; ++s)
      terms = max_of(terms, last_term(op_.series.coefficients_of(first_ + s), op_.series.terms));
    each_item([&](int64_t item) { begin(item); });
    bool active = terms > 0;
    for (int k = 1; k <= terms && active; ++k) {
      const bool shortcut = jv_ && k == terms;
      const T* product = shortcut ? nullptr : walk_.vjp(op_.probes);
      each_item([&](int64_t item) { add_term(item, k, product); });
      active = false;
      for (int64_t item = 0; item < items(); ++item) active |= state_.active[item];
    }
    store();
  }

 private:
  int64_t items() const { return op_.probes * walk_.samples; }
  int64_t sample(int64_t item) const { return first_ + item % walk_.samples; }
  // Of an item among all events [m, B].
  int64_t row(int64_t item) const { return item / walk_.samples * walk_.branch.batch + sample(item); }
  T q(int64_t item, int k) const { return chain_coefficient(op_.series, sample(item), k); }
  const T* v(int64_t item) const { return op_.probe + row(item) * walk_.size(); }
  T* y(int64_t item) const { return op_.series.neumann + row(item) * walk_.size(); }

  template <class Body>
  void each_item(const Body& body) const {
    each_share(walk_.parallel, items(), items() * walk_.size(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) body(item);
    });
  }

  void begin(int64_t item) {
    const Series<T>& series = op_.series;
    const T* probe = v(item);
    T* w = walk_.state + item * walk_.size();
    const int last = last_term(series.coefficients_of(sample(item)), series.terms);
    const Vector<T> factor = broadcast(last > 0 ? q(item, 1) : T(0));
    Vector<T> square{};
    each_vector<T>(0, walk_.size(), [&](int64_t k, int lanes) {
      const Vector<T> value = load_first(probe + k, lanes);
      store_first(w + k, value, lanes);
      square = fma(value, value, square);
      if (series.neumann) store_first(y(item) + k, factor * value, lanes);
    });
    const T length = __builtin_sqrt(sum_lanes<T>(square));
    state_.last[item] = last;
    state_.limit[item] = series.relative ? series.tolerance * length : series.tolerance / length;
    state_.norm[item] = length;
    state_.value[item] = T(0);
    state_.terms[item] = 0;
    state_.active[item] = last > 0;
  }

  // Term k from w_k = D_0 product, or, without a product, from <w_{k-1}, J v>.
  void add_term(int64_t item, int k, const T* product) {
    const Series<T>& series = op_.series;
    const T* other = product ? v(item) : jv_ + item * walk_.size();
    const T* source = (product ? product : walk_.state) + item * walk_.size();
    const T* d = product && walk_.stage[0].d ? walk_.stage[0].d + item % walk_.samples * walk_.size() : nullptr;
    T* w = walk_.state + item * walk_.size();
    Vector<T> dot{}, square{};
    each_vector<T>(0, walk_.size(), [&](int64_t i, int lanes) {
      Vector<T> value = load_first(source + i, lanes);
      if (d) value = value * load_first(d + i, lanes);
      store_first(w + i, value, lanes);
      dot = fma(value, load_first(other + i, lanes), dot);
      square = fma(value, value, square);
    });
    if (!state_.active[item]) return;
    const T coefficient = k % 2 ? q(item, k) : -q(item, k);
    state_.value[item] += coefficient / static_cast<T>(k) * sum_lanes<T>(dot);
    state_.norm[item] = __builtin_sqrt(sum_lanes<T>(square));
    state_.terms[item] = k;
    if (k == state_.last[item] || (series.tail && state_.norm[item] * series.tail[k - 1] <= state_.limit[item])) {
      state_.active[item] = false;
      return;
    }
    if (!series.neumann) return;
    const Vector<T> next = broadcast(k % 2 ? -q(item, k + 1) : q(item, k + 1));
    T* sum = y(item);
    each_vector<T>(0, walk_.size(), [&](int64_t i, int lanes) {
      store_first(sum + i, fma(next, load_first(w + i, lanes), load_first(sum + i, lanes)), lanes);
    });
  }

  void store() const {
    for (int64_t item = 0; item < items(); ++item) {
      op_.series.value[sample(item)] += state_.value[item] / static_cast<T>(op_.probes);
      op_.series.norms[row(item)] = state_.norm[item];
      op_.series.terms_used[row(item)] = state_.terms[item];
    }
  }

  const LayerWalk<T>& walk_;
  const ResidualLogdetOperands<T>& op_;
  SeriesState<T> state_;
  T* jv_;  // J v
  int64_t first_ = 0;
};

template <class T>
void layerwise_residual_logdet(const Branch<T>& branch, const ResidualLogdetOperands<T>& op, const Parallel& parallel,
                               const LibraryProducts<T>& library) {
  Workspace workspace;
  LayerWalk<T> walk(branch, parallel, library, Leaves::kDerivatives, Holds::kShared, op.kept ? 1 : 0, op.probes,
                    workspace);
  const LayerKept<T> kept(branch);
  LayerSeries<T> series(walk, op, workspace);
  if (op.kept) kept.write_header(op.kept);
  for_each_slab(walk, [&](int64_t first) {
    if (op.kept) kept.point(op.kept, first, walk);
    const T* x = op.x + first * walk.size();
    walk.forward(x, op.kept ? op.probe + first * walk.size() : nullptr, branch.stages);
    const T* product = op.z || op.kept ? walk.finish() : nullptr;
    if (op.z) add_rows(parallel, walk.outputs(), product, walk.bias(branch.stages - 1), x, op.z + first * walk.size());
    if (op.kept) series.keep_tangent(product + walk.numbers(0));
    std::memset(op.series.value + first, 0, sizeof(T) * walk.samples);
    add_trace_values(walk, op.series.traces, op.series.value);
    series.run(first);
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
