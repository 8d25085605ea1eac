#include "torch/flow_program.h"

#include <algorithm>
#include <bit>

namespace irf::binding {
namespace {

// Reads a list from its front and checks that it is long enough.
template <class List>
class Reader {
 public:
  Reader(const List& list, const char* name) : list_(list), name_(name) {}

  bool done() const { return at_ == list_.size(); }
  const typename List::value_type& next() {
    STD_TORCH_CHECK(!done(), name_, " must hold all that its steps need, got only ", list_.size(),
                    " entries; add what is missing.");
    return list_[at_++];
  }
  List next(int64_t count) {
    STD_TORCH_CHECK(0 <= count && count <= static_cast<int64_t>(list_.size() - at_), name_,
                    " must hold all that its steps need, got only ", list_.size(), " entries; add what is missing.");
    const auto first = list_.begin() + at_;
    at_ += count;
    return List(first, first + count);
  }
  void check_done() const {
    STD_TORCH_CHECK(done(), name_, " must hold only what its steps need, got ", list_.size() - at_,
                    " entries more; leave them out.");
  }

 private:
  const List& list_;
  const char* name_;
  size_t at_ = 0;
};

template <class Enum>
Enum checked_enum(int64_t value, const char* name) {
  STD_TORCH_CHECK(0 <= value && value < static_cast<int64_t>(Enum::kCount), name, " must be from 0 to ",
                  static_cast<int64_t>(Enum::kCount) - 1, ", got ", value, "; pass one of them.");
  return static_cast<Enum>(value);
}

}  // namespace

FlowProgram::FlowProgram(const Tensor& x, const Tensors& tensors, const Tensors& draws,
                         const std::vector<int64_t>& program)
    : x_(dense(x)) {
  STD_TORCH_CHECK(x.dim() == 2 || x.dim() == 4, "x must be [B, d] or [B, C, H, W], got ", x.dim(),
                  " dimensions; reshape it.");
  Reader numbers(program, "program");
  Reader owned(tensors, "tensors");
  Reader drawn(draws, "draws");
  Tensor state = x_;  // of the shape of what comes into the next step; its numbers are those of x
  while (!numbers.done()) {
    FlowStep step{.kind = checked_enum<StepKind>(numbers.next(), "the kind of a step"),
                  .sizes = {batch(), checked_int(state.size(1), 0, "the channels of x"),
                            state.dim() == 2 ? 1
                                             : checked_product({state.size(2), state.size(3)}, kLargestInt,
                                                               "height x width of an image")},
                  .tensors = {},
                  .parameters = parameter_count_};
    if (step.kind == StepKind::kNormalize) {
      step.tensors = owned.next(2);
      add_normalize(step);
    } else if (step.kind == StepKind::kRearrange) {
      step.tensors = owned.next(1);
      state = add_rearrange(step, numbers.next(numbers.next()));
    } else {
      step.logdet = checked_enum<Logdet>(numbers.next(), "the log-determinant of a step");
      step.precision = checked_precision(numbers.next());
      const int64_t stages = checked_int(numbers.next(), 1, "the number of stages");
      const std::vector<int64_t> activations = numbers.next(stages);
      std::vector<double> constants;
      for (const int64_t bits : numbers.next(stages)) constants.push_back(std::bit_cast<double>(bits));
      add_residual(step, state, owned.next(4 * stages), activations, constants);
      const int64_t traces = checked_int(numbers.next(), 0, "the number of exact terms");
      step.traces = TraceArguments(*step.branch, owned.next(traces), numbers.next(2 * traces));
      STD_TORCH_CHECK(traces == 0 || step.series(), "only a series has exact terms, got ", traces,
                      " of another log-determinant; leave them out.");
      parameter_count_ += step.traces.parameter_count();
      if (step.series()) {
        const Tensor& probe = drawn.next();
        add_draws(step, state, probe, drawn.next());
      }
    }
    logdets_ += step.has_logdet();
    most_probes_ = std::max(most_probes_, step.probes);
    steps_.push_back(std::move(step));
  }
  owned.check_done();
  drawn.check_done();
  for (int64_t axis = 0; axis < state.dim(); ++axis) z_sizes_.push_back(state.size(axis));
  lay_out();
}

void FlowProgram::add_normalize(FlowStep& step) {
  for (Tensor& t : step.tensors) {
    check_like(t, x_, step.sizes.channels, "the tensors of a normalisation");
    STD_TORCH_CHECK(t.dim() == 1, "the tensors of a normalisation must be [C], got ", t.dim(),
                    " dimensions; reshape them.");
    t = dense(t);
  }
  parameter_count_ += 2 * int64_t(step.sizes.channels);
}

Tensor FlowProgram::add_rearrange(FlowStep& step, std::vector<int64_t> event) {
  Tensor& index = step.tensors[0];
  STD_TORCH_CHECK(index.device() == x_.device() && index.scalar_type() == ScalarType::Long && index.dim() == 1,
                  "an index must be [d] int64 on the device of x; convert it.");
  STD_TORCH_CHECK(event.size() == 1 || event.size() == 3, "an event must be [d] or [C, H, W], got ", event.size(),
                  " dimensions; reshape it.");
  const int64_t size = step.sizes.event_size();
  int64_t product = 1;
  for (const int64_t side : event)
    product = checked_product({product, checked_int(side, 0, "the sizes of an event")}, kLargestInt, "an event");
  STD_TORCH_CHECK(index.size(0) == size && product == size, "an index and its event must have ", size,
                  " numbers as the events that come in, got ", index.size(0), " and ", product, "; change them.");
  index = dense(index);
  event.insert(event.begin(), batch());
  return torch::stable::view(x_, event);
}

void FlowProgram::add_residual(FlowStep& step, const Tensor& state, const Tensors& own,
                               const std::vector<int64_t>& activations, const std::vector<double>& constants) {
  const auto stages = static_cast<int64_t>(activations.size());
  auto list = [&](int64_t i) { return Tensors(own.begin() + i * stages, own.begin() + (i + 1) * stages); };
  const Tensors betas = list(2);
  step.branch.emplace(state, list(0), list(1), betas, list(3), activations, constants);
  for (int64_t i = 0; i < stages; ++i)
    STD_TORCH_CHECK(betas[i].dim() <= 1, "a beta must be [] or [1], got more dimensions; reshape it.");
  STD_TORCH_CHECK(step.branch->square(),
                  "a residual branch must return the shape it takes, got other outputs; change them.");
  if (step.logdet == Logdet::kExact)
    checked_product({event_size(), event_size()}, kLargestInt, "the square of the size of an event");
  parameter_count_ += step.branch->parameter_count();
}

void FlowProgram::add_draws(FlowStep& step, const Tensor& state, const Tensor& probe, const Tensor& coefficients) {
  const int64_t leading = probe.dim() - state.dim();
  bool fits = leading == 0 || leading == 1;
  for (int64_t axis = 0; fits && axis < state.dim(); ++axis) fits = probe.size(axis + leading) == state.size(axis);
  STD_TORCH_CHECK(fits,
                  "a probe must have the shape of what comes into its step, or that with the number of probes "
                  "in front; reshape it.");
  step.probes = leading == 0 ? 1 : checked_int(probe.size(0), 1, "the number of probes");
  step.per_sample = coefficients.dim() == 2;
  fits = coefficients.dim() == 1 || (step.per_sample && coefficients.size(0) == batch());
  STD_TORCH_CHECK(fits, "coefficients must be [n] or [B, n], got others; reshape them.");
  const int64_t least = step.traces.count() > 1 ? step.traces.count() : 1;
  step.terms = checked_int(coefficients.size(step.per_sample ? 1 : 0), least, "the number of terms");
  check_like(probe, x_, probe.numel(), "probe");
  check_like(coefficients, x_, coefficients.numel(), "coefficients");
  step.probe = dense(probe);
  step.coefficients = dense(coefficients);
}

void FlowProgram::lay_out() {
  saved_.assign(steps_.size() + 1, kNotSaved);
  for (int i = 0; i < count(); ++i) {
    FlowStep& step = steps_[i];
    // A block reads what came in, a normalisation what it made of it; x and z are not saved once more.
    const bool read = step.kind == StepKind::kResidual || (i > 0 && steps_[i - 1].kind == StepKind::kNormalize);
    if (i > 0 && read) {
      saved_[i] = saved_size_;
      saved_size_ += state_size();
    }
    if (step.series()) {
      step.neumann = saved_size_;
      saved_size_ += step.probes * state_size();
    }
  }
}

}  // namespace irf::binding
