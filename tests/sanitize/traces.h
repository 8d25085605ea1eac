// Exact first terms: two traces of the activations of a branch, with maps of random numbers.
#pragma once

#include "differences.h"

namespace {

// The first activation beside a map alone, and the last beside one of the first; none if all stages are identities.
template <class T>
struct TraceData {
  std::vector<Numbers<T>> maps;
  std::vector<irf::Trace<T>> traces;
  int64_t map_numbers = 0;

  explicit TraceData(const BranchData<T>& data) {
    int first = -1, last = -1, kernel = 1;
    for (int i = 0; i < data.branch.stages; ++i) {
      const irf::Stage<T>& stage = data.branch.stage[i];
      kernel = std::max(kernel, stage.kernel);
      if (stage.identity()) continue;
      if (first < 0) first = i;
      last = i;
    }
    if (first < 0) return;
    const int inner = data.branch.stage[first].in_channels, outer = data.branch.stage[last].in_channels;
    maps = {random_numbers<T>(inner * data.branch.pixels()),
            random_numbers<T>(int64_t(outer) * inner * kernel * kernel, 1.0f / float(inner * kernel * kernel))};
    traces = {{first, -1, 1, nullptr, int64_t(maps[0].size())},
              {last, first, kernel, nullptr, int64_t(maps[1].size())}};
    for (const Numbers<T>& map : maps) map_numbers += map.size();
    point();
  }

  // The same with maps moved by `step` times a direction, packed.
  TraceData moved(const T* direction, T step) const {
    TraceData result(*this);
    for (Numbers<T>& map : result.maps)
      for (T& number : map) number += step * *direction++;
    result.point();
    return result;
  }

  irf::Traces<T> with(const Numbers<T>& coefficients, int terms, bool per_sample) const {
    return {int(traces.size()), traces.data(), coefficients.data(), terms, per_sample};
  }

  TraceData(TraceData&&) = default;

 private:
  TraceData(const TraceData&) = default;  // points to the other's numbers

