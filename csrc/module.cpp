// The Python module iresnet_fast._C: what was built and which instruction set runs. The ops themselves are registered
// with torch by library.cpp and csrc/torch, when this library is loaded.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/isa.h"
#include "cpu/way.h"
#include "cuda/plan/plan.h"
#include "iresnet_fast/params.h"

namespace py = pybind11;

namespace irf {
extern const char* const kSources;  // sources.cpp
}

namespace {

// "a,b" -> {"a", "b"}, "" -> {}
std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> items;
  std::istringstream stream(list);
  for (std::string item; std::getline(stream, item, ',');) items.push_back(item);
  return items;
}

py::dict build_info() {
  py::dict info;
  info["version"] = IRF_BUILD_VERSION;
  info["torch"] = IRF_BUILD_TORCH;
  info["python"] = PY_VERSION;
  info["compiler"] = IRF_BUILD_COMPILER;
  info["isas"] = split(IRF_BUILD_ISAS);
  info["cuda_archs"] = split(IRF_BUILD_CUDA_ARCHS);
  info["cuda"] = IRF_BUILD_CUDA;
  info["sources"] = irf::kSources;
#ifdef NDEBUG
  info["debug"] = false;
#else
  info["debug"] = true;
#endif
  return info;
}

std::vector<std::string> cpu_isas() {
  std::vector<std::string> names;
  for (int i = 0; i < irf::kIsaCount; ++i) {
    if (irf::isa_available(irf::Isa(i))) names.push_back(irf::isa_name(irf::Isa(i)));
  }
  return names;
}

void set_cpu_isa(const std::string& name) {
  std::string available;
  for (int i = 0; i < irf::kIsaCount; ++i) {
    const irf::Isa isa = irf::Isa(i);
    if (!irf::isa_available(isa)) continue;
    if (name == irf::isa_name(isa)) return irf::set_isa(isa);
    available += (available.empty() ? "" : ", ") + std::string(irf::isa_name(isa));
  }
  throw py::value_error("set_cpu_isa: name must be an instruction set of this CPU and build (" + available +
                        "), got '" + name + "'.");
}

void force_cpu_way(const std::string& name) {
  if (!irf::force_way(name))
    throw py::value_error("force_cpu_way: name must be 'tiles', 'layers' or '', got '" + name + "'.");
}

// Architecture, multiprocessors, shared memory of a block and of a multiprocessor, second-level cache.
using CardNumbers = std::tuple<int, int, int, int, int64_t>;

std::map<std::string, CardNumbers> known_cards() {
  std::map<std::string, CardNumbers> cards;
  for (const irf::cuda::Card& card : irf::cuda::kKnownCards)
    cards[card.name] = {card.architecture, card.multiprocessors, card.shared_per_block, card.shared_per_multiprocessor,
                        card.l2_bytes};
  return cards;
}

// How the CUDA kernels would run one walk over a branch whose first activation is the identity, and no other is.
std::string describe_plan(const std::vector<int>& channels, const std::vector<int>& kernels, std::pair<int, int> image,
                          int64_t batch, int walk, int64_t probes, int repeats, bool sums, bool neumann, int precision,
                          int element_bytes, const std::string& card_name, const CardNumbers& card_numbers) {
  using namespace irf::cuda;
  if (kernels.empty() || kernels.size() > size_t(kMaxStages) || channels.size() != kernels.size() + 1)
    throw py::value_error("describe_plan: a branch must have 1 to " + std::to_string(kMaxStages) +
                          " stages, and one more number of channels than kernels.");
  BranchShape shape{};
  shape.stages = static_cast<int>(kernels.size());
  std::copy(channels.begin(), channels.end(), shape.channels);
  std::copy(kernels.begin(), kernels.end(), shape.kernel);
  shape.identity[0] = true;
  std::tie(shape.height, shape.width) = image;
  shape.batch = batch;
  const auto [architecture, multiprocessors, per_block, per_multiprocessor, l2_bytes] = card_numbers;
  const Card card{card_name.c_str(), architecture, multiprocessors, per_block, per_multiprocessor, 0, l2_bytes, true};
  const WalkRequest request{static_cast<WalkKind>(walk), probes, repeats, sums, neumann};
  const Precision chosen = cheapest_precision(shape, request, static_cast<Precision>(precision), element_bytes, card);
  const ResidentPlan plan = plan_walk(shape, request, chosen, element_bytes, card);
  return describe_walk(shape, request, plan, card, element_bytes);
}

