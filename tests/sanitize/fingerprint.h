// Fingerprints of arrays of exactly the bytes they have, at any address: the same on every machine.
#pragma once

#include "checks.h"

namespace {

void check_fingerprint() {
  std::vector<Numbers<char>> arrays;
  std::vector<const void*> weight;
  std::vector<int64_t> bytes;
  for (int64_t size = 0; size < 300; ++size) {
    const Numbers<float> numbers = random_numbers<float>(size + 1, 100);
    Numbers<char> array(size + size % 8);
    for (size_t i = 0; i < array.size(); ++i) array[i] = static_cast<char>(numbers[i % numbers.size()]);
    arrays.push_back(std::move(array));
    weight.push_back(arrays.back().data() + size % 8);
    bytes.push_back(size);
  }
  Numbers<uint64_t> first;
  for (int i = 0; i < irf::kIsaCount; ++i) {
    if (!irf::isa_available(Isa(i))) continue;
    irf::set_isa(Isa(i));
    for (const irf::Parallel& parallel : kParallels) {
      Numbers<uint64_t> result(weight.size(), 0);
      irf::kernels<float>().fingerprint({int(weight.size()), weight.data(), bytes.data(), result.data()}, parallel);
      if (first.empty()) first = result;
      expect(result == first, std::string("fingerprint, ") + irf::isa_name(Isa(i)), "differs from the first run");
    }
  }
}

}  // namespace
