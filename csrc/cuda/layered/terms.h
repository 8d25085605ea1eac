// How many terms of a series the layered way sums up at once.
#pragma once

namespace irf::cuda {

// Without a stop nothing waits for the sums of a term: those of so many terms are finished by one launch.
constexpr int kTermsAtOnce = 16;

}  // namespace irf::cuda
