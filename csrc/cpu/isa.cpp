#include "cpu/isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace irf {
namespace {

constexpr const char* kNames[kIsaCount] = {"scalar", "neon", "avx2", "avx512"};

struct State {
  std::atomic<Isa> isa{Isa::kScalar};
  std::string message;

  State() {
    for (int i = 0; i < kIsaCount; ++i) {
      if (isa_available(Isa(i))) isa = Isa(i);
    }
    const char* wanted = std::getenv("IRESNET_FAST_CPU_ISA");
    if (wanted == nullptr || *wanted == '\0') return;
    for (int i = 0; i < kIsaCount; ++i) {
      if (std::strcmp(wanted, kNames[i]) == 0 && isa_available(Isa(i))) {
        isa = Isa(i);
        return;
      }
    }
    message = std::string("IRESNET_FAST_CPU_ISA=") + wanted + " is unknown or not available on this CPU: using " +
              isa_name(isa) + " instead.";
  }
};

// Built at the first use, not at load time: the environment is read once, and no order of initialisation matters.
State& state() {
  static State instance;
  return instance;
}

}  // namespace

const char* isa_name(Isa isa) { return kNames[int(isa)]; }

bool isa_available(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
#if defined(__aarch64__)
    case Isa::kNeon:  // part of the architecture
      return true;
#elif defined(__x86_64__)
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512:  // -mfma too: its kernels are built with it
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
#endif
    default:
      return false;
  }
}

Isa current_isa() { return state().isa.load(std::memory_order_relaxed); }

void set_isa(Isa isa) { state().isa.store(isa, std::memory_order_relaxed); }

bool bf16_available() {
#ifdef __x86_64__
  return current_isa() == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

const std::string& isa_message() { return state().message; }

}  // namespace irf