template <class T>
py::dict cpu_way_of(const std::vector<int>& channels, const std::vector<int>& kernels, std::pair<int, int> image,
                    int64_t batch, const irf::Work& work, int threads) {
  std::vector<irf::Stage<T>> stages;
  for (size_t i = 0; i < kernels.size(); ++i)
    stages.push_back({irf::Activation::kIdentity, channels[i], channels[i + 1], kernels[i], nullptr, nullptr, nullptr});
  const irf::Branch<T> branch{int(stages.size()), stages.data(), image.first, image.second, batch};
  const irf::Parallel parallel{threads, nullptr};
  const irf::Kernels<T>& table = irf::kernels<T>();
  const irf::TileSizes tiles = table.tile_sizes(branch, parallel);
  const irf::WayCounts counts = irf::way_counts(branch, work, threads, tiles);
  const irf::WayTimes times = irf::way_times(counts, branch.dense());
  py::dict result;
  result["layers"] = irf::choose_way(branch, work, parallel, table) == irf::Way::kLayers;
  result["cores"] = tiles.chunks;
  result["samples"] = tiles.samples;
  result["tiles"] = tiles.tiles;
  result["columns"] = tiles.columns;
  result["nanoseconds"] = std::vector<double>{times.tiles, times.layers};
  result["tile_counts"] = counts.tiles;
  result["layer_counts"] = counts.layers;
  return result;
}

// How the CPU kernels would go over a branch, and what the rule counts to say so; see cpu/way.h.
py::dict cpu_way(const std::vector<int>& channels, const std::vector<int>& kernels, std::pair<int, int> image,
                 int64_t batch, int64_t stacked, int64_t events, int64_t chain, int64_t probes, bool gradients,
                 int threads, int element_bytes) {
  if (kernels.empty() || channels.size() != kernels.size() + 1)
    throw py::value_error("cpu_way: a branch must have one more number of channels than kernels, and a kernel.");
  const irf::Work work{stacked, events, chain, probes, gradients};
  return (element_bytes == 8 ? cpu_way_of<double> : cpu_way_of<float>)(channels, kernels, image, batch, work, threads);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of iresnet_fast: build metadata and choice of the instruction set.";
  m.def("build_info", &build_info, "What the extension was built with, as a dict.");
  m.def("cpu_isa", [] { return irf::isa_name(irf::current_isa()); }, "Instruction set in use.");
  m.def("cpu_bf16", &irf::bf16_available, "Whether the instruction set in use has products of bfloat16 operands.");
  m.def("cpu_isas", &cpu_isas, "Instruction sets that were built and that this CPU can run, worst first.");
  m.def("cpu_isa_message", &irf::isa_message, "Why IRESNET_FAST_CPU_ISA was not honoured, or ''.");
  m.def("set_cpu_isa", &set_cpu_isa, py::arg("name"), "Use this instruction set from now on.");
  m.def("force_cpu_way", &force_cpu_way, py::arg("name"),
        "For tests: 'tiles' or 'layers' from now on; '' chooses by the rule again.");
  m.def("cpu_way", &cpu_way, "How the CPU kernels would go over a branch; see iresnet_fast/_plan.py.",
        py::arg("channels"), py::arg("kernels"), py::arg("image"), py::arg("batch"), py::arg("stacked"),
        py::arg("events"), py::arg("chain"), py::arg("probes"), py::arg("gradients"), py::arg("threads"),
        py::arg("element_bytes"));
  m.def("known_cards", &known_cards, "GPUs whose limits are known here, as name -> limits.");
  m.def("describe_plan", &describe_plan,
        "How the CUDA kernels would run a branch on a card; see iresnet_fast/_plan.py.", py::arg("channels"),
        py::arg("kernels"), py::arg("image"), py::arg("batch"), py::arg("walk"), py::arg("probes"), py::arg("repeats"),
        py::arg("sums"), py::arg("neumann"), py::arg("precision"), py::arg("element_bytes"), py::arg("card_name"),
        py::arg("card_numbers"));
  m.def("cuda_arch_list", [] { return split(IRF_BUILD_CUDA_ARCHS); }, "CUDA architectures built for.");
}
