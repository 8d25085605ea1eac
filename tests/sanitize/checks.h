// Numbers, threads, comparisons, and the loop over the instruction sets and thread counts.
#pragma once

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cpu/isa.h"
#include "cpu/kernels.h"

namespace {

using irf::Isa;
template <class T>
using Numbers = std::vector<T>;

inline int failures = 0;

void expect(bool good, const std::string& where, const std::string& what) {
  if (good) return;
  ++failures;
  if (failures <= 20) std::printf("FAILED %s: %s\n", where.c_str(), what.c_str());
}

template <class T>
inline uint64_t random_state = 1;

// Uniform in [-scale, scale], the same on every run, and in float64 the same as in float32.
template <class T>
Numbers<T> random_numbers(int64_t count, float scale = 1) {
  uint64_t& state = random_state<T>;
  Numbers<T> numbers(count);
  for (T& number : numbers) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    number = scale * (float(double(state >> 11) / double(uint64_t(1) << 52)) - 1);
  }
  return numbers;
}

// Not a number, so that an element which is read before it is written, or never written, shows.
template <class T>
Numbers<T> unwritten(int64_t count) {
  return Numbers<T>(count, std::numeric_limits<T>::quiet_NaN());
}

void run_alone(int64_t count, void (*task)(int64_t, void*), void* context) {
  for (int64_t i = 0; i < count; ++i) task(i, context);
}

// Three threads that stay: a new one costs an emulator of another processor milliseconds, and memory that it keeps.
class ThreeThreads {
 public:
  ThreeThreads() {
    for (int64_t first = 0; first < 3; ++first) threads_.emplace_back([this, first] { serve(first); });
  }
  ~ThreeThreads() {
    start(0, nullptr, nullptr);
    for (std::thread& thread : threads_) thread.join();
  }

  void run(int64_t count, void (*task)(int64_t, void*), void* context) {
    start(count, task, context);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void start(int64_t count, void (*task)(int64_t, void*), void* context) {
    const std::lock_guard lock(mutex_);
    count_ = count, task_ = task, context_ = context;
    busy_ = 3;
    ++call_;
    changed_.notify_all();
  }

  // No task: the end.
  void serve(int64_t first) {
    for (int64_t call = 1;; ++call) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this, call] { return call_ == call; });
      if (!task_) return;
      lock.unlock();
      for (int64_t i = first; i < count_; i += 3) task_(i, context_);
      lock.lock();
      if (--busy_ == 0) changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t call_ = 0, count_ = 0;
  int busy_ = 0;
  void (*task_)(int64_t, void*) = nullptr;
  void* context_ = nullptr;
  std::vector<std::thread> threads_;  // last: they see the rest
};

void run_on_three(int64_t count, void (*task)(int64_t, void*), void* context) {
  static ThreeThreads threads;
  threads.run(count, task, context);
}

const irf::Parallel kParallels[] = {{1, run_alone}, {3, run_on_three}};

// At most a few hundred terms of size 1 per sum, in any order.
template <class T>
T tolerance() {
  return 1000 * std::numeric_limits<T>::epsilon();
}

template <class T>
bool close(const Numbers<T>& a, const Numbers<T>& b) {
  T scale = 1;
  for (T number : b) scale = std::max(scale, std::abs(number));
  for (size_t i = 0; i < a.size(); ++i)
    if (!(std::abs(a[i] - b[i]) <= tolerance<T>() * scale)) return false;
  return a.size() == b.size();
}

template <class T>
double dot(const T* a, const T* b, int64_t size) {
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

template <class T>
bool near(double a, double b, double terms) {
  return std::abs(a - b) <= tolerance<T>() * std::max({1.0, std::abs(b), std::sqrt(terms)});
}

template <class T>
constexpr const char* kTypeName = sizeof(T) == 4 ? "float32" : "float64";

// Results of a case in float64, by its name: what float32 is judged by.
inline std::map<std::string, std::vector<Numbers<double>>> exact_results;

// Errors of an instruction set in float32, in eps of the largest number of a result: its own and those of "scalar".
struct Tally {
  double error = 0, scalar = 0;
  double share = 0;  // the largest part of what it was allowed
};
inline std::map<std::string, Tally> tallies;

// max |a - b|
template <class T>
double distance(const Numbers<T>& a, const Numbers<double>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(double(a[i]) - b[i]));
  return largest;
}

// Every instruction set may be twice as far from float64 as "scalar", which rounds each product and each sum, and 4 eps
// for what that happens to round well, as tests/comparison.py has it.
void judge(const std::string& where, const char* isa, const std::vector<Numbers<float>>& results,
           const std::vector<Numbers<float>>& scalar, const std::vector<Numbers<double>>& exact) {
  expect(results.size() == exact.size(), where, "float32 and float64 have other results");
  for (size_t k = 0; k < std::min(results.size(), exact.size()); ++k) {
    double scale = 1;
    for (double number : exact[k]) scale = std::max(scale, std::abs(number));
    const double unit = scale * std::numeric_limits<float>::epsilon();
    const double error = distance(results[k], exact[k]) / unit, yardstick = distance(scalar[k], exact[k]) / unit;
    const double share = error / (2 * yardstick + 4);
    expect(share <= 1, where,
           "result " + std::to_string(k) + " is " + std::to_string(error) + " eps from float64, scalar " +
               std::to_string(yardstick));
    Tally& tally = tallies[isa];
    tally.error = std::max(tally.error, error);
    tally.scalar = std::max(tally.scalar, yardstick);
    tally.share = std::max(tally.share, share);
  }
}

// Runs `body` on every instruction set and thread count; all must give nearly the same lists of numbers, and those in
// float32 be as near to float64 as the first, "scalar", is. Float64 comes first.
template <class T, class Body>
void on_all_machines(const std::string& name, const Body& body) {
  std::vector<Numbers<T>> first;
  for (int i = 0; i < irf::kIsaCount; ++i) {
    if (!irf::isa_available(Isa(i))) continue;
    irf::set_isa(Isa(i));
    for (const irf::Parallel& parallel : kParallels) {
      const std::string where = name + " " + kTypeName<T> + ", " + irf::isa_name(Isa(i)) + ", " +
                                std::to_string(parallel.threads) + " threads";
      const std::vector<Numbers<T>> results = body(where, parallel);
      if (first.empty()) first = results;
      for (size_t k = 0; k < results.size(); ++k) {
        expect(std::all_of(results[k].begin(), results[k].end(), [](T x) { return std::isfinite(x); }), where,
               "result " + std::to_string(k) + " is not finite");
        expect(close(results[k], first[k]), where, "result " + std::to_string(k) + " differs from the first run");
      }
      if constexpr (sizeof(T) == 4) judge(where, irf::isa_name(Isa(i)), results, first, exact_results.at(name));
    }
  }
  if constexpr (sizeof(T) == 8) exact_results[name] = first;
}

}  // namespace
