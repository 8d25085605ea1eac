// A chain of steps as it comes from Python, checked: a list of numbers says what each step is, another one holds the
// tensors of all of them, a third the draws of their series.
#pragma once

#include <optional>

#include "torch/traces.h"

namespace irf::binding {

// Numbers of the list `program`: the kind of a step, then, of
//   a normalisation: nothing;
//   a rearrangement: how many dimensions the events of z have, and their sizes;
//   a residual block: its log-determinant, the precision of its products, the number of stages L, L ids of
//   activations, the bits of L constants of them (float64), the number of exact terms of its series, and the left and
//   the right stage of each (torch/traces.h). Its tensors: 4 L of the stages, then the maps.
enum class StepKind : int64_t { kNormalize, kRearrange, kResidual, kCount };
enum class Logdet : int64_t { kNone, kSeries, kExact, kCount };

struct FlowStep {
  StepKind kind;
  ChannelSizes sizes;  // of what comes in
  Tensors tensors;     // of a normalisation: bias, log_scale; of a rearrangement: index
  int64_t parameters;  // where its gradients begin in the packed ones

  // Of a residual block.
  std::optional<BranchArguments> branch;
  TraceArguments traces;
  Logdet logdet = Logdet::kNone;
  int64_t precision = 0;
  std::optional<Tensor> probe, coefficients;  // [m, B, *event] or [B, *event]; [n] or [B, n]
  int probes = 0, terms = 0;
  bool per_sample = false;
  int64_t neumann = 0;  // where its Neumann vectors [m, B, d] begin in what is saved

  template <class T>
  Traces<T> fill_traces(std::vector<Trace<T>>& places) const {
    return traces.fill<T>(places, data<T>(coefficients), terms, per_sample);
  }
  bool series() const { return logdet == Logdet::kSeries; }
  bool has_logdet() const { return kind == StepKind::kNormalize || logdet != Logdet::kNone; }
  bool keeps() const { return logdet != Logdet::kNone; }  // what its backward pass need not compute again
  bool has_parameters() const { return kind != StepKind::kRearrange; }
};

// State i is what comes into step i, [B, d]; the last one is z. Those that the backward pass reads are saved one after
// the other, and the Neumann vectors of all series between them.
class FlowProgram {
 public:
  FlowProgram(const Tensor& x, const Tensors& tensors, const Tensors& draws, const std::vector<int64_t>& program);

  static constexpr int64_t kNotSaved = -1;

  const Tensor& x() const { return x_; }  // contiguous
  const std::vector<FlowStep>& steps() const { return steps_; }
  int count() const { return static_cast<int>(steps_.size()); }
  const std::vector<int64_t>& z_sizes() const { return z_sizes_; }
  int64_t batch() const { return x_.size(0); }
  int64_t state_size() const { return x_.numel(); }
  int64_t event_size() const { return batch() == 0 ? 0 : x_.numel() / batch(); }
  int64_t saved(int state) const { return saved_[state]; }  // where it begins, or kNotSaved
  int64_t saved_size() const { return saved_size_; }
  int64_t parameter_count() const { return parameter_count_; }
  int logdets() const { return logdets_; }
  int most_probes() const { return most_probes_; }
  bool ends_with_normalize() const { return count() > 0 && steps_.back().kind == StepKind::kNormalize; }

 private:
  void add_normalize(FlowStep& step);
  Tensor add_rearrange(FlowStep& step, std::vector<int64_t> event);  // returns x in the shape of z
  void add_residual(FlowStep& step, const Tensor& state, const Tensors& own, const std::vector<int64_t>& activations,
                    const std::vector<double>& constants);
  void add_draws(FlowStep& step, const Tensor& state, const Tensor& probe, const Tensor& coefficients);
  void lay_out();

  Tensor x_;
  std::vector<FlowStep> steps_;
  std::vector<int64_t> z_sizes_;
  std::vector<int64_t> saved_;  // [steps + 1]
  int64_t saved_size_ = 0, parameter_count_ = 0;
  int logdets_ = 0, most_probes_ = 0;
};

}  // namespace irf::binding
