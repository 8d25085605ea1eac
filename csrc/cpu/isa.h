// Which copy of the CPU kernels runs: the instruction sets, what this CPU offers, and the one in use.
//
// Declarations only: kernel units compiled for a wider instruction set include this file, and an inline function here
// could be merged with their copy of it.
#pragma once

#include <string>

namespace irf {

enum class Isa { kScalar, kNeon, kAvx2, kAvx512 };  // ordered: a later one is preferred

constexpr int kIsaCount = 4;

// "scalar", "neon", "avx2" or "avx512".
const char* isa_name(Isa isa);

// Whether the kernels for `isa` were built and this CPU (and its operating system) can run them.
bool isa_available(Isa isa);

// The instruction set in use: at first the best available, or IRESNET_FAST_CPU_ISA if that names an available one.
Isa current_isa();

// Use `isa`, which must be available, from the next kernel call on, in all threads.
void set_isa(Isa isa);

// Whether the instruction set in use has products of bfloat16 operands with float32 sums: AVX-512 on a CPU that has its
// extension for them.
bool bf16_available();

// Why IRESNET_FAST_CPU_ISA was not honoured, in one sentence; empty if it was, or was not set.
const std::string& isa_message();

}  // namespace irf
