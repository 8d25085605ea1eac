// The ragged shapes the driver runs: sizes of 1, primes, vector widths and one more or less, kernels beyond the image.
#pragma once

#include <cstdint>
#include <vector>

#include "iresnet_fast/params.h"

namespace {

struct BranchCase {
  int64_t batch;
  int height, width;        // 0: dense
  std::vector<int> widths;  // channels before each stage and after the last
  std::vector<int> kernels;
  std::vector<irf::Activation> activations;
  bool biases;
  int probes;
  bool per_sample;                               // coefficients [B, n]
  std::vector<irf::Spread> bias_spreads = {};    // of every stage, or none: they are shared
  std::vector<irf::Spread> factor_spreads = {};  // of every stage, or none; kShared: a stage without a factor
};

// Weight [out, in / groups, kh, kw]; a matrix has height 0. Numbers as in NormLayer.
struct LayerCase {
  int out, in, height, width, kh, kw, sh, sw, ph, pw, dh, dw, groups;
};

std::vector<BranchCase> dense_cases() {
  using enum irf::Activation;
  return {
      {1, 0, 0, {1, 1}, {1}, {kTanh}, true, 1, false},
      {2, 0, 0, {3, 5, 3}, {1, 1}, {kIdentity, kElu}, false, 2, true},
      {7, 0, 0, {7, 15, 7}, {1, 1}, {kRelu, kSoftplus}, true, 1, false},
      {15, 0, 0, {8, 16, 8}, {1, 1}, {kLipSwish, kSin}, true, 3, true},
      {17, 0, 0, {9, 17, 31, 9}, {1, 1, 1}, {kIdentity, kLipSwish, kTanh}, true, 1, true},
      {33, 0, 0, {31, 33, 31}, {1, 1}, {kElu, kLipSwish}, false, 1, false},
      {130, 0, 0, {2, 19, 2}, {1, 1}, {kSin, kElu}, true, 2, false},
      {300, 0, 0, {3, 4, 3}, {1, 1}, {kLipSwish, kRelu}, true, 1, true},
      {1, 0, 0, {61, 2, 61}, {1, 1}, {kSoftplus, kIdentity}, true, 1, false},
  };
}

std::vector<BranchCase> image_cases() {
  using enum irf::Activation;
  return {
      {1, 1, 1, {1, 1}, {1}, {kTanh}, true, 1, false},
      {1, 1, 1, {2, 3, 2}, {3, 5}, {kElu, kRelu}, false, 1, false},
      {5, 5, 7, {2, 5, 3, 2}, {3, 1, 3}, {kIdentity, kElu, kLipSwish}, true, 2, true},
      {2, 3, 8, {1, 7, 1}, {3, 3}, {kTanh, kLipSwish}, true, 1, false},
      {3, 2, 9, {3, 4, 3}, {5, 1}, {kSin, kElu}, false, 3, false},
      {9, 14, 14, {2, 20, 3, 2}, {3, 1, 5}, {kIdentity, kElu, kLipSwish}, true, 1, false},
      {2, 2, 15, {1, 3, 1}, {3, 5}, {kSoftplus, kSoftplus}, true, 1, true},
      {4, 3, 16, {2, 6, 2}, {3, 3}, {kIdentity, kLipSwish}, true, 1, false},
      {2, 4, 17, {1, 2, 1}, {1, 3}, {kRelu, kTanh}, true, 2, false},
      {1, 2, 33, {1, 13, 1}, {3, 3}, {kElu, kSin}, true, 1, false},
      {2, 3, 4, {1, 2, 1}, {7, 5}, {kLipSwish, kElu}, true, 1, false},
      {7, 2, 3, {2, 9, 2}, {3, 1}, {kSin, kSoftplus}, true, 1, true},
  };
}

// Biases that are not shared, factors, constants of channels, and activations of no other case.
std::vector<BranchCase> operand_cases() {
  using enum irf::Activation;
  using enum irf::Spread;
  return {
      {3, 0, 0, {37, 4, 37}, {1, 1}, {kLeakyRelu, kHalfAbs}, true, 1, false},
      {19, 0, 0, {5, 7, 3, 9, 5}, {1, 1, 1, 1}, {kSelu, kGelu, kLeakyLSwish, kHardtanh}, true, 1, false},
      {5, 3, 7, {2, 5, 3, 2}, {3, 1, 3}, {kHardtanh, kSigmoid, kCelu}, true, 2, false},
      {6, 2, 5, {3, 4, 3}, {1, 3}, {kScaledSin, kSwish}, true, 1, false, {kSample, kPixel}, {kPixel, kSample}},
      {17,
       0,
       0,
       {9, 17, 31, 9},
       {1, 1, 1},
       {kIdentity, kLipSwish, kTanh},
       true,
       2,
       true,
       {kSample, kShared, kSample},
       {kSample, kSample, kSample}},
      {130, 0, 0, {3, 19, 3}, {1, 1}, {kHalfAbs, kElu}, true, 1, false, {kSample, kSample}, {kShared, kSample}},
      {1, 0, 0, {35, 5, 35}, {1, 1}, {kLipSwish, kIdentity}, true, 1, false, {kShared, kSample}, {kSample, kSample}},
      {300, 0, 0, {3, 4, 3}, {1, 1}, {kRelu, kHalfAbs}, true, 2, false, {kSample, kShared}, {kSample, kShared}},
      {3, 3, 5, {3, 4, 3}, {3, 1}, {kHalfAbs, kLeakyRelu}, true, 1, false},
      {5,
       5,
       7,
       {2, 5, 3, 2},
       {3, 1, 3},
       {kIdentity, kElu, kLipSwish},
       true,
       2,
       true,
       {kSample, kPixel, kSample},
       {kPixel, kSample, kSample}},
      {7, 2, 3, {2, 9, 2}, {3, 1}, {kSin, kHalfAbs}, true, 1, true, {kPixel, kSample}, {kSample, kPixel}},
      {2, 3, 16, {2, 6, 2}, {3, 3}, {kLipSwish, kIdentity}, true, 1, false, {kShared, kPixel}, {kSample, kPixel}},
      {3, 4, 17, {1, 2, 1}, {1, 3}, {kTanh, kRelu}, true, 2, false, {kSample, kPixel}, {kShared, kSample}},
      {2, 1, 1, {3, 5, 3}, {3, 1}, {kLipSwish, kElu}, true, 1, false, {kSample, kPixel}, {kPixel, kSample}},
  };
}

std::vector<LayerCase> layer_cases() {
  return {
      {3, 2, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1},   {1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1},
      {5, 7, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1},   {33, 3, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1},
      {2, 105, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1}, {3, 2, 5, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1},
      {2, 3, 3, 8, 5, 5, 1, 1, 2, 2, 1, 1, 1},   {2, 1, 2, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1},
      {1, 2, 3, 17, 3, 3, 1, 1, 1, 1, 1, 1, 1},  {2, 3, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1},
      {3, 2, 5, 6, 3, 3, 1, 1, 0, 0, 1, 1, 1},   {3, 4, 3, 5, 1, 1, 1, 1, 0, 0, 1, 1, 1},
      {3, 2, 5, 6, 2, 4, 1, 1, 1, 0, 1, 1, 1},   {2, 2, 5, 4, 3, 1, 1, 1, 1, 0, 1, 1, 1},
      {2, 2, 3, 4, 3, 3, 1, 1, 4, 3, 1, 1, 1},   {3, 2, 7, 9, 3, 3, 2, 2, 1, 1, 1, 1, 1},
      {4, 2, 6, 8, 3, 5, 3, 2, 1, 2, 1, 1, 1},   {3, 2, 7, 8, 2, 1, 3, 4, 0, 0, 1, 1, 1},
      {2, 2, 7, 5, 3, 3, 1, 1, 2, 2, 2, 2, 1},   {2, 3, 7, 6, 3, 2, 1, 2, 1, 0, 2, 3, 1},
      {4, 4, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1, 2},   {6, 3, 4, 5, 3, 3, 2, 1, 1, 1, 1, 1, 3},
      {6, 6, 9, 7, 3, 2, 2, 1, 1, 2, 2, 3, 3},
  };
}

}  // namespace