  void point() {
    for (size_t i = 0; i < traces.size(); ++i) traces[i].map = maps[i].data();
  }
};

// What a call with traces is made of.
template <class T>
struct TraceCall {
  const BranchCase& c;
  int terms;
  const Numbers<T>&x, &v, &grad, &weight, &coefficients;
};

// Value, Neumann vectors and gradients of a call with both traces and its probes, and of one that keeps.
template <class T>
void check_traces(const BranchData<T>& data, const TraceData<T>& own, const Ways<T>& ways, const TraceCall<T>& call,
                  const irf::Parallel& parallel, const std::string& where, std::vector<Numbers<T>>& results) {
  if (own.traces.empty()) return;
  const irf::Traces<T> traces = own.with(call.coefficients, call.terms, call.c.per_sample);
  const int64_t batch = call.c.batch, all = int64_t(call.x.size());
  auto run = [&](int probes, bool keep) {
    Numbers<T> value = unwritten<T>(batch), neumann = unwritten<T>(probes * all), norms = unwritten<T>(probes * batch);
    Numbers<int64_t> used(probes * batch, -1);
    Numbers<T> kept = unwritten<T>(keep ? ways.kept_size(data.branch, parallel) : 0);
    irf::ResidualLogdetOperands<T> forward{};
    forward.x = call.x.data(), forward.probes = probes, forward.probe = call.v.data();
    forward.series = {.terms = call.terms,
                      .coefficients = call.coefficients.data(),
                      .per_sample = call.c.per_sample,
                      .value = value.data(),
                      .neumann = neumann.data(),
                      .norms = norms.data(),
                      .terms_used = used.data(),
                      .traces = traces};
    forward.kept = keep ? kept.data() : nullptr;
    ways.residual_logdet(data.branch, forward, parallel);
    Numbers<T> grad_x = unwritten<T>(all), packed = unwritten<T>(data.parameter_count + own.map_numbers);
    irf::BranchBackwardOperands<T> op{};
    op.x = call.x.data(), op.grad = call.grad.data(), op.residual = true;
    op.pairs = probes, op.tangents = call.v.data(), op.cotangents = neumann.data(), op.weight = call.weight.data();
    op.kept = forward.kept, op.kept_size = int64_t(kept.size());
    op.traces = traces;
    op.grad_x = grad_x.data(), op.grad_parameters = packed.data();
    ways.branch_backward(data.branch, op, parallel);
    Numbers<T> alone = unwritten<T>(packed.size());
    op.grad_x = nullptr, op.grad_parameters = alone.data();
    ways.branch_backward(data.branch, op, parallel);
    expect(close(alone, packed), where, "with traces, the gradient of the parameters depends on that of x");
    return std::vector<Numbers<T>>{value, neumann, grad_x, packed};
  };
  for (const Numbers<T>& each : run(call.c.probes, false)) results.push_back(each);
  const std::vector<Numbers<T>> plain = run(1, false), kept = run(1, true);
  for (size_t k = 0; k < plain.size(); ++k)
    expect(close(kept[k], plain[k]), where, "with traces, result " + std::to_string(k) + " from what was kept differs");
  for (const Numbers<T>& each : kept) results.push_back(each);
}

// A series of two terms, both exact: its value, which no probe has a part in.
inline Numbers<double> value_of_traces(const Ways<double>& ways, const irf::Branch<double>& branch,
                                       const irf::Traces<double>& traces, const Numbers<double>& x,
                                       const irf::Parallel& parallel) {
  Numbers<double> value = unwritten<double>(branch.batch), norms(branch.batch), probe(x.size(), 0.0);
  Numbers<int64_t> used(branch.batch);
  irf::ResidualLogdetOperands<double> op{};
  op.x = x.data(), op.probes = 1, op.probe = probe.data();
  op.series = {.terms = traces.count,
               .coefficients = traces.coefficients,
               .value = value.data(),
               .norms = norms.data(),
               .terms_used = used.data(),
               .traces = traces};
  ways.residual_logdet(branch, op, parallel);
  return value;
}

// The derivative by x, every parameter and every map along a random direction.
inline void check_trace_differences(const BranchData<double>& data, const TraceData<double>& own,
                                    const Ways<double>& ways, const TraceCall<double>& call,
                                    const irf::Parallel& parallel, const std::string& where) {
  if (own.traces.empty()) return;
  const uint64_t state = random_state<double>;  // float32 draws no directions
  const Numbers<double> q = {0.75, -1.5};
  const int64_t all = int64_t(call.x.size()), count = data.parameter_count + own.map_numbers;
  const Numbers<double> along_x = random_numbers<double>(all), along = random_numbers<double>(count);
  double difference = 0;
  for (double sign : {-1.0, 1.0}) {
    const BranchData<double> there = data.moved(along, sign * kStep);
    const TraceData<double> maps = own.moved(along.data() + data.parameter_count, sign * kStep);
    Numbers<double> x(call.x);
    for (int64_t i = 0; i < all; ++i) x[i] += sign * kStep * along_x[i];
    const Numbers<double> value = value_of_traces(ways, there.branch, maps.with(q, 2, false), x, parallel);
    difference += sign * dot(value.data(), call.weight.data(), call.c.batch) / (2 * kStep);
  }
  const Numbers<double> zeros(all, 0.0);
  Numbers<double> grad_x = unwritten<double>(all), packed = unwritten<double>(count);
  irf::BranchBackwardOperands<double> op{};
  op.x = call.x.data(), op.pairs = 1, op.tangents = call.v.data(), op.cotangents = zeros.data();
  op.weight = call.weight.data(), op.traces = own.with(q, 2, false);
  op.grad_x = grad_x.data(), op.grad_parameters = packed.data();
  ways.branch_backward(data.branch, op, parallel);
  const double derivative = dot(grad_x.data(), along_x.data(), all) + dot(packed.data(), along.data(), count);
  expect(near_difference(derivative, difference), where,
         "a derivative of traces is " + std::to_string(derivative) + ", not " + std::to_string(difference));
  random_state<double> = state;
}

}  // namespace
